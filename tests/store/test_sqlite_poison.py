"""A row that cannot be read is set aside and reported; it never stops what goes on around it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cis.engine.leases import Leases
from cis.engine.run.adoption import hold
from cis.engine.run.live import LiveAttempts
from cis.engine.run.parts import Holdings
from cis.engine.run.reading import RunReading
from cis.engine.times import Instant
from cis.errors import PoisonRecordError
from cis.executors.local import LocalExecutor
from cis.model.states import AttemptState, Priority, RunState, TaskState
from cis.skills.registry import InstalledSkills
from cis.store import open_store
from cis.store.access_records import AuditRecord, TokenRecord
from cis.store.port import read_spec
from cis.store.records import EventRecord, RunFilter
from cis.store.sqlite.store import SqliteStore
from tests.worlds.migrated import new_database
from tests.worlds.rows import SCOPE, WORKER, attempt, attempts_of, definition, item, put_run, worker

BROKEN_TEXT = "CAST(x'ff61' AS TEXT)"
TWO_TASKS = '{"dag_id":"d","tasks":[{"command":"true","id":"t0"},{"command":"true","id":"t1"}]}'
NOW = Instant(wall_us=1_000, mono_s=0.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """A store with three queued runs."""
    store = open_store(new_database(tmp_path))
    for run_id in ("r1", "r2", "r3"):
        put_run(store, run_id)
        with store.transaction():
            store.queue.add("n", item(run_id, dag_json=TWO_TASKS))
    yield store
    store.close()


def damage(store: SqliteStore, table: str, change: str, *, where: str = "run_id = 'r2'") -> None:
    """Change one row as no code of this program would."""
    store._db.connection.execute("PRAGMA foreign_keys = OFF; DROP TRIGGER IF EXISTS audit_keeps_words")
    with store.transaction():
        assert store._db.write(f"UPDATE {table} SET {change} WHERE {where}") == 1  # noqa: S608 - constants of this file


@pytest.mark.parametrize("change", ["status = 'odd'", "scope_type = 'odd'", "priority = 7", f"error = {BROKEN_TEXT}"])
def test_a_list_of_runs_leaves_out_the_one_that_cannot_be_read_and_says_so(
    store: SqliteStore, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage(store, "dag_runs", change)
    page = store.runs.page(RunFilter(), limit=10)

    assert [run.run_id for run in page.items] == ["r3", "r1"]
    assert "a row was left out" in caplog.messages
    with pytest.raises(PoisonRecordError):
        store.runs.get("r2")


@pytest.mark.parametrize("change", ["owner_node = CAST(x'6dff' AS TEXT)", "owner_node = ''", f"status = {BROKEN_TEXT}"])
@pytest.mark.parametrize(
    "where", [RunFilter(dag_id="d", status=RunState.PENDING), RunFilter(node="n"), RunFilter(scope=SCOPE)]
)
def test_a_value_that_is_none_hides_no_run_of_another_one(store: SqliteStore, change: str, where: RunFilter) -> None:
    """Such values lie in the index before and between those that are some."""
    damage(store, "dag_runs", change)

    assert [run.run_id for run in store.runs.page(where, limit=10).items if run.run_id != "r2"] == ["r3", "r1"]


def test_pages_go_on_past_a_run_that_cannot_be_read(store: SqliteStore) -> None:
    damage(store, "dag_runs", "status = 'odd'")
    first = store.runs.page(RunFilter(), limit=2)
    rest = store.runs.page(RunFilter(), limit=2, cursor=first.next_cursor)

    assert [run.run_id for run in (*first.items, *rest.items)] == ["r3", "r1"]


def test_pages_go_on_past_a_run_whose_text_is_none(store: SqliteStore) -> None:
    damage(store, "dag_runs", f"error = {BROKEN_TEXT}")
    seen: list[str] = []
    cursor = None
    while True:
        page = store.runs.page(RunFilter(), limit=1, cursor=cursor)
        seen += [run.run_id for run in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break

    assert seen == ["r3", "r1"]


@pytest.mark.parametrize("change", ["outputs = '{'", "outputs = '[1]'", "status = 'odd'", f"error = {BROKEN_TEXT}"])
def test_the_tasks_of_a_run_are_all_there_or_none(store: SqliteStore, change: str) -> None:
    damage(store, "run_tasks", change, where="run_id = 'r2' AND task_no = 1")

    with pytest.raises(PoisonRecordError):
        store.tasks.of_run("r2")
    assert len(store.tasks.of_run("r1")) == 2


@pytest.mark.parametrize("change", ["priority = 7", f"dag_json = {BROKEN_TEXT}", "dag_json = '{'"])
def test_a_queued_run_that_cannot_be_read_is_claimed_once_with_no_dag_in_it(store: SqliteStore, change: str) -> None:
    damage(store, "worker_queue", change)
    with store.transaction():
        claimed = store.queue.claim("n", WORKER, epoch=1, limit=10)
        again = store.queue.claim("n", WORKER, epoch=1, limit=10)

    assert sorted(one.run_id for one in claimed) == ["r1", "r2", "r3"]
    assert again == []
    with store.transaction():
        held = store.queue.hand_over("n", WORKER, epoch=2)
    assert sorted(one.run_id for one in held) == ["r1", "r2", "r3"]
    poison = next(one for one in claimed if one.run_id == "r2")
    with pytest.raises(PoisonRecordError):
        read_spec(poison.dag_json)


def test_an_unknown_priority_does_not_hide_the_rest_of_the_demand(store: SqliteStore) -> None:
    damage(store, "worker_queue", "priority = 77")
    damage(store, "worker_queue", "worker_id = 'odd'", where="run_id = 'r3'")
    demand = store.queue.demand("n")

    assert [(one.worker_id, one.runs, one.priority) for one in demand] == [(WORKER, 2, Priority.NORMAL)]


@pytest.mark.parametrize(
    ("table", "change", "where"),
    [
        ("worker_queue", "dag_json = '{'", "run_id = 'r2'"),
        ("worker_queue", f"dag_json = {BROKEN_TEXT}", "run_id = 'r2'"),
        ("worker_queue", f"dag_json = '{'[' * 100_000}'", "run_id = 'r2'"),
        ("worker_queue", """dag_json = replace(dag_json, '"command"', '"env":["A"],"command"')""", "run_id = 'r2'"),
        (
            "worker_queue",
            """dag_json = replace(dag_json, '"command"', '"secrets":{"A":7},"command"')""",
            "run_id = 'r2'",
        ),
        ("worker_queue", """dag_json = replace(dag_json, '"command"', '"timeout":"x","command"')""", "run_id = 'r2'"),
        ("worker_queue", """dag_json = replace(dag_json, '"true"', '7')""", "run_id = 'r2'"),
        (
            "worker_queue",
            """dag_json = replace(dag_json, '"command"', '"depends_on":["x"],"command"')""",
            "run_id = 'r2'",
        ),
        (
            "worker_queue",
            """dag_json = replace(dag_json, '"command"', '"depends_on":["t1"],"command"')""",
            "run_id = 'r2'",
        ),
        ("dag_runs", "version = 9223372036854775807", "run_id = 'r2'"),
        ("dag_runs", "worker_id = 'worker-x/../y'", "run_id = 'r2'"),
        ("dag_runs", "version = 9007199254740992", "run_id = 'r2'"),
        ("run_tasks", "version = 9223372036854775807", "run_id = 'r2' AND task_no = 1"),
        ("run_tasks", "version = 9007199254740992", "run_id = 'r2' AND task_no = 1"),
        ("run_tasks", "attempts = 9007199254740991", "run_id = 'r2' AND task_no = 1"),
        ("run_tasks", "failures = 9007199254740992", "run_id = 'r2' AND task_no = 1"),
        ("run_tasks", "attempts = -9223372036854775807", "run_id = 'r2' AND task_no = 1"),
        ("run_tasks", "outputs = '{'", "run_id = 'r2' AND task_no = 1"),
        ("run_tasks", """outputs = '{"x": "' || char(92) || 'ud800"}'""", "run_id = 'r2' AND task_no = 1"),
        ("run_tasks", "status = 'odd'", "run_id = 'r2' AND task_no = 1"),
        ("run_tasks", "run_id = 'gone'", "run_id = 'r2' AND task_no = 1"),
        ("dag_runs", "priority = 7", "run_id = 'r2'"),
        ("dag_runs", "scope_source = 'odd'", "run_id = 'r2'"),
    ],
)
def test_a_worker_sets_a_run_aside_that_it_cannot_read_and_goes_on_with_the_rest(
    store: SqliteStore, table: str, change: str, where: str
) -> None:
    damage(store, table, change, where=where)
    executor = LocalExecutor(max_log_bytes=1)
    held = Holdings(LiveAttempts(executor, grace_s=1), Leases("node-1", margin_s=1.0))
    with store.transaction():
        for one in store.queue.claim("n", WORKER, epoch=1, limit=10):
            reading = RunReading(store, one.run_id, worker_id=WORKER, skills=InstalledSkills(), now=NOW, item=one)
            hold(store, held, reading, ours=frozenset(), now=NOW)
    executor.close()

    row = store._db.row("SELECT status, finished_at_us, error FROM dag_runs WHERE run_id = 'r2'")
    assert row is not None
    assert row[:2] == ("failed", NOW.wall_us)
    assert "cannot be read" in row[2]
    assert sorted(held.plans) == ["r1", "r3"]
    assert store.queue.get("r2") is None
    *of_tasks, last = store.events.after(0, limit=10)
    assert (last.kind, last.status, last.run_id) == ("run", "failed", "r2")
    assert {(event.kind, event.status, event.run_id) for event in of_tasks} <= {("task", "cancelled", "r2")}


def test_a_run_with_an_attempt_that_no_task_made_is_set_aside_before_its_number_is_wanted(store: SqliteStore) -> None:
    with store.transaction():
        store.attempts.start([attempt("r2")])
    executor = LocalExecutor(max_log_bytes=1)
    held = Holdings(LiveAttempts(executor, grace_s=1), Leases("node-1", margin_s=1.0))
    with store.transaction():
        for one in store.queue.claim("n", WORKER, epoch=1, limit=10):
            reading = RunReading(store, one.run_id, worker_id=WORKER, skills=InstalledSkills(), now=NOW, item=one)
            hold(store, held, reading, ours=frozenset(), now=NOW)
    executor.close()

    assert sorted(held.plans) == ["r1", "r3"]


@pytest.mark.parametrize("epoch", [2**63 - 1, 2**53, -1])
def test_a_worker_takes_its_id_whatever_epoch_stands_there_and_under_one_that_nobody_had(
    store: SqliteStore, epoch: int
) -> None:
    with store.transaction():
        store.workers.take(worker())
        store._db.write("UPDATE workers SET epoch = ?", (epoch,))
    with store.transaction():
        first = store.workers.take(worker(started_at_us=1_700_000_000_000_000)).epoch
        second = store.workers.take(worker(started_at_us=1_700_000_000_000_001)).epoch

    assert (first, second) == (1_700_000_000_000_000, 1_700_000_000_000_001)


def test_an_odd_number_in_the_queue_does_not_hide_the_rest_of_the_demand(store: SqliteStore) -> None:
    damage(store, "worker_queue", "created_at_us = -9223372036854775807, priority = 9223372036854775807")

    assert [(one.runs, one.priority) for one in store.queue.demand("n")] == [(3, Priority.NORMAL)]


@pytest.mark.parametrize("at_us", [2**63 - 1, -(2**62)])
def test_times_that_no_calendar_has_are_left_out_and_not_shown(store: SqliteStore, at_us: int) -> None:
    with store.transaction():
        for number in (1, 2):
            store.audit.append(AuditRecord(at_us=number, actor="a", action="b", subject="c", source="d"))
            store.tokens.put(TokenRecord(name=f"t{number}", sha256=f"{number}" * 64, may=("read",), created_at_us=1))
    damage(store, "audit", f"at_us = {at_us}", where="seq = 1")
    damage(store, "api_tokens", f"created_at_us = {at_us}", where="name = 't1'")

    assert [entry.at_us for entry in store.audit.page(limit=9)] == [2]
    assert [token.name for token in store.tokens.all()] == ["t2"]
    with pytest.raises(PoisonRecordError):
        store.tokens.by_sha256("1" * 64)


def test_setting_aside_ends_what_is_unfinished_and_leaves_what_is_final(store: SqliteStore) -> None:
    with store.transaction():
        store.attempts.start([attempt("r1")])
        assert store.runs.set_aside("r1", error="odd", now_us=7)
        assert not store.runs.set_aside("r1", error="again", now_us=8)
    run = store.runs.get("r1")

    assert run is not None
    assert (run.error, run.finished_at_us, run.version) == ("odd", 7, 2)
    assert [task.status for task in store.tasks.of_run("r1")] == [TaskState.CANCELLED] * 2
    assert [one.status for one in attempts_of(store, "r1")] == [AttemptState.LOST]
    assert store.queue.get("r1") is None
    assert store.queue.get("r2") is not None


def test_a_worker_conflict_is_looked_for_past_a_run_that_cannot_be_read(store: SqliteStore) -> None:
    for run_id in ("s1", "s2"):
        put_run(store, run_id, target_node="other")
    damage(store, "dag_runs", "delivery = 'odd'", where="run_id = 's1'")
    found = store.runs.unfinished_elsewhere(WORKER, "n")

    assert found is not None
    assert found.run_id == "s2"


def test_lists_of_definitions_events_attempts_and_workers_leave_out_what_cannot_be_read(store: SqliteStore) -> None:
    with store.transaction():
        store.definitions.put(definition("e"))
        store.events.append([EventRecord(kind="run", at_us=1, status=f"s{number}") for number in range(2)])
        store.attempts.start([attempt("r1"), attempt("r1", 2)])
    damage(store, "dag_definitions", "scope_type = 'odd'", where="dag_id = 'd'")
    damage(store, "events", "data = '{'", where="status = 's0'")
    damage(store, "task_executions", "status = 'odd'", where="attempt = 1")

    assert [one.dag_id for one in store.definitions.page(limit=5).items] == ["e"]
    assert [one.status for one in store.events.after(0, limit=5)] == ["s1"]
    assert [one.attempt for one in attempts_of(store, "r1")] == [2]
    with pytest.raises(PoisonRecordError):
        store.definitions.current("d")


def test_an_audit_entry_with_the_number_of_one_that_has_none_yet_keeps_no_other_from_being_written(
    store: SqliteStore,
) -> None:
    with store.transaction():
        store._db.write("INSERT INTO audit VALUES (-1, 1, 'a', 'b', 'c', 'd')")
    with store.transaction():
        store.audit.append(AuditRecord(at_us=2, actor="a", action="b", subject="c", source="d"))

    assert [entry.at_us for entry in store.audit.page(limit=9)] == [2, 1]
