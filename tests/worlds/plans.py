"""Plans of runs that are in no store, for decisions alone."""

from __future__ import annotations

from typing import Any

from cis.engine.run.plan import RunPlan
from cis.engine.times import Instant
from cis.model.dag import DagSpec, TaskSpec
from cis.model.scope import GLOBAL
from cis.model.states import RunState
from cis.store.records import TaskRecord
from tests.worlds import rows

NOW = Instant(1_000_000_000, 100.0)


def plan_of(*tasks: TaskSpec, **changes: Any) -> RunPlan:
    """Return the plan of a running run of *tasks*, none of them started."""
    spec = DagSpec(
        dag_id="d",
        tasks=tasks,
        max_parallel=changes.pop("max_parallel", None),
        timeout_s=changes.pop("timeout_s", None),
    )
    facts = {"status": RunState.RUNNING, "scope": GLOBAL, "worker_id": GLOBAL.worker_id, "task_count": len(tasks)}
    run = rows.run("r", **{**facts, **changes})
    stored = [TaskRecord(run_id="r", task_no=number, task_id=task.id) for number, task in enumerate(tasks)]
    return placed(RunPlan(run, spec, stored))


def placed(plan: RunPlan, *, now: Instant = NOW) -> RunPlan:
    """Return a plan that has looked at all of its tasks."""
    for _ in plan.place_in_pieces(now, size=2):
        pass
    return plan


def task(task_id: str, *after: str, **fields: Any) -> TaskSpec:
    """Return a task that depends on *after*."""
    return TaskSpec(id=task_id, command="true", depends_on=after, **fields)


def states(plan: RunPlan) -> list[str]:
    """Return the states of a plan's tasks in order."""
    return [str(one.status) for one in plan.tasks]
