"""A run whose rows the store refuses is set aside with a reason; the others of its worker go on, and the worker stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import apsw
import pytest

from cis.engine.accept.control import pause
from cis.engine.run.apart import TurnsApart
from cis.engine.run.effects import Effects
from cis.engine.run.ends import End
from cis.engine.run.loop import RETRY_STORE_S
from cis.engine.run.parts import Holdings
from cis.engine.times import Instant
from cis.model.states import AttemptState, RunState, TaskState
from cis.store.records import QueueState
from tests.worlds.deciding import Decider, decider
from tests.worlds.looping import Worker, working
from tests.worlds.waiting import wait_for

LEASE_S = 15.0


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Decider]:
    with decider(tmp_path) as node:
        yield node


@pytest.fixture
def worker(node: Decider, tmp_path: Path) -> Iterator[Worker]:
    with working(node, tmp_path, lease_s=LEASE_S) as worker:
        yield worker


def refuse(node: Decider, what: str, table: str, when: str) -> None:
    """Give a table a rule that refuses some rows."""
    connection = apsw.Connection(str(node.store.path))
    connection.execute(
        f"CREATE TRIGGER refused_{table} BEFORE {what} ON {table} WHEN {when}"
        " BEGIN SELECT RAISE(ABORT, 'this row is refused'); END"
    )
    connection.close()


def until(worker: Worker, run_id: str, *, within_s: float = LEASE_S) -> RunState:
    """Turn until a run is over, a second of the node's clock at a time; return its state."""
    left = [within_s]

    def over() -> bool:
        worker.turn()
        worker.node.later(RETRY_STORE_S / 10)
        left[0] -= RETRY_STORE_S / 10
        assert left[0] > 0, "it took longer than a lease"
        return worker.node.run(run_id).status.final

    wait_for(over, what="the end of the run")
    return worker.node.run(run_id).status


@pytest.mark.parametrize(
    ("what", "table", "when"),
    [
        ("UPDATE", "run_tasks", "NEW.status = 'completed' AND NEW.run_id = 'id-000001'"),
        ("UPDATE", "run_tasks", "NEW.status = 'running' AND NEW.run_id = 'id-000001'"),
        ("UPDATE", "dag_runs", "NEW.status = 'completed' AND NEW.run_id = 'id-000001'"),
        ("INSERT", "task_executions", "NEW.run_id = 'id-000001'"),
    ],
)
def test_the_run_of_a_refused_row_is_set_aside_within_a_lease_and_the_others_go_on(
    node: Decider, worker: Worker, what: str, table: str, when: str
) -> None:
    refuse(node, what, table, when)
    bad = node.submitted(target_node="node-1")
    long = node.submitted({"command": "until [ -e go ]; do sleep 0.01; done"}, target_node="node-1")
    good = [node.submitted(target_node="node-1") for _ in range(3)]

    assert until(worker, bad.run_id) is RunState.FAILED
    assert "set aside" in str(node.run(bad.run_id).error)
    assert "this row is refused" in str(node.run(bad.run_id).error)
    assert worker.queued(bad.run_id) is None
    assert [until(worker, run.run_id) for run in good] == [RunState.COMPLETED] * 3
    (Path(worker.loop._parts.maker.workdir) / "go").touch()
    assert until(worker, long.run_id) is RunState.COMPLETED
    assert worker.attempts(long.run_id) == [(1, AttemptState.COMPLETED)]


def test_what_control_says_is_heard_between_two_runs_that_are_done_one_by_one(
    node: Decider, worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(node, "UPDATE", "run_tasks", "NEW.status = 'completed' AND NEW.run_id = 'id-000003'")
    hold = f"until [ -e {tmp_path}/go ]; do sleep 0.01; done"
    first, good = (node.submitted({"command": hold}, {"depends_on": ["t0"]}, target_node="node-1") for _ in range(2))
    bad = node.submitted({"command": hold}, target_node="node-1")
    worker.until(lambda: len(worker.pids) == 3, "the tasks")
    (tmp_path / "go").touch()
    worker.see_all_end()
    worker.turn()  # it finds that a row is refused, and does the next ones run by run
    usual = TurnsApart._one

    def one(apart: TurnsApart, held: Holdings, run_id: str | None, ends: Sequence[End], *, now: Instant) -> Effects:
        if run_id == first.run_id:
            with node.store.transaction():
                pause(node.store, good.run_id, now_us=node.now_us)
        return usual(apart, held, run_id, ends, now=now)

    monkeypatch.setattr(TurnsApart, "_one", one)
    node.later(RETRY_STORE_S)
    worker.turn()
    monkeypatch.undo()

    assert worker.task(first.run_id, "t1").attempts == 1
    assert worker.task(good.run_id, "t0").status is TaskState.COMPLETED
    assert worker.task(good.run_id, "t1").status is TaskState.PENDING
    assert until(worker, bad.run_id) is RunState.FAILED


def test_what_runs_of_a_run_that_is_set_aside_is_killed(node: Decider, worker: Worker) -> None:
    refuse(node, "UPDATE", "run_tasks", "NEW.status = 'completed'")
    bad = node.submitted({"command": "true"}, {"command": "exec sleep 60"}, target_node="node-1")

    assert until(worker, bad.run_id) is RunState.FAILED
    worker.until(lambda: not worker.pids, "the end of the other task")
    assert {status for _, status in worker.attempts(bad.run_id)} == {AttemptState.LOST}


def test_a_run_that_cannot_even_be_failed_is_kept_where_no_worker_takes_it(node: Decider, worker: Worker) -> None:
    refuse(node, "UPDATE", "dag_runs", "NEW.run_id = 'id-000001' AND NEW.status IN ('failed', 'completed')")
    bad, good = node.submitted(target_node="node-1"), node.submitted(target_node="node-1")
    until(worker, good.run_id)

    def put_away() -> bool:
        node.later(RETRY_STORE_S / 10)
        return worker.queued(bad.run_id) is QueueState.SUSPENDED

    worker.until(put_away, "it to be put away")
    again = node.submitted(target_node="node-1")
    assert until(worker, again.run_id) is RunState.COMPLETED


def test_a_run_whose_lost_attempt_cannot_be_stored_keeps_no_worker_from_its_office(
    node: Decider, tmp_path: Path
) -> None:
    with working(node, tmp_path) as worker:
        bad = node.submitted({"command": "exec sleep 60"}, target_node="node-1")
        worker.until(lambda: worker.pids, "the process")
    refuse(node, "UPDATE", "run_tasks", f"NEW.status = 'pending' AND NEW.run_id = '{bad.run_id}'")
    with working(node, tmp_path) as worker:
        good = node.submitted(target_node="node-1")

        assert until(worker, good.run_id) is RunState.COMPLETED
        assert node.run(bad.run_id).status is RunState.FAILED


def test_a_store_that_is_down_for_a_moment_sets_nothing_aside(node: Decider, worker: Worker) -> None:
    run = node.submitted({"command": "until [ -e go ]; do sleep 0.01; done"}, target_node="node-1")
    worker.until(lambda: worker.pids, "the process")
    worker.store.broken = True
    for _ in range(6):
        worker.turn()
        node.later(RETRY_STORE_S)
    worker.store.broken = False
    (Path(worker.loop._parts.maker.workdir) / "go").touch()

    assert until(worker, run.run_id) is RunState.COMPLETED
    assert worker.attempts(run.run_id) == [(1, AttemptState.COMPLETED)]
