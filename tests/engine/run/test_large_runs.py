"""What is large is read outside the write lock and written in pieces; what waits is rows, not memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cis.engine.run import claiming, reading
from cis.engine.run.loop import RETRY_STORE_S
from cis.engine.run.plan import CHANGES_AT_ONCE
from cis.errors import StoreBusyError
from cis.model.states import Priority, RunState, TaskState
from cis.store.records import QueueState, TaskRecord
from tests.worlds.deciding import Decider, decider
from tests.worlds.looping import Worker, working
from tests.worlds.rows import attempts_of

LARGE = 3 * reading.SMALL_TASKS


class Ledger:
    """Notes, of each transaction of a worker, how many tasks it read and how many rows it changed."""

    def __init__(self, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read: list[int] = []
        self.written: list[int] = []
        self.read_outside = 0
        self._inside = False
        store = worker.store
        transaction, tasks, all_tasks = store.transaction, store.tasks.page, store.tasks.of_run

        @contextmanager
        def noted(*, wait: bool = True) -> Iterator[None]:
            before = store._db.connection.total_changes()
            self.read.append(0)
            with transaction(wait=wait):
                self._inside = True
                try:
                    yield
                finally:
                    self._inside = False
            self.written.append(store._db.connection.total_changes() - before)

        def counted(run_id: str, task_no: int, *, limit: int, max_bytes: int) -> list[TaskRecord]:
            return noted_read(list(tasks(run_id, task_no, limit=limit, max_bytes=max_bytes)))

        def noted_read(found: list[TaskRecord]) -> list[TaskRecord]:
            if self._inside:
                self.read[-1] += len(found)
            else:
                self.read_outside += len(found)
            return found

        monkeypatch.setattr(store, "transaction", noted)
        monkeypatch.setattr(store.tasks, "page", counted)
        monkeypatch.setattr(store.tasks, "of_run", lambda run_id: noted_read(list(all_tasks(run_id))))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Decider]:
    with decider(tmp_path) as node:
        yield node


def fan(count: int, first: str = "true") -> list[dict[str, Any]]:
    """Return one task and *count* that depend on it."""
    return [{"command": first}, *({"depends_on": ["t0"]} for _ in range(count))]


def test_a_large_run_is_read_before_it_is_taken_and_the_write_lock_is_free_meanwhile(
    node: Decider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = node.submitted({}, scope="global", target_node="node-1")
    large = node.submitted(*({"command": "sleep 60"} for _ in range(LARGE)), scope="global", target_node="node-1")
    with working(node, tmp_path) as worker:
        ledger = Ledger(worker, monkeypatch)
        worker.until(lambda: node.run(small.run_id).status.final and worker.pids, "a task of the large run")

    assert node.run(large.run_id).status is RunState.RUNNING
    assert max(ledger.read) <= claiming.TASKS_AT_ONCE
    assert sum(ledger.read) < LARGE <= ledger.read_outside


def test_a_large_run_that_an_earlier_process_held_is_taken_over_outside_the_write_lock(
    node: Decider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = node.submitted(*({"command": "sleep 60"} for _ in range(LARGE)), scope="global", target_node="node-1")
    with working(node, tmp_path) as before:
        before.until(lambda: before.pids, "the processes")
    with working(node, tmp_path) as worker:
        ledger = Ledger(worker, monkeypatch)
        worker.until(lambda: worker.pids, "the processes")
        lost = [one for one in attempts_of(node.store, large.run_id) if one.status == "lost"]

    assert len(lost) == 4
    assert sum(ledger.read) == 0
    assert ledger.read_outside == LARGE


@pytest.mark.parametrize("begun", [True, False])
def test_a_large_run_whose_reading_fails_for_a_moment_is_read_again(
    node: Decider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, begun: bool
) -> None:
    """Also after a turn in which others kept the transaction from beginning."""
    with working(node, tmp_path) as worker:
        worker.turn()
        large = node.submitted(*({"command": "sleep 60"} for _ in range(LARGE)), target_node="node-1")
        worker.until(lambda: worker.loop._held.reading is not None, "its reading")
        worker.loop._begun = begun
        usual = worker.store.tasks.page

        def busy(*_: Any, **__: Any) -> Any:
            monkeypatch.setattr(worker.store.tasks, "page", usual)
            raise StoreBusyError("the database", waited_s=1)

        monkeypatch.setattr(worker.store.tasks, "page", busy)

        def runs() -> object:
            node.later(RETRY_STORE_S)
            return worker.pids

        worker.until(runs, "a task of the large run")

    assert node.run(large.run_id).status is RunState.RUNNING


def test_a_run_that_is_cancelled_while_it_is_read_never_starts(
    node: Decider, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    large = node.submitted(*({} for _ in range(LARGE)), scope="global", target_node="node-1")
    with working(node, tmp_path) as worker:
        worker.until(lambda: worker.loop._held.reading is not None, "its reading")
        assert worker.loop._held.reading is not None
        worker.loop._held.reading.advance()
        node.change_run(large.run_id, cancel_requested=True)
        worker.until(lambda: node.run(large.run_id).status.final, "its end")

    assert node.run(large.run_id).status is RunState.CANCELLED
    assert attempts_of(node.store, large.run_id) == []
    assert caplog.messages == []  # nothing had to be done twice


def test_a_failure_that_skips_thousands_of_tasks_is_stored_in_pieces(
    node: Decider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 2 * CHANGES_AT_ONCE + 500
    run = node.submitted(*fan(count, "false"), scope="global", target_node="node-1")
    with working(node, tmp_path) as worker:
        ledger = Ledger(worker, monkeypatch)
        worker.until(lambda: node.run(run.run_id).status.final, "the end of the run")
    tasks = node.store.tasks.of_run(run.run_id)

    assert node.run(run.run_id).status is RunState.FAILED
    assert [task.status for task in tasks] == [TaskState.FAILED, *[TaskState.SKIPPED] * count]
    assert {task.blocked_by for task in tasks[1:]} == {"t0"}
    assert max(ledger.written) < 4 * CHANGES_AT_ONCE + 50  # of twice as many tasks, with an event for each


def test_a_cancelled_run_of_thousands_of_tasks_is_ended_in_pieces(
    node: Decider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 2 * CHANGES_AT_ONCE + 500
    run = node.submitted(*fan(count, "exec sleep 60"), scope="global", target_node="node-1")
    with working(node, tmp_path) as worker:
        worker.until(lambda: worker.pids, "its process")
        ledger = Ledger(worker, monkeypatch)
        node.change_run(run.run_id, cancel_requested=True)
        worker.until(lambda: node.run(run.run_id).status.final, "the end of the run")

    assert node.run(run.run_id).status is RunState.CANCELLED
    assert {task.status for task in node.store.tasks.of_run(run.run_id)} == {TaskState.CANCELLED}
    assert max(ledger.written) < 4 * CHANGES_AT_ONCE + 50


def test_whoever_takes_over_in_the_middle_of_skipping_skips_the_rest(node: Decider, tmp_path: Path) -> None:
    count = 3 * CHANGES_AT_ONCE
    run = node.submitted(*fan(count, "false"), scope="global", target_node="node-1")
    with working(node, tmp_path) as worker:
        worker.until(lambda: node.store.tasks.of_run(run.run_id)[0].status is TaskState.FAILED, "the failure")
        skipped = sum(task.status is TaskState.SKIPPED for task in node.store.tasks.of_run(run.run_id))
    with working(node, tmp_path) as worker:
        worker.until(lambda: node.run(run.run_id).status.final, "the end of the run")

    assert 0 < skipped < count
    assert {task.blocked_by for task in node.store.tasks.of_run(run.run_id)[1:]} == {"t0"}
    assert [(one.attempt, one.status) for one in attempts_of(node.store, run.run_id)] == [(1, "failed")]


def test_a_worker_holds_no_more_than_can_start_something_however_much_waits(
    node: Decider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "MAX_HELD_TASKS", LARGE)
    document = {"scope": "global", "target_node": "node-1", "max_parallel": 1}
    runs = [node.submitted(*({"command": "sleep 60"} for _ in range(LARGE)), **document) for _ in range(8)]
    with working(node, tmp_path) as worker:
        worker.until(lambda: len(worker.pids) == 4, "a process in each slot")
        for _ in range(20):
            worker.turn()
        held = len(worker.loop._held.plans)

        assert held == 4
        assert [worker.queued(run.run_id) for run in runs] == [QueueState.CLAIMED] * 4 + [QueueState.QUEUED] * 4

        urgent = node.submitted(*({} for _ in range(LARGE)), **document, priority="critical")
        worker.until(lambda: worker.queued(urgent.run_id) is QueueState.CLAIMED, "what is more urgent")
        assert urgent.priority is Priority.CRITICAL


def test_what_an_earlier_process_held_goes_back_into_the_queue_when_there_is_no_room_for_it(
    node: Decider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = {"scope": "global", "target_node": "node-1", "max_parallel": 1}
    runs = [node.submitted(*({"command": "sleep 60"} for _ in range(LARGE)), **document) for _ in range(8)]
    with node.store.transaction():
        node.store.queue.claim("node-1", runs[0].worker_id, epoch=0, limit=8)
    monkeypatch.setattr(claiming, "MAX_HELD_TASKS", LARGE)
    with working(node, tmp_path) as worker:
        worker.until(lambda: len(worker.pids) == 4, "a process in each slot")

        assert [worker.queued(run.run_id) for run in runs] == [QueueState.CLAIMED] * 4 + [QueueState.QUEUED] * 4


def test_large_children_of_one_run_are_begun_one_after_the_other(
    node: Decider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = {"dag_id": "child", "tasks": [{"id": f"c{number}", "command": "sleep 60"} for number in range(1500)]}
    tasks = [{"skill": "dag", "command": None, "params": {"document": child}} for _ in range(6)]
    run = node.submitted(*tasks, scope="global", target_node="node-1")
    with working(node, tmp_path) as worker:
        ledger = Ledger(worker, monkeypatch)
        worker.until(lambda: len(node.store.runs.children(run.run_id)) == 6, "all children")

    assert max(ledger.written) < 3 * 1500


def test_children_of_one_run_are_begun_a_few_at_a_time(
    node: Decider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = {"dag_id": "child", "tasks": [{"id": "c", "command": "true"}]}
    tasks = [{"skill": "dag", "command": None, "params": {"document": child}} for _ in range(120)]
    run = node.submitted(*tasks, scope="global", target_node="node-1")
    with working(node, tmp_path) as worker:
        ledger = Ledger(worker, monkeypatch)
        worker.until(lambda: node.run(run.run_id).status.final, "the end of the run")

    assert node.run(run.run_id).status is RunState.COMPLETED
    assert len(node.store.runs.children(run.run_id)) == 120
    assert max(ledger.written) < 120 * 6  # of a dozen rows for each child
