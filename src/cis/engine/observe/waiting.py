"""Why a run or a task does not move, derived when somebody asks: nothing of this is stored.

What is told is what has to happen first. A task whose dependencies are not done waits for those, whatever else
is the matter; one that could start otherwise waits because the run is paused, because no worker lives, for the
time of its retry, or for a slot. A run waits when nothing of it runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from cis.engine.accept.admission import is_no_place
from cis.engine.times import rfc3339
from cis.errors import PoisonRecordError
from cis.model.dag import Json
from cis.model.states import RunState, TaskState
from cis.store.cluster import RemoteRole
from cis.store.port import Store
from cis.store.records import Delivery, QueueState, RunRecord, TaskRecord, WorkerRecord, WorkerState

if TYPE_CHECKING:
    from cis.model.dag import DagSpec
    from cis.store.run_port import Definitions

MAX_NAMED = 10


class WaitReason(StrEnum):
    """What kind of thing is waited for."""

    DEPENDENCY = "dependency"
    SLOT = "slot"
    RETRY = "retry"
    PAUSED = "paused"
    WORKER = "worker"
    CHILD_RUN = "child_run"
    DELIVERY = "delivery"
    MACHINE = "machine"
    WAIT = "wait"


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A reason to wait; ``on`` names at most ``MAX_NAMED`` of the ``count`` things that are waited for.

    ``words`` is the sentence where the reason is not enough to say it.
    """

    reason: WaitReason
    on: tuple[str, ...] = ()
    count: int = 0
    until_us: int | None = None
    words: str = ""

    @property
    def sentence(self) -> str:
        """The reason in words for people, as in ``waits for compile and 3 more``."""
        if self.words:
            return self.words
        if self.reason is WaitReason.PAUSED:
            return "is paused"
        if self.reason is WaitReason.SLOT:
            return "waits for a free slot"
        if self.reason is WaitReason.WAIT:
            return (
                "waits for what its skill looks for"
                if self.until_us is None
                else f"waits until {rfc3339(self.until_us)}"
            )
        if self.reason is WaitReason.RETRY:
            return f"waits for its retry at {rfc3339(self.until_us)}"
        what = ", ".join(self.on)
        if self.reason is WaitReason.WORKER:
            return f"waits for {what} to start"
        more = f" and {self.count - len(self.on)} more" if self.count > len(self.on) else ""
        return f"waits for {'run ' if self.reason is WaitReason.CHILD_RUN else ''}{what}{more}"

    def to_dict(self) -> dict[str, Json]:
        """Return the JSON form: ``reason``, ``on``, ``count``, ``until`` (RFC 3339 or null), ``message``."""
        return {
            "reason": str(self.reason),
            "on": list(self.on),
            "count": self.count,
            "until": rfc3339(self.until_us),
            "message": self.sentence,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a run's progress depends on besides its tasks: its place in the queue, its worker, its graph.

    ``queue`` is None when the run is in no queue; ``depends_on`` maps task ids to the ids before them. ``elsewhere`` is
    set for a run that another node is to execute: what it waits for on its way there, or nothing once that node has it.
    ``held`` says why a run does not go on that may be over, after a restore. ``lasting`` are tasks that go on without a
    worker (``on_lost: adopt``), if no worker holds the run: then it is ``gone``. ``node_runs``: whether a node of this
    home does, which would start one. ``max_parallel`` is that of the DAG.
    """

    queue: QueueState | None
    worker: WorkerRecord | None
    depends_on: Mapping[str, Sequence[str]]
    elsewhere: str | None = None
    held: str | None = None
    lasting: Collection[str] = ()
    max_parallel: int | None = None
    gone: bool = False
    node_runs: bool = True


def tasks_waiting(run: RunRecord, tasks: Sequence[TaskRecord], around: Surroundings) -> dict[str, Waiting]:
    """Return why each task that waits does, by task id; a task that runs or is over is not in it."""
    if run.status.final or around.elsewhere == "":
        return {}
    done = {task.task_id for task in tasks if task.status.final and not task.counts_as_failed}
    common, full = _holds_all(run, around), _full(tasks, around)
    found = {}
    for task in tasks:
        reason = _task_waiting(task, done, common=common, full=full, around=around)
        if reason is not None:
            found[task.task_id] = reason
    return found


def run_waiting(
    run: RunRecord, tasks: Sequence[TaskRecord], around: Surroundings, *, reasons: Mapping[str, Waiting]
) -> Waiting | None:
    """Return why nothing of *run* runs, given its tasks' reasons; None when something does or the run is over."""
    if run.status.final or run.cancel_requested or around.elsewhere == "":
        return None
    common = _holds_all(run, around)
    if common is not None:
        return common
    if any(task.status is TaskState.RUNNING and task.task_id not in reasons for task in tasks):
        return None
    return _foremost(list(reasons.values()))


def _foremost(reasons: Sequence[Waiting]) -> Waiting | None:
    """Return what a run waits for of which no task runs: the first of its tasks to go on decides."""
    children = [each for each in reasons if each.reason is WaitReason.CHILD_RUN]
    timed = [each for each in reasons if each.reason in (WaitReason.RETRY, WaitReason.WAIT)]
    for each in reasons:
        if each.reason in (WaitReason.SLOT, WaitReason.MACHINE) and not (children and each.words == _FULL):
            return each
    if children:
        return _named(WaitReason.CHILD_RUN, [run_id for each in children for run_id in each.on])
    return min(timed, key=lambda each: math.inf if each.until_us is None else each.until_us, default=None)


_FULL = "waits until fewer tasks of its run are at work (max_parallel)"
_NO_NODE = "no node runs here to go on with it ('cis node start')"
_GONE = "its worker is gone"
_WITHOUT_WORKER = Waiting(
    reason=WaitReason.WORKER, words="goes on without a worker, until the next one takes it up ('cis node start')"
)
_OF_QUEUE: Mapping[QueueState | None, Waiting | None] = {
    QueueState.SUSPENDED: Waiting(
        reason=WaitReason.DELIVERY, words="is suspended: the lease under which this node holds it is over"
    ),
    QueueState.WAITING: Waiting(
        reason=WaitReason.SLOT, words="waits until fewer runs of its scope are at work (max_runs)"
    ),
    QueueState.PARKED: None,  # its worker is started when it is due
}


def _holds_all(run: RunRecord, around: Surroundings) -> Waiting | None:
    """Return what keeps every task of the run from starting, if anything does."""
    if run.status is RunState.PAUSED:
        return Waiting(reason=WaitReason.PAUSED, words=around.held or "")
    if around.elsewhere is not None:
        return Waiting(reason=WaitReason.DELIVERY, words=around.elsewhere)
    if around.queue in _OF_QUEUE:
        return _OF_QUEUE[around.queue]
    worker = around.worker
    if worker is not None and worker.short_of is not None and not worker.status.live:
        return _short(worker.short_of)
    if worker is None or not worker.status.live or worker.status is WorkerState.STARTING:
        starting = worker is not None and worker.status is WorkerState.STARTING
        named = _named(WaitReason.WORKER, [run.worker_id])
        return named if around.node_runs or starting else replace(named, words=_NO_NODE)
    if around.queue is QueueState.QUEUED:
        return _slot(worker)
    return None


def _full(tasks: Sequence[TaskRecord], around: Surroundings) -> Waiting | None:
    """Return what is waited for when as many processes and DAGs are at work as the run may have at once."""
    if around.max_parallel is None:
        return None
    at_work = sum(task.status is TaskState.RUNNING and task.due_at_us is None for task in tasks)
    return Waiting(reason=WaitReason.SLOT, words=_FULL) if at_work >= around.max_parallel else None


def _task_waiting(
    task: TaskRecord, done: set[str], *, common: Waiting | None, full: Waiting | None, around: Surroundings
) -> Waiting | None:
    if task.status is TaskState.RUNNING:
        return _without_process(task, around)
    if task.status is not TaskState.PENDING:
        return None
    unmet = [parent for parent in around.depends_on.get(task.task_id, ()) if parent not in done]
    if unmet:
        return _named(WaitReason.DEPENDENCY, unmet)
    if common is not None:
        return common
    if task.due_at_us is not None:
        return Waiting(reason=WaitReason.RETRY, until_us=task.due_at_us)
    if is_no_place(task.error):
        return Waiting(reason=WaitReason.SLOT, words=task.error or "")
    return full or _slot(around.worker)


def _without_process(task: TaskRecord, around: Surroundings) -> Waiting | None:
    """Return what a running task waits for without a process of this worker, if it does."""
    if task.child_run_id is not None:
        return _named(WaitReason.CHILD_RUN, [task.child_run_id])
    if task.due_at_us is not None:
        return Waiting(reason=WaitReason.WAIT, until_us=task.due_at_us or None)
    if task.task_id in around.lasting:
        return _WITHOUT_WORKER
    if not around.gone:
        return None
    return Waiting(reason=WaitReason.WORKER, words=_GONE if around.node_runs else f"{_GONE}, and {_NO_NODE}")


def _slot(worker: WorkerRecord | None) -> Waiting:
    """Return that a slot is waited for, or what the machine has too little of to fill one."""
    return Waiting(reason=WaitReason.SLOT) if worker is None or worker.short_of is None else _short(worker.short_of)


def _short(short_of: str) -> Waiting:
    return Waiting(reason=WaitReason.MACHINE, words=f"waits for the machine: {short_of}")


def _named(reason: WaitReason, names: Sequence[str]) -> Waiting:
    return Waiting(reason=reason, on=tuple(names[:MAX_NAMED]), count=len(names))


def why_held(store: Store, run: RunRecord) -> str | None:
    """Return why a run does not go on that may be over, in words for people; None for any other."""
    record = store.restores.last()
    if record is None or run.status.final or not store.restores.doubts(run.run_id):
        return None
    known = f"this node was restored from a backup of {rfc3339(record.known_until_us)}"
    remote = store.remotes.get(run.run_id)
    if remote is not None and remote.role is not RemoteRole.RECEIVED:
        return f"{known}: the room is read for who has the run; else it is offered again after a lease"
    if run.status is not RunState.PAUSED:
        return None
    asked = f"node {remote.peer_id} is asked; " if remote is not None and remote.peer_id else ""
    named = f"{run.dag_id} --run {run.run_id}"
    return (
        f"{known}, and the run may be over: {asked}'cis dag resume {named}' runs it, 'cis dag cancel {named}' ends it"
    )


def surroundings(
    store: Store, run: RunRecord, tasks: Sequence[TaskRecord], *, still: Callable[[int, str], bool], node_runs: bool
) -> Surroundings:
    """Return what an unfinished run depends on; *still* says whether a process runs, as its worker's should."""
    from cis.engine.accept.dispatch import on_its_way  # noqa: PLC0415 - 6 ms, and the page of a task wants none

    item = store.queue.get(run.run_id)
    held = why_held(store, run)
    elsewhere = None if run.delivery is Delivery.LOCAL else on_its_way(store, run.run_id)
    worker, here = store.workers.get(run.owner_node, run.worker_id), run.delivery is Delivery.LOCAL
    if worker is not None and worker.status.live and here and not node_runs:  # a node would have buried it
        lives = worker.pid_started is None or still(worker.pid, worker.pid_started)
        worker = worker if lives else worker._replace(status=WorkerState.DEAD)
    unheld = item is None or item.status is not QueueState.CLAIMED or worker is None or not worker.status.live
    depends_on, max_parallel = (
        _order(store.definitions, run) if any(task.status is TaskState.PENDING for task in tasks) else ({}, None)
    )
    return Surroundings(
        elsewhere=held if elsewhere is not None and held else elsewhere,
        held=held,
        queue=item.status if item is not None else None,
        worker=worker,
        depends_on=depends_on,
        max_parallel=max_parallel,
        node_runs=node_runs,
        gone=unheld and here,
        lasting=_lasting(store.definitions, run)
        if unheld and any(task.status is TaskState.RUNNING for task in tasks)
        else (),
    )


def _order(definitions: Definitions, run: RunRecord) -> tuple[dict[str, Sequence[str]], int | None]:
    """Return what comes before each task, and how many may be at work at once."""
    spec = _spec_of(definitions, run)
    if spec is None:
        return {}, None
    return {task.id: task.depends_on for task in spec.tasks if task.depends_on}, spec.max_parallel


def _lasting(definitions: Definitions, run: RunRecord) -> Sequence[str]:
    from cis.model.dag import OnLost  # noqa: PLC0415 - as above

    spec = _spec_of(definitions, run)
    return [task.id for task in spec.tasks if task.on_lost is OnLost.ADOPT] if spec else ()


def _spec_of(definitions: Definitions, run: RunRecord) -> DagSpec | None:
    from cis.store.port import stored_spec  # noqa: PLC0415 - as above

    try:
        return stored_spec(definitions, run.definition_id)
    except PoisonRecordError:
        return None  # what can be told of the run is worth more than an error; its worker reports the row
