"""A database of every earlier schema, with rows, is opened by this program: history intact, work in flight goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import apsw
import pytest

from cis.store import kept_node_id, open_store
from cis.store.sqlite.migrate import NEWEST, migrations
from tests.worlds.battery import LONG, figures, size
from tests.worlds.harness import Sandbox, make_sandbox

SCHEMAS = range(1, NEWEST + 1)
WORKED_IN = SCHEMAS if LONG else sorted({*SCHEMAS[::4], NEWEST - 1, NEWEST})  # a node is started for each
COMPUTED: Mapping[str, Mapping[str, Any]] = {"worker_queue": {"below": 1}}  # each run of ``fill`` is a task of another
Rows = Mapping[str, list[dict[str, Any]]]
HISTORY = (Path(__file__).parent / "history.sql").read_text(encoding="utf-8")


def old_database(path: Path, schema: int) -> apsw.Connection:
    """Make a database as the program of that schema made it."""
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", "wal")
    for number, file in migrations()[:schema]:
        connection.execute(file.read_text(encoding="utf-8"))
        connection.execute(f"PRAGMA user_version = {number}")
    return connection


def tables(connection: apsw.Connection) -> list[str]:
    """Return the tables, those that others refer to first."""
    names = [name for (name,) in connection.execute(_TABLES)]
    parents = {name: {row[2] for row in connection.execute(f"PRAGMA foreign_key_list({name})")} for name in names}
    ordered: list[str] = []
    while len(ordered) < len(names):
        ordered += [name for name in names if name not in ordered and parents[name] <= set(ordered)]
    return ordered


# Not the table in which the program notes what it has done to the others.
_TABLES = (
    "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name != 'schema_steps'"
    " ORDER BY name"
)


def fill(connection: apsw.Connection) -> None:
    """Put three rows into every table: a value in each column, that of the row it refers to where it refers to one."""
    for table in tables(connection):
        references = {row[3]: row[2] for row in connection.execute(f"PRAGMA foreign_key_list({table})")}
        columns = [(row[1], row[2]) for row in connection.execute(f"PRAGMA table_info({table})")]
        for number in (1, 2, 3):
            row = {
                name: number if kind == "INTEGER" else f"{references.get(name, table)}-{number}-ö"
                for name, kind in columns
            }
            names = ", ".join(row)
            marks = ", ".join("?" * len(row))
            connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(row.values()))  # noqa: S608


def contents(connection: apsw.Connection) -> Rows:
    """Return every row of every table, by column."""
    found: dict[str, list[dict[str, Any]]] = {}
    for table in tables(connection):
        names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        rows = connection.execute(f"SELECT {', '.join(names)} FROM {table}")  # noqa: S608 - our own tables
        found[table] = [dict(zip(names, row, strict=True)) for row in rows]
    return found


def defaults(connection: apsw.Connection, table: str) -> dict[str, Any]:
    """Return what each column of a table is where nobody says otherwise."""
    listed = [(row[1], row[4]) for row in connection.execute(f"PRAGMA table_info({table})")]
    return {name: None if default is None else connection.execute(f"SELECT {default}").get for name, default in listed}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_row_of_an_earlier_schema_keeps_its_values_and_gets_the_defaults_of_new_columns(
    tmp_path: Path, schema: int
) -> None:
    connection = old_database(tmp_path / "cis.db", schema)
    fill(connection)
    before = contents(connection)
    connection.close()
    store = open_store(tmp_path / "cis.db")
    after = contents(store._db.connection)
    expected = {
        table: [{**defaults(store._db.connection, table), **COMPUTED.get(table, {}), **row} for row in rows]
        for table, rows in before.items()
    }
    faults = store.upkeep.faults()
    store.close()

    assert all(len(rows) == 3 for rows in before.values())
    assert {table: after[table] for table in before} == expected
    assert not any(after[table] for table in after if table not in before)
    assert faults == []


@pytest.fixture
def upgraded(tmp_path: Path, request: pytest.FixtureRequest) -> Sandbox:
    """A home whose database is of an earlier schema, with runs that are over, run and wait."""
    sandbox = make_sandbox(tmp_path)
    sandbox.home.mkdir(mode=0o700)
    (sandbox.home / "cis.toml").write_text('[node]\nid = "node-1"\n')
    connection = old_database(sandbox.home / "cis.db", request.param)
    connection.execute(HISTORY)
    connection.close()
    (sandbox.home / "cis.db").chmod(0o600)
    return sandbox


@pytest.mark.parametrize("upgraded", SCHEMAS, indirect=True)
def test_commands_show_the_history_of_an_earlier_schema(upgraded: Sandbox) -> None:
    """What was stored without a scope is global."""
    runs = upgraded.json("dag", "list")
    status = upgraded.json("dag", "status", "old", "--run", "run-1")
    logs = upgraded.json("dag", "logs", "old", "--run", "run-1")
    definitions = upgraded.json("dag", "definitions")
    tokens = upgraded.json("token", "list")
    audit = upgraded.json("audit")
    checked = upgraded.json("db", "check")
    listed = {one["run_id"]: one for one in runs}
    (definition,) = definitions

    assert {run_id: one["status"] for run_id, one in listed.items()} == {
        "run-1": "completed",
        "run-2": "failed",
        "run-3": "running",
        "run-4": "pending",
    }
    assert listed["run-1"]["scope"] == {"type": "global", "id": None}
    assert listed["run-4"]["scope"] == {"type": "project", "id": "proj-a"}
    assert [task["status"] for task in status["runs"][0]["tasks"]] == ["completed", "completed"]
    assert status["runs"][0]["tasks"][0]["outputs"] == {"path": "/x"}
    assert "hello" in json.dumps(logs)
    assert definition["scope"] == {"type": "global", "id": None}
    assert [one["name"] for one in tokens] == ["reader"]
    assert [one["action"] for one in audit] == ["token.create"]
    assert checked["ok"]


@pytest.mark.parametrize("upgraded", WORKED_IN, indirect=True)
def test_work_in_flight_in_an_earlier_schema_goes_on(upgraded: Sandbox) -> None:
    """The worker is gone, so its task is lost and tried again; what is over stays as it is."""
    over = "SELECT * FROM task_executions WHERE run_id IN ('run-1', 'run-2') ORDER BY 1, 2, 3"
    before = upgraded.rows(over)
    with upgraded.node() as node:
        finished = {run_id: node.finished(run_id)["status"] for run_id in ("run-3", "run-4")}
        fresh = node.finished(node.execute({"dag_id": "new", "tasks": [{"id": "t", "command": "true"}]}).body["run_id"])

    assert finished == {"run-3": "completed", "run-4": "completed"}
    assert fresh["status"] == "completed"
    assert upgraded.rows(
        "SELECT attempt, status FROM task_executions WHERE run_id = 'run-3' ORDER BY task_no, attempt"
    ) == [
        (1, "lost"),
        (2, "completed"),
        (1, "completed"),
    ]
    assert [row[: len(old)] for row, old in zip(upgraded.rows(over), before, strict=True)] == before


def test_a_number_that_an_earlier_program_wrote_over_the_newer_one_does_no_harm(tmp_path: Path) -> None:
    """Programs of schema 6 do so at each ``GET /ready``, when a newer one has migrated the database under them."""
    open_store(tmp_path / "cis.db").close()
    connection = apsw.Connection(str(tmp_path / "cis.db"))
    connection.execute("PRAGMA user_version = 6")
    connection.close()
    store = open_store(tmp_path / "cis.db")
    version, faults = store._db.connection.pragma("user_version"), store.upkeep.faults()
    store.close()

    assert (version, faults) == (NEWEST, [])


def test_a_home_of_an_earlier_schema_gets_the_id_under_which_most_of_its_work_waits(tmp_path: Path) -> None:
    connection = old_database(tmp_path / "cis.db", 6)
    connection.execute(HISTORY)
    kept = [kept_node_id(tmp_path / "cis.db")]
    connection.execute(
        "INSERT INTO workers SELECT 'renamed', worker_id, scope_type, scope_id, status, pid, pid_started, epoch, slots,"
        " started_at_us, heartbeat_at_us + 1, lease_until_us, runs_done, current_run FROM workers"
    )
    kept.append(kept_node_id(tmp_path / "cis.db"))
    connection.execute("DELETE FROM worker_queue")
    kept.append(kept_node_id(tmp_path / "cis.db"))
    connection.execute("DELETE FROM workers")
    kept.append(kept_node_id(tmp_path / "cis.db"))
    connection.close()

    assert kept == ["node-1", "node-1", "renamed", "node-1"]
    assert kept_node_id(tmp_path / "none.db") is None


DYING = """
import os, signal, sys
from pathlib import Path
import apsw
from cis.store import open_store
left = int(sys.argv[2])
def trace(cursor, sql, bindings):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return True
apsw.connection_hooks.append(lambda connection: connection.set_exec_trace(trace))
open_store(Path(sys.argv[1])).close()
"""


def test_a_program_killed_in_the_middle_of_a_migration_leaves_a_whole_schema_and_every_row(tmp_path: Path) -> None:
    """At each statement in the long form, at every sixth in the short one."""
    whole = {schema_of(old_database(tmp_path / f"{schema}.db", schema)) for schema in SCHEMAS}
    path = tmp_path / "cis.db"
    kills = 0
    for statement in range(1, 200, size(6, 1)):
        for old in tmp_path.glob("cis.db*"):
            old.unlink()
        connection = old_database(path, 1)
        fill(connection)
        before = contents(connection)
        connection.close()
        ended = subprocess.run([sys.executable, "-c", DYING, str(path), str(statement)], check=False).returncode
        connection = apsw.Connection(str(path))
        rows, schema = contents(connection), schema_of(connection)
        open_store(path).close()

        assert schema in whole
        for table, were in before.items():  # a later schema has columns more
            assert [{name: row[name] for name in was} for row, was in zip(rows[table], were, strict=True)] == were
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        kills += 1
    figures("upgrade", schemas=len(SCHEMAS), kills=kills)
    assert kills > 5


def schema_of(connection: apsw.Connection) -> str:
    """Return all that a database is made of, and close it."""
    found = connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY type, name").fetchall()
    version = connection.pragma("user_version")
    connection.close()
    return repr((version, found))


def test_what_is_on_offer_is_offered_again_once_grants_say_which_claim_they_answer(tmp_path: Path) -> None:
    """Nodes of now claim nothing that was offered without nonces; under its old id a homeserver would take it for known."""
    before = old_database(tmp_path / "cis.db", 6)
    values = "'1', 'run-1', 'room', 20, 1, 9, 9, 1, '{}'"
    columns = "node_id, message_id, run_id, route, priority, created_at_us, expires_at_us, due_at_us, attempts, fields"
    for node_id, kind, number in (("", "execute", 1), ("node-2", "execute", 2), ("", "grant", 3)):
        row = f"'{node_id}', 'm{number}', {values.partition(', ')[2]}, 'io.cis.dag.{kind}'"
        before.execute(f"INSERT INTO outbox ({columns}, kind) VALUES ({row})")  # noqa: S608 - a test's own words
    before.close()
    store = open_store(tmp_path / "cis.db")
    found = {item.message_id: item.due_at_us for item in store.outbox.of_run("run-1")}
    store.close()

    assert found == {"m1.again": 0, "m2": 9, "m3": 9}
