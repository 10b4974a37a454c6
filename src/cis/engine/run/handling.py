"""How a run that has handlers ends: its verdict is settled, then its handlers run, then it is over.

The rows of the handlers that apply are added in the transaction that ends the last other task (``begun``). Each of them
keeps the verdict (``TaskRecord.given``), so whoever takes the run up goes on from there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from cis.errors import PoisonRecordError
from cis.model.dag import HANDLER, DagSpec, Json
from cis.model.handlers import EXIT, applying
from cis.model.states import RunState
from cis.store.records import RunRecord, TaskRecord

MOST_FAILED_BYTES = 16 * 2**10  # of the ids that a handler is told
MOST_ERROR = 4096  # characters of an error that a handler is told


class Verdict(NamedTuple):
    """How a run has ended but for its handlers: ``error`` is what is said of the run itself, ``told`` what they are told."""

    status: RunState
    error: str | None
    told: str | None

    def as_given(self) -> str:
        """Return it as the row of a handler keeps it."""
        return json.dumps({**self._asdict(), "status": str(self.status)})


def verdict_of(task: TaskRecord) -> Verdict:
    """Return the verdict that the row of a handler keeps. Raises PoisonRecordError."""
    try:
        plain: dict[str, Json] = json.loads(task.given or "")
        return Verdict(RunState(plain["status"]), plain["error"], plain["told"])
    except (ValueError, KeyError, TypeError) as error:
        raise PoisonRecordError(
            f"task {task.task_id} of run {task.run_id}", "what it was given is not a verdict"
        ) from error


def begun(spec: DagSpec, run: RunRecord, verdict: Verdict, *, first: int) -> list[TaskRecord]:
    """Return the rows of the handlers that apply, from number *first* on; a run that never began has none."""
    if run.started_at_us is None and verdict.status is RunState.CANCELLED:
        return []
    given = verdict.as_given()
    return [
        TaskRecord(run_id=run.run_id, task_no=first + place, task_id=HANDLER + name, given=given)
        for place, name in enumerate(applying(verdict.status, spec.handlers))
    ]


def is_handler(task: TaskRecord) -> bool:
    """Whether an added task is a handler."""
    return task.part_of is None and task.given is not None


def waits_for_others(task: TaskRecord, tasks: Sequence[TaskRecord]) -> bool:
    """Whether a handler is the last one and another one is not over yet."""
    if task.task_id != HANDLER + EXIT:
        return False
    return any(not one.status.final for one in tasks if is_handler(one) and one.task_id != task.task_id)


def told(verdict: Verdict, tasks: Sequence[TaskRecord]) -> dict[str, str]:
    """Return the variables that tell a handler how the run has ended."""
    failed = [task.task_id for task in tasks if task.is_failure and not task.is_added]
    names = " ".join(failed)
    if len(names) > MOST_FAILED_BYTES:
        names = names[:MOST_FAILED_BYTES].rpartition(" ")[0]
    return {
        "CIS_RUN_STATUS": str(verdict.status),
        "CIS_FAILED_TASKS": names,
        "CIS_ERROR": (verdict.told or "")[:MOST_ERROR],
    }
