"""The parts of the store's port (``cis.store.port``) between node and worker.

They are the queue and who serves it, tasks that are stored before their run is (``cis.engine.accept.staging``), tasks
that lost their worker, and processes that tasks were allowed to leave running.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from cis.model.scope import Scope
from cis.store.records import (
    LeftProcess,
    QueueDemand,
    QueuedRun,
    QueueItem,
    TaskLoss,
    TaskRecord,
    WorkerRecord,
    WorkerState,
)


class QueueStore(Protocol):
    """The queue between node and worker."""

    def enqueue(self, node_id: str, item: QueueItem) -> None: ...

    def queue_demand(self, node_id: str) -> Sequence[QueueDemand]:
        """Return the worker ids with queued (not claimed) runs; the most urgent first, then the oldest."""
        ...

    def queued_count(self, node_id: str) -> int:
        """Return how many rows wait unclaimed."""
        ...

    def waiting_count(self, node_id: str, *, below: bool, holder: str = "") -> int:
        """Return how many rows wait unclaimed, of runs that are tasks of others (*below*) or of those that are not.

        *holder* is a worker id, or an asker; empty: all of them. With an empty *node_id*, DAGs in the outbox are meant.

        What this says holds until the transaction ends: check, then insert. An adapter without one write lock locks the
        counter, so that two submissions cannot both take the last place. Cheap, however many wait.
        """
        ...

    def admitted_count(self, node_id: str, worker_id: str, *, at_most: int) -> int:
        """Return how many runs of a worker are in the queue and not ``waiting``, but for those that are tasks of others.

        It counts up to *at_most*.

        It holds until the transaction ends, as ``waiting_count`` does.
        """
        ...

    def workers_waited_for(self, node_id: str) -> Sequence[str]:
        """Return the worker ids with ``waiting`` runs."""
        ...

    def admit(self, node_id: str, worker_id: str, *, limit: int) -> None:
        """Make up to *limit* waiting runs queued, in the order of ``claim``."""
        ...

    def queue_item(self, run_id: str) -> QueueItem | None: ...

    def claim(
        self, node_id: str, worker_id: str, *, epoch: int, limit: int, above: int | None = None
    ) -> Sequence[QueueItem]:
        """Take up to *limit* queued runs, higher priority first, then oldest.

        With *above*, only runs of a higher priority than that number. A row that cannot be read comes with an
        empty document: whoever takes it finds no DAG in it, and sets the run aside.
        """
        ...

    def queued_runs(self, node_id: str, worker_id: str, *, limit: int, above: int | None = None) -> Sequence[QueuedRun]:
        """Return the runs that ``claim`` would take, in its order; nothing is taken, and no document is read."""
        ...

    def claimed_runs(self, node_id: str, worker_id: str) -> Sequence[QueuedRun]:
        """Return the runs that some epoch of this worker holds, in the order of ``claim``; no document is read."""
        ...

    def reclaim(self, node_id: str, worker_id: str, *, epoch: int) -> None:
        """Move every claimed row of this worker to *epoch*."""
        ...

    def release(self, run_id: str) -> None:
        """Put a claimed run back to queued; its place in the order is kept."""
        ...

    def park(self, run_id: str, *, due_at_us: int | None) -> None:
        """Let go of a claimed run that only waits, until *due_at_us* (None: until somebody wakes it).

        It is in no ``claim`` and no ``queue_demand`` until it is queued again: by ``wake``, by ``wake_due``, or when a child
        run of it becomes final (``change_run``, ``set_aside``).
        """
        ...

    def wake(self, run_id: str) -> None:
        """Put a parked run back to queued, at its old place; any other stays as it is."""
        ...

    def any_due(self, node_id: str, *, now_us: int) -> bool:
        """Whether a parked run is due; reads an index of those alone."""
        ...

    def wake_due(self, node_id: str, *, now_us: int, limit: int) -> None:
        """Put up to *limit* parked runs that are due back to queued, the earliest first."""
        ...

    def release_claimed(self, node_id: str, worker_id: str) -> None:
        """Put every run that some epoch of this worker holds back to queued, at its old place."""
        ...

    def dequeue(self, run_id: str) -> None:
        """Delete the row of a run that is final."""
        ...


class WorkerStore(Protocol):
    """Workers, their leases and epochs."""

    def take_worker(self, worker: WorkerRecord) -> WorkerRecord:
        """Register a process as its id's worker under the next epoch (the one given is ignored); return the row."""
        ...

    def check_epoch(self, node_id: str, worker_id: str, epoch: int) -> None:
        """Raise FencedError unless *epoch* is the id's current one and it was not declared dead."""
        ...

    def beat(
        self,
        node_id: str,
        worker_id: str,
        *,
        epoch: int,
        status: WorkerState,
        now_us: int,
        lease_until_us: int,
        runs_done: int,
        current_run: str | None,
    ) -> None:
        """Record a heartbeat and renew the lease. Raises FencedError as ``check_epoch`` does."""
        ...

    def set_short_of(self, node_id: str, worker_id: str, *, epoch: int, short_of: str | None) -> None:
        """Note what the machine has too little of for a task to start; another epoch changes nothing."""
        ...

    def cannot_start(self, node_id: str, worker_id: str, scope: Scope, *, short_of: str | None, now_us: int) -> None:
        """Note what the machine has too little of to start a worker; the row of one that lives stays as it is."""
        ...

    def set_worker_status(self, node_id: str, worker_id: str, *, epoch: int, status: WorkerState, now_us: int) -> bool:
        """Change the status if *epoch* still holds and was not declared dead; return whether it did."""
        ...

    def worker(self, node_id: str, worker_id: str) -> WorkerRecord | None: ...

    def workers(self, *, node_id: str | None = None, live_only: bool = False) -> Sequence[WorkerRecord]: ...


class StagingStore(Protocol):
    """What is stored of a run that is yet to come; nothing of it is shown anywhere."""

    def staging(self) -> AbstractContextManager[None]:
        """A transaction in which tasks may be stored before their run is: nothing is shown of them until it comes."""
        ...

    def stage_tasks(self, tasks: Sequence[TaskRecord]) -> None:
        """Inside ``staging``: store tasks of one run that is not there yet. Raises StoreRefusedError when it is."""
        ...

    def is_staged(self, run_id: str, *, tasks: int) -> bool:
        """Whether so many tasks are stored under the id of a run. They come and go in order, so the first and the last tell."""
        ...

    def staged_runs(self, *, after: str, before: str, limit: int) -> Sequence[str]:
        """Return ids between two others under which tasks are stored, but no run."""
        ...

    def drop_staged(self, run_id: str, *, at_most: int) -> bool:
        """Delete some tasks that have no run; return whether there were any. Those of a run that is there stay."""
        ...


class LossStore(Protocol):
    """Tasks whose worker died while they ran."""

    def add_losses(self, losses: Iterable[TaskLoss]) -> None:
        """Count losses to those that are stored of the same tasks; ``alone_us`` takes the place of the old one."""
        ...

    def losses(self, run_id: str) -> Sequence[TaskLoss]:
        """Return the losses of a run's tasks; a task that has none is not in it."""
        ...

    def forget_losses(self, run_id: str, task_nos: Iterable[int]) -> None: ...


class LeftStore(Protocol):
    """What tasks were allowed to leave running."""

    def add_left(self, left: Iterable[LeftProcess]) -> None: ...

    def left_processes(self, run_id: str) -> Sequence[LeftProcess]:
        """Return what the tasks of a run left running when they ended, in their order, whether or not it still runs."""
        ...
