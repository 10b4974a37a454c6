"""The states of runs, tasks and attempts, the arrows between them, and who moves along each; how urgent a run is.

``docs/reference/states.md`` draws them; a test holds the drawings to the tables here. Final states are final: a rerun
is a new run. An attempt is one process of a task; ``lost`` means that nobody saw its end, since a crash cut it short.

Where another node executes a run, its rows here are copies, and reports move them along any of these arrows.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import NamedTuple

from cis.errors import IllegalStateError


class Priority(IntEnum):
    """How urgent a run is; a higher one takes free slots first."""

    LOW = 10
    NORMAL = 20
    HIGH = 30
    CRITICAL = 40

    def __str__(self) -> str:
        return self.name.lower()


class TriggerKind(StrEnum):
    """What began a run: a person, by a command, HTTP or in the room, a task of another run (``dag``), or a rerun."""

    MANUAL = "manual"
    ROOM = "room"
    DAG = "dag"
    RERUN = "rerun"


class Trigger(NamedTuple):
    """What began a run: ``id`` is the other run, or the event in the room; ``by`` is who asked, where that is known."""

    kind: TriggerKind
    id: str | None = None
    by: str | None = None


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
        return not RUN_ARROWS[self]


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
        return not TASK_ARROWS[self]


class Outcome(StrEnum):
    """What the end of a task counts as, beyond its status: a failure that is allowed, or why it was skipped.

    What follows a failure that is allowed goes on as if the task had completed. Of a skipped one: by its ``condition``,
    by its exit status (``code``), because ``all_failed`` or ``one_failed`` did not hold (``rule``), because something
    directly before it counts as failed, or else because something directly before it was skipped.
    """

    ALLOWED = "allowed"
    CONDITION = "condition"
    CODE = "code"
    RULE = "rule"
    UPSTREAM_FAILED = "upstream_failed"
    UPSTREAM_SKIPPED = "upstream_skipped"


_SKIPPED_BY_ITSELF = {
    Outcome.CONDITION: "skipped by its condition",
    Outcome.CODE: "skipped by its exit status",
    Outcome.RULE: "skipped, since its trigger rule does not hold",
}


def skip_words(reason: str | None, because: str | None) -> str:
    """Return in words why a task was skipped: the reason, and the task because of which it was."""
    own = _SKIPPED_BY_ITSELF.get(Outcome(reason)) if reason else None
    return own or (f"skipped because of {because}" if because else "skipped")


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


class Mover(StrEnum):
    """Who moves a row along an arrow."""

    WORKER = "worker"  # the one that holds the run, or the next one of its id
    CONTROL = "control"  # pause and resume; cancel, where no worker holds the run
    DELIVERY = "delivery"  # gives up a run that no other node will execute


_BY_WORKER = frozenset({Mover.WORKER})
_BY_CONTROL = frozenset({Mover.CONTROL})
_BY_WORKER_OR_CONTROL = frozenset({Mover.WORKER, Mover.CONTROL})
_BY_WORKER_OR_DELIVERY = frozenset({Mover.WORKER, Mover.DELIVERY})
_BY_ANYBODY_HERE = frozenset({Mover.WORKER, Mover.CONTROL, Mover.DELIVERY})

RUN_ARROWS: Mapping[RunState, Mapping[RunState, frozenset[Mover]]] = {
    RunState.PENDING: {
        RunState.RUNNING: _BY_WORKER,
        RunState.PAUSED: _BY_CONTROL,
        RunState.FAILED: _BY_WORKER_OR_DELIVERY,
        RunState.CANCELLED: _BY_ANYBODY_HERE,
    },
    RunState.RUNNING: {
        RunState.PAUSED: _BY_CONTROL,
        RunState.COMPLETED: _BY_WORKER,
        RunState.FAILED: _BY_WORKER_OR_DELIVERY,
        RunState.CANCELLED: _BY_ANYBODY_HERE,
    },
    RunState.PAUSED: {
        RunState.PENDING: _BY_CONTROL,
        RunState.RUNNING: _BY_WORKER_OR_CONTROL,
        RunState.COMPLETED: _BY_WORKER,
        RunState.FAILED: _BY_WORKER_OR_DELIVERY,
        RunState.CANCELLED: _BY_ANYBODY_HERE,
    },
    RunState.COMPLETED: {},
    RunState.FAILED: {},
    RunState.CANCELLED: {},
}

TASK_ARROWS: Mapping[TaskState, Mapping[TaskState, frozenset[Mover]]] = {
    TaskState.PENDING: {
        TaskState.RUNNING: _BY_WORKER,
        TaskState.FAILED: _BY_WORKER,
        TaskState.SKIPPED: _BY_WORKER,
        TaskState.CANCELLED: _BY_ANYBODY_HERE,
    },
    TaskState.RUNNING: {
        TaskState.PENDING: _BY_WORKER,
        TaskState.COMPLETED: _BY_WORKER,
        TaskState.FAILED: _BY_WORKER,
        TaskState.SKIPPED: _BY_WORKER,
        TaskState.CANCELLED: _BY_ANYBODY_HERE,
    },
    TaskState.COMPLETED: {},
    TaskState.FAILED: {},
    TaskState.SKIPPED: {},
    TaskState.CANCELLED: {},
}

ATTEMPT_ARROWS: Mapping[AttemptState, Mapping[AttemptState, frozenset[Mover]]] = {
    AttemptState.RUNNING: {
        AttemptState.COMPLETED: _BY_WORKER,
        AttemptState.FAILED: _BY_WORKER,
        AttemptState.CANCELLED: _BY_WORKER,
        AttemptState.LOST: _BY_ANYBODY_HERE,
    },
    AttemptState.COMPLETED: {},
    AttemptState.FAILED: {},
    AttemptState.LOST: {},
    AttemptState.CANCELLED: {},
}


def check_run_arrow(run_id: str, old: RunState, new: RunState) -> None:
    """Raise IllegalStateError unless a run may go from *old* to *new*."""
    if new not in RUN_ARROWS[old]:
        raise IllegalStateError(f"run {run_id}", old, new)


def check_task_arrow(task_id: str, old: TaskState, new: TaskState) -> None:
    """Raise IllegalStateError unless a task may go from *old* to *new*."""
    if new not in TASK_ARROWS[old]:
        raise IllegalStateError(f"task {task_id}", old, new)


def check_attempt_arrow(what: str, old: AttemptState, new: AttemptState) -> None:
    """Raise IllegalStateError unless an attempt may go from *old* to *new*."""
    if new not in ATTEMPT_ARROWS[old]:
        raise IllegalStateError(what, old, new)
