"""How far what is directly before each task of a run has come, and what that makes of the task.

Nearly all tasks complete, so what is counted of every task is for how many it waits; what else became of those before it
is kept for the few of which there is something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cis.model.dag import DagSpec
from cis.model.graph import Graph
from cis.model.states import Outcome, TaskState
from cis.model.trigger_rules import Step, TriggerRule, Upstream, judge
from cis.store.records import TaskRecord


class Decision(NamedTuple):
    """What becomes of a task; of one that is skipped, why, and because of which task."""

    step: Step
    outcome: Outcome | None = None
    because: str | None = None


WAIT, RUN = Decision(Step.WAIT), Decision(Step.RUN)


class _Others:
    """How many of the tasks before one count as failed and as skipped, and the first of each."""

    __slots__ = ("failed", "first_failed", "first_skipped", "skipped")

    def __init__(self) -> None:
        self.failed = self.skipped = 0
        self.first_failed: str | None = None
        self.first_skipped: str | None = None

    def note(self, task: TaskRecord) -> None:
        if task.counts_as_failed:
            self.failed += 1
            self.first_failed = self.first_failed or task.blocked_by or task.task_id
        elif task.status is TaskState.SKIPPED:
            self.skipped += 1
            self.first_skipped = self.first_skipped or task.blocked_by or task.task_id


class UpstreamCounts:
    """What is before each task, by the tasks' numbers; *tasks* is the plan's own list."""

    def __init__(self, spec: DagSpec, graph: Graph, tasks: Sequence[TaskRecord]) -> None:
        self._spec = spec
        self._parents = graph.parents
        self._tasks = tasks
        self._open = [0] * len(spec.tasks)
        self._others: dict[int, _Others] = {}
        self._fired: set[int] = set()  # by a rule that does not wait for all
        self._none_over = all(task.status is TaskState.PENDING for task in tasks)

    def place(self, number: int) -> None:
        """Count what is before a task, as the rows have it."""
        parents = self._parents[number]
        if self._none_over:
            self._open[number] = len(parents)
            return
        for parent in parents:
            task = self._tasks[parent]
            if task.status is TaskState.COMPLETED:
                continue
            if task.status.final:
                self._note(number, task)
            else:
                self._open[number] += 1

    def waits_for_one(self, number: int) -> bool:
        """Whether a task waits for one more alone, and runs as soon as that completes, unless something was skipped."""
        return self._open[number] == 1 and number not in self._fired

    def take_end(self, number: int, task: TaskRecord) -> None:
        """Note that a task before *number* is over."""
        self._open[number] -= 1
        if task.status is not TaskState.COMPLETED:
            self._note(number, task)

    def decide(self, number: int) -> Decision:
        """Return what becomes of a task; RUN is said once."""
        others = self._others.get(number)
        rule = self._spec.tasks[number].trigger_rule
        if others is None and rule is TriggerRule.ALL_SUCCESS:
            return WAIT if self._open[number] else RUN
        if number in self._fired:
            return WAIT
        failed, skipped = (others.failed, others.skipped) if others is not None else (0, 0)
        still = self._open[number]
        success = len(self._parents[number]) - still - failed - skipped
        step, outcome = judge(rule, Upstream(still, success, failed, skipped))
        if step is Step.WAIT:
            return WAIT
        if step is Step.RUN:
            self._fired.add(number)
            return RUN
        because = None
        if others is not None and outcome is not Outcome.RULE:
            because = others.first_failed if outcome is Outcome.UPSTREAM_FAILED else others.first_skipped
        return Decision(step, outcome, because)

    def _note(self, number: int, task: TaskRecord) -> None:
        if number not in self._others:
            self._others[number] = _Others()
        self._others[number].note(task)
