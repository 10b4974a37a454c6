"""Whether a task runs, by how what it directly depends on has ended: its trigger rule.

What has ended counts as a success (also a failure that is allowed), as failed (failed, cancelled, or skipped because
something before it failed), or as skipped (by its condition, its exit status or its rule, or after such alone).
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from cis.model.states import Outcome


class TriggerRule(StrEnum):
    """When a task runs; the names are Airflow's. ``one_…`` fire at once, the others wait for all."""

    ALL_SUCCESS = "all_success"
    ALL_DONE = "all_done"
    ALL_FAILED = "all_failed"
    ONE_SUCCESS = "one_success"
    ONE_FAILED = "one_failed"
    NONE_FAILED = "none_failed"
    NONE_FAILED_MIN_ONE_SUCCESS = "none_failed_min_one_success"
    ALWAYS = "always"

    @property
    def needs_no_failure(self) -> bool:
        """Whether one failure decides that the task does not run, whatever the rest comes to."""
        return self in _ENDED_BY_A_FAILURE


class Upstream(NamedTuple):
    """How many of the tasks directly before one are not over, and how many of the others count as what."""

    open: int
    success: int
    failed: int
    skipped: int


class Step(StrEnum):
    """What is to become of a task."""

    WAIT = "wait"
    RUN = "run"
    SKIP = "skip"


def judge(rule: TriggerRule, before: Upstream) -> tuple[Step, Outcome | None]:
    """Return what becomes of a task, and why it is skipped if it is."""
    if not any(before):
        return Step.RUN, None
    if rule is TriggerRule.ONE_SUCCESS and before.success:
        return Step.RUN, None
    if rule is TriggerRule.ONE_FAILED and before.failed:
        return Step.RUN, None
    if rule.needs_no_failure and before.failed:
        return Step.SKIP, Outcome.UPSTREAM_FAILED
    if before.open:
        return Step.WAIT, None
    if _holds(rule, before):
        return Step.RUN, None
    if rule in _ABOUT_FAILURES:
        return Step.SKIP, Outcome.RULE
    return Step.SKIP, Outcome.UPSTREAM_FAILED if before.failed else Outcome.UPSTREAM_SKIPPED


_ENDED_BY_A_FAILURE = (TriggerRule.ALL_SUCCESS, TriggerRule.NONE_FAILED, TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS)
_ABOUT_FAILURES = (TriggerRule.ALL_FAILED, TriggerRule.ONE_FAILED)


def _holds(rule: TriggerRule, before: Upstream) -> bool:
    """Whether a rule holds of tasks that are over, all of them."""
    match rule:
        case TriggerRule.ALL_SUCCESS:
            return not (before.failed or before.skipped)
        case TriggerRule.ALL_FAILED:
            return not (before.success or before.skipped)
        case TriggerRule.ONE_SUCCESS | TriggerRule.ONE_FAILED:
            return False  # it would have run
        case TriggerRule.NONE_FAILED:
            return not before.failed
        case TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS:
            return not before.failed and before.success > 0
    return True
