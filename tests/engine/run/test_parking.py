"""Runs that only wait are let go of when others want the place, and come back when something is due."""

from __future__ import annotations

from pathlib import Path

import pytest

from cis.engine.accept.control import cancel, pause, resume
from cis.engine.observe.views import read_run
from cis.errors import FencedError
from cis.model.states import RunState, TaskState
from cis.store.records import QueueState
from tests.worlds.deciding import Decider, decider
from tests.worlds.looping import Worker, working


def put_away(worker: Worker, run_id: str) -> None:
    """Have the worker let go of a run that only waits."""
    worker.until(lambda: worker.loop.resting, "the worker to have nothing to do")
    assert worker.loop.put_away()
    assert worker.loop.idle
    assert worker.queued(run_id) is QueueState.PARKED


def controlled(node: Decider, run_id: str, action: str) -> None:
    """Pause, resume or cancel a run from outside."""
    with node.store.transaction():
        {"pause": pause, "resume": resume, "cancel": cancel}[action](node.store, run_id, now_us=node.now_us)


def test_a_run_that_waits_for_its_retry_is_parked_until_then(tmp_path: Path) -> None:
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        task = {"command": "false", "max_retries": 1, "retry_delay": 60.0}
        run = node.submitted(task, target_node="node-1")
        worker.until(lambda: worker.task(run.run_id).due_at_us, "its retry to be set")
        put_away(worker, run.run_id)
        early = node.store.queue.any_due("node-1", now_us=node.now_us + 50_000_000)
        node.later(61)
        assert node.store.queue.any_due("node-1", now_us=node.now_us)
        with node.store.transaction():
            node.store.queue.wake_due("node-1", now_us=node.now_us, limit=10)
        worker.until(lambda: worker.task(run.run_id).status is TaskState.FAILED, "its second attempt")

        assert not early


def test_a_parked_run_says_what_it_waits_for_and_not_that_its_worker_is_gone(tmp_path: Path) -> None:
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        run = node.submitted({"command": "false", "max_retries": 1, "retry_delay": 60.0}, target_node="node-1")
        worker.until(lambda: worker.task(run.run_id).due_at_us, "its retry to be set")
        put_away(worker, run.run_id)
        view = read_run(node.store, run.run_id)

        assert view["waiting"]["reason"] == "retry"


def test_a_resume_brings_a_parked_run_back(tmp_path: Path) -> None:
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        run = node.submitted({"command": "true"}, target_node="node-1")
        controlled(node, run.run_id, "pause")
        worker.until(lambda: worker.queued(run.run_id) is QueueState.CLAIMED, "the claim")
        put_away(worker, run.run_id)
        controlled(node, run.run_id, "resume")
        worker.until(lambda: worker.task(run.run_id).status is TaskState.COMPLETED, "its end")


def test_a_cancel_ends_a_parked_run_without_a_worker(tmp_path: Path) -> None:
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        run = node.submitted({"command": "true"}, target_node="node-1")
        controlled(node, run.run_id, "pause")
        worker.until(lambda: worker.queued(run.run_id) is QueueState.CLAIMED, "the claim")
        put_away(worker, run.run_id)
        controlled(node, run.run_id, "cancel")

        assert node.run(run.run_id).status is RunState.CANCELLED
        assert worker.queued(run.run_id) is None


@pytest.mark.parametrize("end", ["cancel", "set_aside"])
def test_the_end_of_its_child_run_brings_a_parked_run_back(tmp_path: Path, end: str) -> None:
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        document = {"dag_id": "inner", "scope": "project:p", "tasks": [{"id": "x", "command": "true"}]}
        run = node.submitted({"command": None, "skill": "dag", "params": {"document": document}}, target_node="node-1")
        worker.until(lambda: node.store.runs.children(run.run_id), "its child run")
        put_away(worker, run.run_id)
        child = worker.child(run.run_id)
        if end == "cancel":
            controlled(node, child, "cancel")
        else:
            with node.store.transaction():
                node.store.runs.set_aside(child, error="poison", now_us=node.now_us)
        ended = TaskState.CANCELLED if end == "cancel" else TaskState.FAILED
        worker.until(lambda: worker.task(run.run_id).status is ended, "its end")


def test_what_happened_before_a_run_is_parked_is_not_slept_through(tmp_path: Path) -> None:
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        run = node.submitted({"command": "true"}, target_node="node-1")
        controlled(node, run.run_id, "pause")
        worker.until(lambda: worker.queued(run.run_id) is QueueState.CLAIMED and worker.loop.resting, "the claim")
        controlled(node, run.run_id, "resume")

        assert not worker.loop.put_away()
        worker.until(lambda: worker.task(run.run_id).status is TaskState.COMPLETED, "its end")


def test_the_time_limit_of_a_child_run_brings_its_parked_parent_back(tmp_path: Path) -> None:
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        document = {"dag_id": "inner", "scope": "project:p", "tasks": [{"id": "x", "command": "true"}]}
        task = {"command": None, "skill": "dag", "params": {"document": document}, "timeout": 30.0}
        run = node.submitted(task, target_node="node-1")
        worker.until(lambda: node.store.runs.children(run.run_id), "its child run")
        put_away(worker, run.run_id)
        node.later(31)
        with node.store.transaction():
            node.store.queue.wake_due("node-1", now_us=node.now_us, limit=10)
        worker.until(lambda: worker.task(run.run_id).status is TaskState.FAILED, "its end")

        assert "timed out after 30 s" in (worker.task(run.run_id).error or "")


def test_the_time_limit_of_a_child_run_ends_it_although_one_worker_holds_both_and_nobody_else_writes(
    tmp_path: Path,
) -> None:
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        document = {"dag_id": "inner", "tasks": [{"id": "x", "command": "exec sleep 60"}]}
        task = {"command": None, "skill": "dag", "params": {"document": document}, "timeout": 30.0}
        run = node.submitted(task, target_node="node-1")
        worker.until(lambda: worker.pids, "the task of its child run")
        child = worker.child(run.run_id)
        for _ in range(3):
            worker.turn()
        node.later(31)

        def over() -> bool:
            node.later(0.05)
            return worker.task(run.run_id).status is TaskState.FAILED

        worker.until(over, "the end of the task")
        assert node.run(child).status is RunState.CANCELLED
        assert "timed out after 30 s" in (worker.task(run.run_id).error or "")


def test_a_worker_whose_id_was_taken_over_parks_nothing(tmp_path: Path) -> None:
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        run = node.submitted({"command": "true"}, target_node="node-1")
        controlled(node, run.run_id, "pause")
        worker.until(lambda: worker.queued(run.run_id) is QueueState.CLAIMED and worker.loop.resting, "the claim")
        with node.store.transaction():
            (row,) = node.store.workers.all()
            node.store.workers.take(row)

        with pytest.raises(FencedError):
            worker.loop.put_away()
        assert worker.queued(run.run_id) is QueueState.CLAIMED
