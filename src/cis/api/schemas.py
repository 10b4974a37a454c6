"""The answers of the API as schemas, for ``/openapi.json`` alone: no answer passes through these models.

A test holds each of them against the view that it describes (``cis.engine.observe.views``,
``cis.engine.observe.logs``).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel

T = TypeVar("T")

RunStatus = Literal["pending", "running", "paused", "completed", "failed", "cancelled"]
TaskStatus = Literal["pending", "running", "completed", "failed", "skipped", "cancelled"]
SkipReason = Literal["condition", "code", "rule", "upstream_failed", "upstream_skipped"]
AttemptStatus = Literal["running", "completed", "failed", "lost", "cancelled"]
PriorityName = Literal["low", "normal", "high", "critical"]
ScopeSourceName = Literal["explicit", "env", "dag_id", "default"]


class ScopeModel(BaseModel):
    """Whom a DAG belongs to; the global scope has no id."""

    type: Literal["global", "project", "user", "type"]
    id: str | None


class WaitingModel(BaseModel):
    """Why something does not move. `on` names at most 10 of the `count` things waited for."""

    reason: Literal["dependency", "slot", "retry", "paused", "worker", "child_run", "delivery", "machine", "wait"]
    on: list[str]
    count: int
    until: datetime | None
    message: str


class SubmissionModel(BaseModel):
    """What becomes of a DAG that was handed in. `warnings` say what of it may not be as it was meant."""

    run_id: str
    dag_id: str
    status: RunStatus
    scope: ScopeModel
    scope_source: ScopeSourceName
    worker_id: str
    node_id: str
    target_node: str | None
    delivery: Literal["local", "pushed", "queued", "broadcast"]
    warnings: list[str]


class RunItemModel(BaseModel):
    """A run in a list."""

    dag_id: str
    run_id: str
    scope: ScopeModel
    status: RunStatus
    owner_node: str
    priority: PriorityName
    worker_id: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class ValidationModel(BaseModel):
    """What would run, and what is to be said of it. `params` is null where none were given."""

    valid: Literal[True]
    dag_id: str
    scope: ScopeModel
    scope_source: ScopeSourceName
    scope_reason: str
    worker_id: str
    target_node: str | None
    priority: PriorityName
    tasks: int
    levels: list[list[str]]
    handlers: list[str]
    longest_chain: list[str]
    conditions: dict[str, str]
    warnings: list[str]
    params: dict[str, Any] | None


class TaskModel(BaseModel):
    """A task of a run. `attempts` counts them; `skipped_because` is the task because of which it was skipped.

    `skip_reason` says why it was skipped; `failure_allowed` that it failed as its `allow_failure` lets it. Of an instance
    `instance_of` is the task that was made into many, and `given` its `item`, or its combination of the `matrix`.
    """

    id: str
    status: TaskStatus
    attempts: int
    exit_code: int | None
    started_at: datetime | None
    finished_at: datetime | None
    outputs: dict[str, Any]
    error: str | None
    waiting: WaitingModel | None
    skipped_because: str | None
    skip_reason: SkipReason | None
    failure_allowed: bool
    retry_at: datetime | None
    child_run_id: str | None
    instance_of: str | None
    given: dict[str, Any] | None


class LeftModel(BaseModel):
    """A process that a task with `leave` left running here, and that still runs."""

    task: str
    pid: int


class TriggerModel(BaseModel):
    """What began a run: `id` is a run, an event, …; `by` is who asked, where that is known."""

    kind: Literal["manual", "room", "dag", "rerun"]
    id: str | None
    at: datetime
    by: str | None


class RunModel(BaseModel):
    """A run with its tasks. `version` grows by one with each change of the run itself."""

    run_id: str
    dag_id: str
    status: RunStatus
    version: int
    scope: ScopeModel
    scope_source: ScopeSourceName
    worker_id: str
    owner_node: str
    node_id: str
    target_node: str | None
    priority: PriorityName
    delivery: Literal["local", "pushed", "queued", "broadcast"]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested: bool
    error: str | None
    params: dict[str, Any]
    trigger: TriggerModel | None
    rerun_of: str | None
    parent_run_id: str | None
    parent_task_id: str | None
    waiting: WaitingModel | None
    last_contact: datetime | None
    left: list[LeftModel]
    tasks: list[TaskModel]


class DagModel(BaseModel):
    """A DAG as it is stored."""

    dag_id: str
    scope: ScopeModel
    target_node: str | None
    priority: PriorityName
    description: str
    task_count: int
    sha256: str
    created_at: datetime
    saved_at: datetime | None


class DagDocumentModel(DagModel):
    """A DAG with its document."""

    document: dict[str, Any]


class WorkerModel(BaseModel):
    """A worker. `epoch` grows by one with each process that takes its id."""

    worker_id: str
    scope: ScopeModel
    status: Literal["starting", "idle", "busy", "waiting", "stopped", "dead"]
    pid: int
    node_id: str
    started_at: datetime
    heartbeat_at: datetime
    runs_done: int
    current_run: str | None
    epoch: int
    slots: int


class SkillModel(BaseModel):
    """A kind of task, the package that brings it, and what starts it."""

    name: str
    description: str
    source: str
    triggers: list[str]
    error: str | None = None


class NodeModel(BaseModel):
    """A node; `self` marks the one that answers. `warning` says what is wrong with the way to it, or with its clock."""

    node_id: str
    url: str | None
    public_key: str
    matrix_user: str | None
    may: list[Literal["execute", "control", "read"]]
    scopes: list[str] | None
    self: bool
    reachable: bool | None
    last_contact: datetime | None
    outbox: int
    clock_difference_s: float | None
    warning: str | None


class AttemptLogModel(BaseModel):
    """An attempt with what it wrote: `output` and `error` are its two streams, `reason` why it did not complete."""

    run_id: str
    task_id: str
    attempt: int
    status: AttemptStatus
    exit_code: int | None
    started_at: datetime
    finished_at: datetime | None
    output: str
    error: str
    reason: str | None


class LogPieceModel(BaseModel):
    """One line of a followed log: a piece of text; the last has the stream `end`, and the run's status as text."""

    task_id: str | None
    attempt: int | None
    stream: Literal["output", "error", "note", "end"]
    text: str


class EventModel(BaseModel):
    """A change of state, as the data of a server-sent event; its id is `seq`."""

    seq: int
    kind: Literal["run", "task", "worker"]
    at: datetime
    status: str
    run_id: str | None
    dag_id: str | None
    task_id: str | None
    worker_id: str | None
    data: dict[str, Any]


class PageModel(BaseModel, Generic[T]):
    """A page of a list; `next_cursor` is null on the last."""

    items: list[T]
    next_cursor: str | None


class FaultModel(BaseModel):
    """One thing that is wrong, and where."""

    place: str
    message: str
    line: int | None


class ProblemModel(BaseModel):
    """An error (RFC 9457). `code` is stable; `errors` is there when places can be named."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FaultModel] | None = None
