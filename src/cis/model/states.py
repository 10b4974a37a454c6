"""The state machines of run, task and attempt, and who moves each arrow.

A *run* is moved by its worker, except where control (cancel, pause, resume) says so:

    pending ──worker──> running ──worker──> completed | failed | cancelled
       │  ^                │  ^
       └──┴──control──> paused┘        a paused run's last tasks may still end it

A *task* is moved by the worker that holds its run: it runs, ends, or waits for its retry as
pending again; it is skipped when what it depends on did not complete.

An *attempt* is one process of a task. ``lost`` means a crash cut it short, so nobody saw its end.

Final states are final: a rerun is a new run.
"""

from __future__ import annotations

from enum import StrEnum

from cis.errors import IllegalStateError


class RunState(StrEnum):
    """What a run can be."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing can move a run out of this state."""
        return not _RUN_ARROWS[self]


class TaskState(StrEnum):
    """What a task of a run can be."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing can move a task out of this state."""
        return not _TASK_ARROWS[self]


class AttemptState(StrEnum):
    """What one attempt at a task can be."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    LOST = "lost"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether the attempt is over."""
        return self is not AttemptState.RUNNING


_RUN_ARROWS: dict[RunState, frozenset[RunState]] = {
    RunState.PENDING: frozenset({RunState.RUNNING, RunState.PAUSED, RunState.FAILED, RunState.CANCELLED}),
    RunState.RUNNING: frozenset({RunState.PAUSED, RunState.COMPLETED, RunState.FAILED, RunState.CANCELLED}),
    RunState.PAUSED: frozenset(
        {RunState.PENDING, RunState.RUNNING, RunState.COMPLETED, RunState.FAILED, RunState.CANCELLED}
    ),
    RunState.COMPLETED: frozenset(),
    RunState.FAILED: frozenset(),
    RunState.CANCELLED: frozenset(),
}

_TASK_ARROWS: dict[TaskState, frozenset[TaskState]] = {
    TaskState.PENDING: frozenset({TaskState.RUNNING, TaskState.FAILED, TaskState.SKIPPED, TaskState.CANCELLED}),
    TaskState.RUNNING: frozenset({TaskState.PENDING, TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED}),
    TaskState.COMPLETED: frozenset(),
    TaskState.FAILED: frozenset(),
    TaskState.SKIPPED: frozenset(),
    TaskState.CANCELLED: frozenset(),
}

_ATTEMPT_ARROWS: dict[AttemptState, frozenset[AttemptState]] = {
    state: frozenset(set(AttemptState) - {AttemptState.RUNNING}) if state is AttemptState.RUNNING else frozenset()
    for state in AttemptState
}


def check_run_arrow(run_id: str, old: RunState, new: RunState) -> None:
    """Raise IllegalStateError unless a run may go from *old* to *new*."""
    if new not in _RUN_ARROWS[old]:
        raise IllegalStateError(f"run {run_id}", old, new)


def check_task_arrow(task_id: str, old: TaskState, new: TaskState) -> None:
    """Raise IllegalStateError unless a task may go from *old* to *new*."""
    if new not in _TASK_ARROWS[old]:
        raise IllegalStateError(f"task {task_id}", old, new)


def check_attempt_arrow(what: str, old: AttemptState, new: AttemptState) -> None:
    """Raise IllegalStateError unless an attempt may go from *old* to *new*."""
    if new not in _ATTEMPT_ARROWS[old]:
        raise IllegalStateError(what, old, new)
