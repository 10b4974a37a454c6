"""A worker that can store nothing for a lease time stops; a wall clock that jumps changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cis.engine.accept.control import cancel
from cis.engine.run.decide import LONGEST_CONTROL_PAUSE_S
from cis.engine.run.live import Ending
from cis.engine.times import Instant
from cis.errors import FencedError, LeaseLostError
from cis.model.scope import GLOBAL
from cis.model.states import AttemptState, RunState
from cis.store.records import RunRecord, TaskRecord
from tests.worlds.deciding import SECOND_US, START_US, Decider, decider
from tests.worlds.looping import Worker, working
from tests.worlds.rows import attempts_of

DAY_US = 86400 * SECOND_US


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Decider]:
    """Give a test node-1."""
    with decider(tmp_path) as node:
        yield node


@dataclass(slots=True)
class Clocks:
    """A wall clock and a monotonic one, apart."""

    wall_us: int = START_US
    mono_s: float = 1000.0
    set_us: int = 0

    def __call__(self) -> Instant:
        return Instant(self.wall_us, self.mono_s, self.set_us)

    def set(self, by_us: int) -> None:
        self.wall_us += by_us
        self.set_us += by_us

    def later(self, seconds: float) -> None:
        self.mono_s += seconds
        self.wall_us += round(seconds * SECOND_US)


def test_a_worker_whose_store_fails_for_a_whole_lease_stops_and_its_unstored_ends_are_lost(
    node: Decider, tmp_path: Path
) -> None:
    clocks = Clocks()
    run = node.submitted({"command": f"until test -e {tmp_path}/go; do sleep 0.02; done"}, target_node="node-1")
    with working(node, tmp_path, lease_s=30.0, clock=clocks) as worker:
        worker.until(lambda: worker.pids, "the task")
        worker.store.broken = True
        (tmp_path / "go").touch()
        worker.until(lambda: not worker.loop.running, "its end, which cannot be stored")
        clocks.later(29)
        worker.turn()
        clocks.later(2)
        with pytest.raises(LeaseLostError, match="could not renew its lease for 30 s"):
            worker.turn()
        worker.store.broken = False
    with working(node, tmp_path, clock=clocks) as successor:
        successor.until(lambda: node.run(run.run_id).status.final, "the end of the run")

        assert successor.attempts(run.run_id) == [(1, AttemptState.LOST), (2, AttemptState.COMPLETED)]


def test_a_worker_that_has_just_looked_at_control_looks_again_by_itself(node: Decider, tmp_path: Path) -> None:
    """It may have been rung for many submissions; what control wrote meanwhile waits for the pause, and for no other ring."""
    clocks = Clocks()
    run = node.submitted({"command": "exec sleep 60"}, target_node="node-1")
    with working(node, tmp_path, clock=clocks) as worker:
        worker.until(lambda: worker.pids, "the task")
        clocks.later(1)
        worker.turn()  # it looks
        with node.store.transaction():
            cancel(node.store, run.run_id, now_us=clocks.wall_us)
        worker.turn()
        (live,) = worker.loop._held.live
        at_once = live.ending
        clocks.later(LONGEST_CONTROL_PAUSE_S)
        worker.loop.turn(at_most_s=0.02)

        assert (at_once, live.ending) == (None, Ending.CANCEL)
        worker.until(lambda: node.run(run.run_id).status.final, "the end of the run")


@pytest.mark.parametrize("jump_us", [-DAY_US, DAY_US])
def test_what_a_task_took_is_told_by_a_clock_that_nobody_sets(node: Decider, tmp_path: Path, jump_us: int) -> None:
    clocks = Clocks()
    run = node.submitted({"command": f"until test -e {tmp_path}/go; do sleep 0.02; done"}, target_node="node-1")
    with working(node, tmp_path, clock=clocks) as worker:
        worker.until(lambda: worker.pids, "the task")
        began_us = node.now_us
        node.later(7)
        clocks.later(7)
        clocks.wall_us += jump_us
        (tmp_path / "go").touch()
        worker.until(lambda: node.run(run.run_id).status.final, "the end of the run")
    (attempt,) = attempts_of(node.store, run.run_id)
    (task,) = node.store.tasks.of_run(run.run_id)
    ended = node.run(run.run_id)
    took_us = [(one.finished_at_us or 0) - (one.started_at_us or 0) for one in (attempt, task, ended)]

    assert took_us[0] == took_us[1] == node.now_us - began_us
    assert took_us[2] >= took_us[0]
    assert (
        jump_us > 0 or took_us[2] == took_us[0]
    )  # that of a run is what retention goes by, so it is never of the past


@contextmanager
def cancelled_at_work(node: Decider, folder: Path, clocks: Clocks) -> Iterator[tuple[Worker, str]]:
    """Give a test a worker whose task runs, and the run, whose cancellation it has not seen yet."""
    run = node.submitted({"command": "exec sleep 60"}, target_node="node-1")
    with working(node, folder, clock=clocks) as worker:
        worker.until(lambda: worker.pids, "the task")
        with node.store.transaction():
            cancel(node.store, run.run_id, now_us=clocks.wall_us)
        clocks.later(2)
        yield worker, run.run_id


def test_a_process_is_not_ended_for_a_cancellation_that_was_not_stored(node: Decider, tmp_path: Path) -> None:
    """A child's is stored in the transaction in which the worker sees the parent's: when that fails, nobody has asked."""
    clocks = Clocks()
    with cancelled_at_work(node, tmp_path, clocks) as (worker, run_id):
        worker.store.broken = worker.store.late = True
        worker.turn()
        (live,) = worker.loop._held.live
        unasked = live.ending
        worker.store.broken = False
        clocks.later(2)
        worker.until(lambda: node.run(run_id).status.final, "the end of the run")

        assert unasked is None
        assert worker.attempts(run_id) == [(1, AttemptState.CANCELLED)]


def test_a_cancelled_task_has_its_whole_grace_period_however_long_the_commit_took(
    node: Decider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = Clocks()
    with cancelled_at_work(node, tmp_path, clocks) as (worker, run_id):
        usual = worker.store.transaction

        @contextmanager
        def slow(*, wait: bool = True) -> Iterator[None]:
            with usual(wait=wait):
                yield
            clocks.later(60)

        with monkeypatch.context() as patch:
            patch.setattr(worker.store, "transaction", slow)
            worker.turn()
        (live,) = worker.loop._held.live
        due_s = live.kill_at_s
        worker.until(lambda: node.run(run_id).status.final, "the end of the run")

        assert clocks.mono_s < due_s < float("inf")


def test_a_worker_whose_store_fails_for_less_than_a_lease_goes_on_and_loses_no_end(
    node: Decider, tmp_path: Path
) -> None:
    clocks = Clocks()
    run = node.submitted({"command": f"until test -e {tmp_path}/go; do sleep 0.02; done"}, target_node="node-1")
    with working(node, tmp_path, lease_s=30.0, clock=clocks) as worker:
        worker.until(lambda: worker.pids, "the task")
        clocks.later(100)
        worker.turn()
        worker.store.broken = True
        (tmp_path / "go").touch()
        worker.until(lambda: not worker.loop.running, "its end, which cannot be stored yet")
        for _ in range(3):
            clocks.later(9)
            worker.turn()
        worker.store.broken = False
        clocks.later(2)
        worker.until(lambda: node.run(run.run_id).status.final, "the end of the run")
        row = worker.store.workers.get("node-1", GLOBAL.worker_id)

        assert worker.attempts(run.run_id) == [(1, AttemptState.COMPLETED)]
        assert row is not None
        assert row.heartbeat_at_us == clocks.wall_us


def test_a_worker_that_only_slept_for_longer_than_its_lease_goes_on(node: Decider, tmp_path: Path) -> None:
    clocks = Clocks()
    run = node.submitted({"command": f"until test -e {tmp_path}/go; do sleep 0.02; done"}, target_node="node-1")
    with working(node, tmp_path, lease_s=30.0, clock=clocks) as worker:
        worker.until(lambda: worker.pids, "the task")
        clocks.later(3600)
        worker.turn()
        (tmp_path / "go").touch()
        worker.until(lambda: node.run(run.run_id).status.final, "the end of the run")

        assert worker.attempts(run.run_id) == [(1, AttemptState.COMPLETED)]


def test_a_worker_whose_id_was_taken_over_stores_no_end_although_no_heartbeat_is_due(
    node: Decider, tmp_path: Path
) -> None:
    ending = {"command": f"until test -e {tmp_path}/go; do sleep 0.02; done"}
    run = node.submitted(ending, {"command": "sleep 600"}, target_node="node-1")
    with working(node, tmp_path) as worker:
        worker.until(lambda: len(worker.pids) == 2, "both tasks")
        worker.turn()
        row = node.store.workers.get("node-1", GLOBAL.worker_id)
        assert row is not None
        with node.store.transaction():
            node.store.workers.take(row)
        (tmp_path / "go").touch()
        with pytest.raises(FencedError):
            worker.until(lambda: len(worker.pids) == 1, "an end that may not be stored")
            worker.turn()

        assert worker.attempts(run.run_id) == [(1, AttemptState.RUNNING)] * 2


@pytest.mark.parametrize("jump_us", [DAY_US, -DAY_US], ids=["forth", "back"])
def test_a_wall_clock_that_jumps_a_day_delays_no_retry_and_runs_nothing_twice(
    node: Decider, tmp_path: Path, jump_us: int
) -> None:
    clocks = Clocks()
    flaky = f"echo x >> {tmp_path}/tries; test $(wc -l < {tmp_path}/tries) -ge 2"
    run = node.submitted(
        {"command": flaky, "max_retries": 1, "retry_delay": 60.0}, {"depends_on": ["t0"]}, target_node="node-1"
    )
    with working(node, tmp_path, clock=clocks) as worker:
        worker.until(lambda: worker.attempts(run.run_id) == [(1, AttemptState.FAILED)], "the first failure")
        clocks.wall_us += jump_us
        clocks.later(59)
        for _ in range(3):
            worker.turn()
        early = len(worker.attempts(run.run_id))
        clocks.later(1)
        worker.until(lambda: node.run(run.run_id).status.final, "the end of the run")

        assert early == 1
        assert node.run(run.run_id).status is RunState.COMPLETED
        assert sorted(worker.attempts(run.run_id)) == [
            (1, AttemptState.COMPLETED),
            (1, AttemptState.FAILED),
            (2, AttemptState.COMPLETED),
        ]
        assert (tmp_path / "tries").read_text() == "x\nx\n"


@pytest.mark.parametrize("jump_us", [DAY_US, -DAY_US], ids=["forth", "back"])
def test_what_a_run_its_tasks_and_its_waits_took_is_told_as_if_the_clock_had_not_been_set(
    node: Decider, tmp_path: Path, jump_us: int
) -> None:
    clocks = Clocks()
    child = {"dag_id": "below", "tasks": [{"id": "t", "command": f"until test -e {tmp_path}/go; do sleep 0.02; done"}]}
    run = node.submitted(
        {"command": f"test -e {tmp_path}/go", "max_retries": 1, "retry_delay": 60.0},
        {"command": None, "skill": "dag", "params": {"document": child}},
        {"command": "true", "depends_on": ["t0", "t1"]},
        target_node="node-1",
    )
    with working(node, tmp_path, clock=clocks) as worker:
        worker.until(lambda: worker.attempts(run.run_id)[:1] == [(1, AttemptState.FAILED)], "the first failure")
        worker.until(lambda: worker.pids, "the task of the child run")
        clocks.later(30)
        worker.turn()
        clocks.set(jump_us)
        worker.turn()
        clocks.later(30)
        (tmp_path / "go").touch()
        worker.until(lambda: node.run(run.run_id).status.final, "the end of the run")
    ended = node.run(run.run_id)

    assert ended.status is RunState.COMPLETED
    assert round(took_s(ended)) == 60
    assert [round(took_s(task)) for task in node.store.tasks.of_run(run.run_id)] == [60, 60, 0]


@pytest.mark.parametrize("jump_us", [DAY_US, -DAY_US], ids=["forth", "back"])
def test_a_worker_that_starts_after_the_wall_clock_jumped_waits_for_no_retry_longer_than_its_delay(
    node: Decider, tmp_path: Path, jump_us: int
) -> None:
    clocks = Clocks()
    task = {"command": f"test -e {tmp_path}/go", "max_retries": 1, "retry_delay": 60.0, "on_lost": "fail"}
    run = node.submitted(task, target_node="node-1")
    with working(node, tmp_path, clock=clocks) as worker:
        worker.until(lambda: worker.attempts(run.run_id) == [(1, AttemptState.FAILED)], "the first failure")
    clocks.wall_us += jump_us
    (tmp_path / "go").touch()
    with working(node, tmp_path, clock=clocks) as successor:
        successor.turn()
        clocks.later(60)
        successor.until(lambda: node.run(run.run_id).status.final, "the end of the run")

        assert node.run(run.run_id).status is RunState.COMPLETED


def took_s(row: RunRecord | TaskRecord) -> float:
    """Return how long a run or a task took, by its row."""
    return ((row.finished_at_us or 0) - (row.started_at_us or 0)) / SECOND_US
