"""The task rows of one run while its plan works on them: every change is checked, and noted for the store.

The plan decides what happens to a task; here is what that means for its row. Rows only move along the arrows of
``cis.model.states``, and each change is noted as a pair (as it was, as it becomes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cis.engine.accept.admission import is_no_place
from cis.engine.times import Instant
from cis.model.dag import Json
from cis.model.states import Outcome, TaskState, check_task_arrow
from cis.store.records import TaskRecord


class TaskRows:
    """The rows of a run's tasks, by their place in the document, and what has changed since the last write."""

    def __init__(self, tasks: Sequence[TaskRecord]) -> None:
        self.tasks = list(tasks)
        self.unfinished = 0  # as whoever looks at the rows counts them; each end takes one off
        self.set_us = 0  # how far the clock was set (``Instant``) before this process had the rows
        self._changes: list[tuple[TaskRecord, TaskRecord]] = []
        self._set_before: dict[
            int, tuple[int, int]
        ] = {}  # likewise before a task's first attempt, and before its latest

    @property
    def changed(self) -> int:
        """How many changes are noted since they were last taken."""
        return len(self._changes)

    def take_changes(self) -> list[tuple[TaskRecord, TaskRecord]]:
        """Return the changes since the last call, in order."""
        changes, self._changes = self._changes, []
        return changes

    def set_during(self, number: int, now: Instant) -> int:
        """Return how far the clock was set during the latest attempt of a task, as far as this process saw it."""
        return now.set_us - self._set_before.get(number, (self.set_us, self.set_us))[1]

    def start(
        self, number: int, now: Instant, *, child_run_id: str | None = None, due_at_us: int | None = None
    ) -> None:
        """Move a task to running, in its next attempt."""
        old = self.tasks[number]
        if now.set_us != self.set_us:
            first = self._set_before.get(number, (self.set_us, 0))[0] if old.attempts else now.set_us
            self._set_before[number] = first, now.set_us
        new = old._replace(
            status=TaskState.RUNNING,
            version=old.version + 1,
            attempts=old.attempts + 1,
            started_at_us=now.wall_us if old.started_at_us is None else old.started_at_us,
            due_at_us=due_at_us,
            child_run_id=child_run_id,
            error=None if is_no_place(old.error) else old.error,
        )
        self._move(number, old, new)

    def open(self, number: int, now: Instant) -> None:
        """Move a task to running that has no attempts of its own: its instances have."""
        old = self.tasks[number]
        started_at_us = now.wall_us if old.started_at_us is None else old.started_at_us
        new = old._replace(status=TaskState.RUNNING, version=old.version + 1, started_at_us=started_at_us)
        self._move(number, old, new)

    def add(self, tasks: Sequence[TaskRecord]) -> None:
        """Know rows that the run got while it went on; those that are over are not counted."""
        self.tasks.extend(tasks)
        self.unfinished += sum(not task.status.final for task in tasks)

    def put_back(self, number: int) -> None:
        """Move a task back to pending as if its attempt had never begun."""
        old = self.tasks[number]
        new = old._replace(
            status=TaskState.PENDING,
            version=old.version + 1,
            attempts=old.attempts - 1,
            started_at_us=None if old.attempts == 1 else old.started_at_us,
        )
        self._move(number, old, new)

    def explain(self, number: int, why: str | None) -> None:
        """Note why a task does not start yet, or why nobody knows how it does."""
        old = self.tasks[number]
        if old.error != why:
            self.tasks[number] = old._replace(version=old.version + 1, error=why)
            self._changes.append((old, self.tasks[number]))

    def wait(
        self, number: int, due_at_us: int | None, *, failures: int = 0, exit_code: int | None, error: str | None
    ) -> None:
        """Move a task back to pending after an attempt, until *due_at_us* (None: it may start at once)."""
        old = self.tasks[number]
        new = old._replace(
            status=TaskState.PENDING,
            version=old.version + 1,
            failures=old.failures + failures,
            exit_code=exit_code,
            error=error,
            due_at_us=due_at_us,
            child_run_id=None,
        )
        self._move(number, old, new)

    def finish(
        self,
        number: int,
        status: TaskState,
        *,
        now: Instant,
        exit_code: int | None = None,
        error: str | None = None,
        outputs: Mapping[str, Json] | None = None,
        blocked_by: str | None = None,
        outcome: Outcome | None = None,
    ) -> None:
        """Move a task to a final state. *now* is by the clock as it was in its latest attempt."""
        self.unfinished -= 1
        old = self.tasks[number]
        first, latest = self._set_before.pop(number, (0, 0)) if self._set_before else (0, 0)
        new = old._replace(
            status=status,
            version=old.version + 1,
            failures=old.failures + (status is TaskState.FAILED),
            exit_code=exit_code,
            finished_at_us=max(now.wall_us - (latest - first), old.started_at_us or 0),
            error=error,
            outputs=outputs or {},
            blocked_by=blocked_by,
            due_at_us=None,
            outcome=outcome,
        )
        self._move(number, old, new)

    def _move(self, number: int, old: TaskRecord, new: TaskRecord) -> None:
        check_task_arrow(old.task_id, old.status, new.status)
        self.tasks[number] = new
        self._changes.append((old, new))
