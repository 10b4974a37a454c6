"""What the store hands out and takes in: one frozen record for each kind of row.

What is made for every task or every run is a named tuple: to make one, or a copy with some values changed
(``_replace``), costs a third of what a frozen dataclass does.

Annotations are no text here: a named tuple would compile each, which is a twentieth of a short command.
Times are integers, microseconds since 1970-01-01 UTC (``…_us``); outputs are JSON values by name.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar

from cis.model.scope import Scope, ScopeSource
from cis.model.scope_rules import Patterns
from cis.model.states import AttemptState, Outcome, Priority, RunState, TaskState, Trigger

T = TypeVar("T")
NO_OUTPUTS: Mapping[str, Any] = MappingProxyType({})
TAIL_BYTES = 8192
AS_DEFINED = "="  # in place of a document in the queue: it is large, and that of the run's definition
NO_DATA: Mapping[str, int | None] = MappingProxyType({})


class QueueState(StrEnum):
    """Whether a worker holds a queued run; rows of ended runs are deleted.

    ``parked``: its worker has let go of it, since it only waits; it is queued again when it is due, or when a child run
    of it ends, or it is resumed.
    """

    QUEUED = "queued"
    CLAIMED = "claimed"
    PARKED = "parked"
    WAITING = "waiting"  # for one of the places that its scope has (``cis.engine.accept.admission``)
    SUSPENDED = "suspended"  # granted by a node whose lease is over: no worker takes it until that node says so


class WorkerState(StrEnum):
    """What a worker says of itself; ``dead`` is said by others, of one that vanished.

    ``waiting``: it holds runs, but none of them has anything to do: they wait for a child run, for a retry, or are
    paused. It takes no place of ``max_workers``, or a DAG could wait for a child that can get no worker.
    """

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    WAITING = "waiting"
    STOPPED = "stopped"
    DEAD = "dead"

    @property
    def live(self) -> bool:
        """Whether a process is expected behind the row."""
        return self not in (WorkerState.STOPPED, WorkerState.DEAD)


class Delivery(StrEnum):
    """How a run reached, or will reach, the node that executes it."""

    LOCAL = "local"
    PUSHED = "pushed"
    QUEUED = "queued"
    BROADCAST = "broadcast"


class NewDefinition(NamedTuple):
    """A version of a DAG's document that is to be stored, unless it is there already."""

    dag_id: str
    sha256: str
    scope: Scope
    target_node: str | None
    priority: Priority
    description: str
    task_count: int
    created_at_us: int
    document: str


class DefinitionRecord(NamedTuple):
    """One version of a DAG's document; ``saved_at_us`` is set for the one that ``cis dag save`` stored last."""

    definition_id: int
    dag_id: str
    sha256: str
    scope: Scope
    target_node: str | None
    priority: Priority
    description: str
    task_count: int
    created_at_us: int
    saved_at_us: int | None = None


class RunRecord(NamedTuple):
    """One run of a DAG. ``node_id`` accepted it; ``owner_node`` executes it.

    ``scopes`` are those that it and all that it starts may run in, as whoever handed it in may (None: all). ``tree`` is
    set for a run that is below another (``Runs.grow_tree``); ``above`` are the DAGs over it on the node that sent it.
    With ``errexit`` its text commands run under ``/bin/sh -e``; without, as programs of before accepted it, ``/bin/sh``.
    ``handled``: its DAG has handlers; ``cancelled_again``: those that run are to end, too.
    """

    run_id: str
    dag_id: str
    definition_id: int
    status: RunState
    scope: Scope
    scope_source: ScopeSource
    worker_id: str
    node_id: str
    owner_node: str
    target_node: str | None
    priority: Priority
    delivery: Delivery
    task_count: int
    created_at_us: int
    version: int = 1
    started_at_us: int | None = None
    finished_at_us: int | None = None
    cancel_requested: bool = False
    error: str | None = None
    idempotency_key: str | None = None
    rerun_of: str | None = None
    parent_run_id: str | None = None
    parent_task_id: str | None = None
    depth: int = 0
    scopes: Patterns | None = None
    tree: str | None = None
    above: tuple[str, ...] = ()
    errexit: bool = False
    trigger: Trigger | None = None
    handled: bool = False
    cancelled_again: bool = False


class RunHead(NamedTuple):
    """What of a run says whether it has changed, or is over."""

    version: int
    is_over: bool


class RunChange(NamedTuple):
    """New values for a run; a field that is None keeps the stored one."""

    status: RunState | None = None
    started_at_us: int | None = None
    finished_at_us: int | None = None
    cancel_requested: bool | None = None
    cancelled_again: bool | None = None
    error: str | None = None
    owner_node: str | None = None
    delivery: Delivery | None = None


class TaskRecord(NamedTuple):
    """One task of a run. ``task_no`` is its place in the document, from 0.

    ``attempts`` counts every attempt, ``failures`` those that used up ``max_retries``; ``blocked_by`` is the task because
    of which it was skipped; ``due_at_us`` is set while it waits: for its retry, or until its wait is over while it is
    running (0: only its skill can say); ``outcome`` is what its end counts as, beyond its status.

    A task that its run got while it went on comes after those of the document. It was ``given`` something, as JSON text:
    an item to the instance of a task (``part_of``, that one's number), to a handler how the run has ended.
    ``cancel_requested``: somebody wants it, and not its run, cancelled; no change of the row changes that.
    """

    run_id: str
    task_no: int
    task_id: str
    status: TaskState = TaskState.PENDING
    version: int = 1
    attempts: int = 0
    failures: int = 0
    exit_code: int | None = None
    started_at_us: int | None = None
    finished_at_us: int | None = None
    outputs: Mapping[str, Any] = NO_OUTPUTS
    error: str | None = None
    blocked_by: str | None = None
    due_at_us: int | None = None
    child_run_id: str | None = None
    outcome: Outcome | None = None
    part_of: int | None = None
    given: str | None = None
    cancel_requested: bool = False

    @property
    def is_added(self) -> bool:
        """Whether its run got it while it went on."""
        return self.given is not None

    @property
    def skip_reason(self) -> Outcome | None:
        """Why it was skipped; programs of before skipped only what followed a failure, and stored no reason."""
        return (self.outcome or Outcome.UPSTREAM_FAILED) if self.status is TaskState.SKIPPED else None

    @property
    def is_failure(self) -> bool:
        """Whether it failed, and was not allowed to."""
        return self.status is TaskState.FAILED and self.outcome is not Outcome.ALLOWED

    @property
    def counts_as_failed(self) -> bool:
        """Whether it is a failure for what follows it: also when it was cancelled, or skipped after a failure."""
        if self.status is TaskState.SKIPPED:
            return self.outcome in (None, Outcome.UPSTREAM_FAILED)
        return self.is_failure or self.status is TaskState.CANCELLED


class AttemptRecord(NamedTuple):
    """One attempt at a task: a row of ``task_executions``.

    ``pid`` is also the process group; ``pid_started`` tells a reused pid apart (``cis.executors``).
    The tails are the ends of the two log files, at most ``TAIL_BYTES`` each, decoded with
    replacement; the byte counts are those of the whole output.
    """

    run_id: str
    task_no: int
    task_id: str
    attempt: int
    status: AttemptState
    worker_id: str
    epoch: int
    started_at_us: int
    finished_at_us: int | None = None
    exit_code: int | None = None
    pid: int | None = None
    pid_started: str | None = None
    error: str | None = None
    stdout_tail: str = ""
    stderr_tail: str = ""
    stdout_bytes: int = 0
    stderr_bytes: int = 0


class LeftProcess(NamedTuple):
    """A process that a task with ``leave`` left running; ``pid_started`` tells it from a later one of its number."""

    run_id: str
    task_no: int
    task_id: str
    pid: int
    pid_started: str


class AttemptPlace(NamedTuple):
    """Where an attempt comes among those of its run, by start; without what it wrote, so that many may be held.

    ``begun_us`` is its start, or that of an earlier attempt at its task if the clock was set back in between.
    """

    begun_us: int
    task_no: int
    attempt: int
    over: bool


class TaskLoss(NamedTuple):
    """How often in a row a task's worker died while it ran alone, and how long its next attempt runs apart."""

    run_id: str
    task_no: int
    losses: int
    alone_us: int


class QueueItem(NamedTuple):
    """A run that waits for its worker, or that its worker holds (``claimed``, under ``epoch``).

    For the counters alone: ``below`` says that it is a task of another run, ``asker`` of whom it takes a share.
    """

    run_id: str
    worker_id: str
    dag_json: str
    status: QueueState
    priority: Priority
    created_at_us: int
    epoch: int = 0
    below: bool = False
    asker: str | None = None


class QueuedRun(NamedTuple):
    """A run in the queue without its document: how many tasks it has, and how many bytes that document."""

    run_id: str
    priority: int
    tasks: int
    document_bytes: int
    epoch: int


class QueueDemand(NamedTuple):
    """What one worker id has waiting: how many runs, how urgent at most, and since when."""

    worker_id: str
    scope: Scope
    runs: int
    priority: Priority
    oldest_us: int


class WorkerRecord(NamedTuple):
    """One worker id on one node. ``epoch`` grows by one with each process that takes the id (0 until it is taken).

    ``short_of`` says what the machine has too little of for the worker, or one of its tasks, to start.
    """

    worker_id: str
    node_id: str
    scope: Scope
    status: WorkerState
    pid: int
    pid_started: str | None
    slots: int
    started_at_us: int
    heartbeat_at_us: int
    lease_until_us: int
    epoch: int = 0
    runs_done: int = 0
    current_run: str | None = None
    short_of: str | None = None


class Heartbeat(NamedTuple):
    """What a worker says of itself, at *now_us*; *short_of* is what the machine lacks for a task to start."""

    node_id: str
    worker_id: str
    epoch: int
    status: WorkerState
    now_us: int
    lease_until_us: int
    runs_done: int = 0
    current_run: str | None = None
    short_of: str | None = None


class EventRecord(NamedTuple):
    """One change of state, in the order of ``seq`` (0 until stored); the log is bounded."""

    kind: str  # "run", "task" or "worker"
    at_us: int
    status: str
    run_id: str | None = None
    dag_id: str | None = None
    task_id: str | None = None
    worker_id: str | None = None
    data: Mapping[str, int | None] = NO_DATA
    seq: int = 0


class EventTally(NamedTuple):
    """What a stretch of the event log holds: events, the ``seq`` of the last, and how many tell of a run, by state."""

    events: int
    last_seq: int
    runs: Mapping[str, int]


class RunFilter(NamedTuple):
    """What a list of runs is narrowed to; None does not narrow. ``scopes`` are those that whoever asks may see."""

    status: RunState | None = None
    scope: Scope | None = None
    node: str | None = None
    dag_id: str | None = None
    scopes: Patterns | None = None


class Page(NamedTuple, Generic[T]):
    """One page of a list, and the cursor of the next one (None: this was the last)."""

    items: tuple[T, ...]
    next_cursor: str | None
