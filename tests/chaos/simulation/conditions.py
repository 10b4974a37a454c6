"""What simulated tasks say of whether they run, and what has to come of it."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

from cis.model.dag import TaskSpec
from cis.model.trigger_rules import TriggerRule, Upstream, judge
from tests.chaos.simulation.rows import Rows, Specs, Task

# Each condition that is drawn, and what it comes to; None: it has no value, so the task is failed.
COMES_TO: Mapping[str, bool | None] = {
    "run.id != ''": True,
    "run.id == '' || node.id != run.id": True,
    "run.id == ''": False,
    "int(run.dag_id) > 0": None,
    "run.scheduled_at": None,
}
OF_ITEM = "item != 'i1'"


def draw(rng: random.Random, task: dict[str, Any]) -> None:
    """Let a task say something of whether it runs."""
    if "depends_on" in task and rng.random() < 0.25:
        task["trigger_rule"] = str(rng.choice(list(TriggerRule)))
    if rng.random() < 0.15:
        known = [OF_ITEM, *COMES_TO] if "foreach" in task else [*COMES_TO]
        task["when"] = rng.choice(known)


def comes_to(spec: TaskSpec, row: Task) -> bool | None:
    """Return what the condition of a task comes to."""
    if spec.when is None:
        return True
    if spec.when == OF_ITEM:
        return row.part_of is None or json.loads(row.given or "{}")["item"] != "i1"
    return COMES_TO[spec.when]


def upstream(rows: Rows, specs: Specs, run_id: str, number: int) -> Upstream:
    """Return how what is before a task counts for it."""
    counts = {"open": 0, "success": 0, "failed": 0, "skipped": 0}
    for parent in specs.parents(rows, run_id, number):
        counts[_counts_as(rows.tasks[parent])] += 1
    return Upstream(**counts)


def outcome_of(spec: TaskSpec, before: Upstream) -> str:
    """Return what becomes of a task, as its rule has it: ``wait``, ``run``, or why it is skipped."""
    step, outcome = judge(spec.trigger_rule, before)
    return str(outcome or step)


def _counts_as(task: Task) -> str:
    if task.status in ("pending", "running"):
        return "open"
    if task.status == "skipped":
        return "failed" if task.outcome in (None, "upstream_failed") else "skipped"
    return "success" if task.status == "completed" else "failed"
