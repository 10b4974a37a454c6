"""Whether tasks run that have a ``when``: it is judged once, when the task could start, before its first attempt.

All that a condition sees is fixed by then (parameters, and how earlier tasks ended), so a worker that takes the run up
judges what nobody has stored yet, with the same result. False skips the task; what has no value fails it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from cis.engine.run.plan import RunPlan
from cis.engine.this_node import ThisNode
from cis.engine.times import Instant
from cis.model.dag import Json

MOST_JUDGED = 200  # in one turn
MOST_STEPS = 500_000  # of their evaluations together, but for the last


def judge_conditions(plan: RunPlan, this_node: ThisNode, now: Instant) -> None:
    """Judge tasks that could start, up to a bound; the plan's backlog has the others."""
    from cis.model.conditions import judge, uses  # noqa: PLC0415 - most DAGs have none

    left, steps = MOST_JUDGED, 0
    while plan.undecided and left and steps < MOST_STEPS:
        number = plan.undecided.popleft()
        text = plan.task_spec(number).when or ""
        judged = judge(text, _names(plan, number, this_node, tasks=uses(text).tasks))
        error = None if judged.error is None else f"its condition failed: {judged.error}"
        plan.take_condition(number, now, holds=judged.holds, error=error)
        left -= 1
        steps += judged.steps


def _names(plan: RunPlan, number: int, this_node: ThisNode, *, tasks: frozenset[str]) -> Mapping[str, Json]:
    """Return what a condition may name, of tasks those that are given."""
    run, system = plan.run, os.uname()
    return {
        "params": plan.values.params,
        "tasks": plan.values.ended(tasks),
        "run": {
            "id": run.run_id,
            "dag_id": run.dag_id,
            "scope": str(run.scope),
            "trigger": None if run.trigger is None else str(run.trigger.kind),
            "scheduled_at": None,
        },
        "node": {
            "id": this_node.node_id,
            "labels": list(this_node.labels),
            "os": system.sysname.lower(),
            "arch": system.machine.lower(),
        },
        **plan.values.given(number),
    }
