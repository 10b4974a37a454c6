"""One value of a database is overwritten by what no program writes, and then all that reads it is called.

Whatever the value is: only our own errors come out, and two runs that it does not belong to go on to their ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import apsw

from cis.store.sqlite.store import SqliteStore
from tests.chaos.fuzzing.household import TASKS, Household
from tests.chaos.fuzzing.trees import changed, dumped

DEEP = 50_000
NUMBERS = (0, 1, -1, 7, 2**31, 2**53, 2**53 + 1, 10**18, 2**63 - 1, -(2**63))
TEXTS = (
    "''",
    "'odd'",
    "'x/../../y'",
    "'completed'",
    "'running'",
    "'{'",
    "'{}'",
    "'[1]'",
    "'null'",
    "'1e999'",
    "'NaN'",
    "'" + "[" * DEEP + "'",
    "'" + "[" * DEEP + "]" * DEEP + "'",
    "'" + '{"a":' * DEEP + "1" + "}" * DEEP + "'",
    "replace(hex(zeroblob(250000)), '00', 'xy')",
    "CAST(x'ff61' AS TEXT)",
    "CAST(x'610062' AS TEXT)",
    "CAST(x'eda080' AS TEXT)",
    "'💥\u202e'",
    "'-1'",
    "'worker-user-x'",
    "'node-1'",
)
_DEEP = tuple(text for text in TEXTS if len(text) > DEEP)
_JSON: dict[str, Any] = {
    "dag_json": {"dag_id": "demo", "labels": ["gpu"], "target_node": "node-1", "tasks": list(TASKS)},
    "document": {"dag_id": "demo", "labels": ["gpu"], "target_node": "node-1", "tasks": list(TASKS)},
    "outputs": {"x": "y"},
    "data": {"attempt": 1},
    "fields": {"action": "cancel", "seq": 1, "node_id": "node-2", "epoch": 1, "lease_ms": 1000},
    "content": {"sender": "node-2", "v": 1, "labels": ["gpu"], "lease_ms": 60_000, "unfit": False},
}
_OF_WORKERS = {"dag_runs", "run_tasks", "task_executions", "worker_queue", "workers", "remote_runs"}
# What SQLite numbers by itself: one that is the highest there is ends every insert, whatever reads it.
_OWN_KEYS = {("events", "seq"), ("audit", "seq"), ("room_events", "seq"), ("worker_queue", "queue_id")}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    table: str
    name: str
    type: str
    required: bool


def columns(store: SqliteStore) -> Sequence[Column]:
    """Return every column of every table."""
    tables = [name for (name,) in store._db.rows("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
    return [
        Column(table, name, kind, bool(required or key))
        for table in tables
        if not table.startswith("sqlite_")
        for _, name, kind, required, _, key in store._db.rows(f"PRAGMA table_info({table})")
    ]


def aims(found: Sequence[Column]) -> Sequence[Column]:
    """Return the columns in the order in which they are aimed at: where more can be wrong, more often."""
    rich = [column for column in found if column.name in _JSON]
    return [*found, *(rich * 6)]


def moves_workers(column: Column) -> bool:
    """Whether a worker reads this column."""
    return column.table in _OF_WORKERS


def odd_value(column: Column, chance: Random) -> str:
    """Return an SQL expression for a value that the column admits."""
    if not column.required and chance.random() < 0.1:
        return "NULL"
    if column.type == "INTEGER":
        own = (column.table, column.name) in _OWN_KEYS
        number = chance.choice(NUMBERS[:5] if own else NUMBERS)
        return str(number) if number > -(2**63) else "-9223372036854775807 - 1"
    if column.name in _JSON and chance.random() < 0.2:
        return chance.choice(_DEEP)
    if column.name in _JSON and chance.random() < 0.7:
        text = dumped(changed(_JSON[column.name], chance, times=chance.choice((1, 1, 2, 4))))
        return "'" + text.replace("'", "''") + "'"
    return chance.choice(TEXTS)


def spoil(store: SqliteStore, house: Household, column: Column, chance: Random) -> str | None:
    """Overwrite one value of a row that is no innocent run's; return what was done, or None if SQLite refused it."""
    value = odd_value(column, chance)
    where = _row(store, house, column.table, chance)
    if where is None:
        return None
    sql = f"UPDATE {column.table} SET {column.name} = {value} WHERE {where}"  # noqa: S608 - made here
    store._db.connection.execute("PRAGMA foreign_keys = OFF; DROP TRIGGER IF EXISTS audit_keeps_words")
    try:
        store._db.connection.execute(sql)
    except apsw.ConstraintError:
        return None
    finally:
        store._db.connection.execute("PRAGMA foreign_keys = ON")
    return sql


def _row(store: SqliteStore, house: Household, table: str, chance: Random) -> str | None:
    keys = [name for _, name, _, _, _, key in store._db.rows(f"PRAGMA table_info({table})") if key]
    listed = store._db.rows(f"SELECT {', '.join(keys)} FROM {table}")  # noqa: S608 - names of the schema
    free = [row for row in listed if not set(house.innocent) & set(row)]
    if table == "worker_queue":
        free = store._db.rows("SELECT queue_id FROM worker_queue WHERE run_id NOT IN (?, ?)", house.innocent)
    if not free:
        return None
    row = chance.choice(free)
    return " AND ".join(f"{key} = {apsw.format_sql_value(value)}" for key, value in zip(keys, row, strict=True))
