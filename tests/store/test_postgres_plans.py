"""No question and no change of the store makes PostgreSQL read a large table from end to end: it tells the plans it used.

The module ``auto_explain`` of the server tells the plan of every statement that it runs, those of its functions and
triggers too, for the values that were asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from cis.model.states import RunState
from cis.store import Shared, open_store
from cis.store.postgres.store import PostgresStore
from cis.store.records import EventRecord, RunFilter
from tests.store.questions import BIG, COMBINATIONS, FILTERS, OTHERS, QUESTIONS
from tests.worlds.postgres import PostgresServer
from tests.worlds.rows import item, put_run, worker

ROWS = 20_000
VALUES = {
    "run_id": "'f' || lpad(g::text, 6, '0')",
    "dag_id": "'dag' || g % 50",
    "definition_id": "g",
    "worker_id": "'worker-project-' || g % 200",
    "node_id": "'n' || g % 2",
    "owner_node": "'n' || g % 2",
    "scope_type": "'project'",
    "scope_id": "(g % 200)::text",
    "finished_at_us": "g",
    "accepted": "g",
    "priority": "20",
    "task_no": "0",
    "attempt": "1",
    ("peers", "node_id"): "'p' || g",
    ("worker_queue", "status"): "'queued'",
    ("offers", "state"): "'closed'",
    ("room_events", "state"): "'done'",
    "status": "'completed'",
}
COLUMNS = (
    "SELECT column_name, data_type, is_nullable = 'YES' FROM information_schema.columns"
    " WHERE table_schema = current_schema() AND table_name = %s AND is_identity = 'NO'"
)
LISTEN = (
    "LOAD 'auto_explain'",
    "SET auto_explain.log_min_duration = 0",
    "SET auto_explain.log_nested_statements = on",
    "SET auto_explain.log_level = notice",
)
SCAN = re.compile(rf"Seq Scan on ({'|'.join(BIG)})\b")


class UndoneError(Exception):
    """Ends a transaction of which nothing is to be kept."""


@pytest.fixture(scope="module")
def url(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database with many rows in each table that may be large."""
    with postgres.database() as url:
        with psycopg.connect(url) as connection:
            connection.execute("SET session_replication_role = replica")  # no triggers, no references
            for table in BIG:
                columns = connection.execute(COLUMNS, (table,)).fetchall()
                chosen = {name: value for name, kind, may in columns if (value := value_of(table, name, kind, may=may))}
                names, values = ", ".join(chosen), ", ".join(chosen.values())
                insert = f"INSERT INTO {table} ({names}) SELECT {values} FROM generate_series(1, {ROWS}) g"  # noqa: S608
                connection.execute(insert.encode())
            connection.execute("UPDATE event_numbers SET last = %s", (ROWS,))
            connection.execute("SELECT setval('run_acceptances', %s)", (ROWS,))
        store = open_store(Shared(url, tmp_path_factory.mktemp("home")))
        for number in range(20):
            put_run(store, f"r{number:03}", status=list(RunState)[number % 6])
        with store.transaction():
            store.events.append([EventRecord(kind="run", at_us=1, status="x")])
            store.workers.take(worker())
            store.queue.add("n", item("r000"))
        store.close()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
        yield url


def value_of(table: str, column: str, kind: str, *, may: bool) -> str | None:
    """Return what a column of a row holds, in SQL; None where it may be left out."""
    said = VALUES.get((table, column), VALUES.get(column))
    if said is not None or may:
        return said
    return "g" if kind == "bigint" else "'x' || g"


@pytest.fixture(scope="module")
def told(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Callable[[Any], Any]], list[str]]]:
    """Return what gives the plans of all statements that a function has the store run; nothing of it is kept."""
    store = open_store(Shared(url, tmp_path_factory.mktemp("home")))
    assert isinstance(store, PostgresStore)
    plans: list[str] = []
    for statement in LISTEN:
        store._db.connection.execute(statement.encode())
    store._db.connection.add_notice_handler(lambda notice: plans.append(notice.message_primary or ""))

    def tell(ask: Callable[[Any], Any]) -> list[str]:
        plans.clear()
        with suppress(UndoneError), store.transaction():
            ask(store)
            raise UndoneError
        return list(plans)

    yield tell
    store.close()


@pytest.mark.parametrize("ask", [*QUESTIONS, *OTHERS])
def test_every_question_and_change_searches_an_index(
    told: Callable[[Callable[[Any], Any]], list[str]], ask: Callable[[Any], Any]
) -> None:
    plans = told(ask)

    assert plans
    scans = [plan for plan in plans if SCAN.search(plan)]
    assert not scans, scans[0]


@pytest.mark.parametrize("names", COMBINATIONS, ids="+".join)
def test_a_list_of_runs_is_found_in_an_index_and_nothing_is_sorted(
    told: Callable[[Callable[[Any], Any]], list[str]], names: tuple[str, ...]
) -> None:
    where = RunFilter(**{name: FILTERS[name] for name in names})  # type: ignore[arg-type]
    plans = told(lambda store: store.runs.page(where, limit=5))

    assert plans
    scans = [plan for plan in plans if SCAN.search(plan)]
    assert not scans, scans[0]


def test_a_question_that_reads_a_whole_table_would_be_seen(told: Callable[[Callable[[Any], Any]], list[str]]) -> None:
    plans = told(lambda store: store._db.rows("SELECT count(*) FROM dag_runs WHERE error = 'odd'"))

    assert [SCAN.search(plan) is not None for plan in plans] == [True]
