"""Why runs and tasks wait: each reason, and which of several is told."""

from __future__ import annotations

from typing import Any

import pytest

from cis.engine.observe.waiting import MAX_NAMED, Surroundings, Waiting, WaitReason, run_waiting, tasks_waiting
from cis.model.scope import GLOBAL
from cis.model.states import RunState, TaskState
from cis.store.records import QueueState, RunRecord, TaskRecord, WorkerState
from tests.worlds.rows import run as stored_run
from tests.worlds.rows import worker as stored_worker

RUN = stored_run("r", status=RunState.RUNNING, scope=GLOBAL, worker_id=GLOBAL.worker_id, task_count=1)
WORKER = stored_worker(worker_id=GLOBAL.worker_id, scope=GLOBAL, status=WorkerState.BUSY)


def around(**changes: Any) -> Surroundings:
    """Return the surroundings of a run that its live worker holds."""
    facts: dict[str, Any] = {"queue": QueueState.CLAIMED, "worker": WORKER, "depends_on": {}}
    return Surroundings(**{**facts, **changes})


def rows(**states: TaskState) -> list[TaskRecord]:
    """Return a task in each of these states, by id."""
    return [
        TaskRecord(run_id="r", task_no=number, task_id=name, status=state)
        for number, (name, state) in enumerate(states.items())
    ]


def why(run: RunRecord, tasks: list[TaskRecord], facts: Surroundings) -> tuple[Waiting | None, dict[str, Waiting]]:
    """Return why the run waits, and why its tasks do."""
    reasons = tasks_waiting(run, tasks, facts)
    return run_waiting(run, tasks, facts, reasons=reasons), reasons


def test_a_queued_run_without_a_live_worker_waits_for_the_worker() -> None:
    pending = RUN._replace(status=RunState.PENDING)
    not_there = (WorkerState.STOPPED, WorkerState.DEAD, WorkerState.STARTING)
    for worker in (None, *(WORKER._replace(status=state) for state in not_there)):
        run, tasks = why(pending, rows(a=TaskState.PENDING), around(queue=QueueState.QUEUED, worker=worker))

        assert run == tasks["a"] == Waiting(reason=WaitReason.WORKER, on=("worker-global",), count=1)


def test_a_queued_run_of_a_live_worker_waits_for_a_slot() -> None:
    run, tasks = why(RUN._replace(status=RunState.PENDING), rows(a=TaskState.PENDING), around(queue=QueueState.QUEUED))

    assert run == tasks["a"] == Waiting(reason=WaitReason.SLOT)


def test_a_run_waits_for_nothing_while_one_of_its_tasks_runs() -> None:
    facts = around(depends_on={"b": ["a"]})

    run, tasks = why(RUN, rows(a=TaskState.RUNNING, b=TaskState.PENDING, c=TaskState.PENDING), facts)

    assert run is None
    assert tasks == {
        "b": Waiting(reason=WaitReason.DEPENDENCY, on=("a",), count=1),
        "c": Waiting(reason=WaitReason.SLOT),
    }


def test_only_dependencies_that_did_not_complete_are_named() -> None:
    facts = around(depends_on={"c": ["a", "b"]})

    _, tasks = why(RUN, rows(a=TaskState.COMPLETED, b=TaskState.RUNNING, c=TaskState.PENDING), facts)

    assert tasks["c"].on == ("b",)


def test_at_most_ten_dependencies_are_named_and_all_are_counted() -> None:
    parents = {f"p{number}": TaskState.PENDING for number in range(25)}
    facts = around(depends_on={"last": list(parents)})

    _, tasks = why(RUN, rows(**parents, last=TaskState.PENDING), facts)

    assert len(tasks["last"].on) == MAX_NAMED == 10
    assert tasks["last"].count == 25
    assert tasks["last"].sentence.endswith("p9 and 15 more")


def test_a_retry_says_until_when_it_waits_and_the_run_waits_for_the_first_of_them() -> None:
    tasks = rows(a=TaskState.PENDING, b=TaskState.PENDING, c=TaskState.PENDING)
    tasks[0] = tasks[0]._replace(due_at_us=2_000_000)
    tasks[1] = tasks[1]._replace(due_at_us=1_000_000)

    run, reasons = why(RUN, tasks, around(depends_on={"c": ["a"]}))

    assert reasons["a"].to_dict() == {
        "reason": "retry",
        "on": [],
        "count": 0,
        "until": "1970-01-01T00:00:02.000000Z",
        "message": "waits for its retry at 1970-01-01T00:00:02.000000Z",
    }
    assert run == Waiting(reason=WaitReason.RETRY, until_us=1_000_000)


def test_a_paused_run_and_what_could_start_in_it_wait_because_it_is_paused() -> None:
    facts = around(depends_on={"b": ["a"]}, worker=None)

    run, tasks = why(RUN._replace(status=RunState.PAUSED), rows(a=TaskState.PENDING, b=TaskState.PENDING), facts)

    assert run == tasks["a"] == Waiting(reason=WaitReason.PAUSED)
    assert tasks["b"].reason is WaitReason.DEPENDENCY


def test_a_dag_as_a_task_waits_for_its_child_run_and_so_does_a_run_of_nothing_else() -> None:
    tasks = [rows(a=TaskState.RUNNING)[0]._replace(child_run_id="child")]

    run, reasons = why(RUN, tasks, around())

    assert run == reasons["a"] == Waiting(reason=WaitReason.CHILD_RUN, on=("child",), count=1)
    assert reasons["a"].sentence == "waits for run child"


@pytest.mark.parametrize("state", [state for state in RunState if state.final])
def test_a_run_that_is_over_waits_for_nothing(state: RunState) -> None:
    assert why(RUN._replace(status=state), rows(a=TaskState.PENDING), around()) == (None, {})
