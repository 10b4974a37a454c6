"""The parts of the store's port (``cis.store.port``) between node and worker: the queue, who serves it, and events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from cis.model.scope import Scope
from cis.store.records import (
    EventRecord,
    EventTally,
    Heartbeat,
    QueueDemand,
    QueuedRun,
    QueueItem,
    QueueState,
    WorkerRecord,
    WorkerState,
)


class Queue(Protocol):
    """Runs that wait for their worker, or that it holds."""

    def add(self, node_id: str, item: QueueItem) -> None:
        """Put a run into its worker's queue, in the transaction that adds it. ``waiting_count`` counts it at once."""
        ...

    def demand(self, node_id: str, *, from_position: int = 0) -> Sequence[QueueDemand]:
        """Return the worker ids with queued (not claimed) runs; the most urgent first, then the oldest.

        Here as in ``claim`` and ``queued``, runs before *from_position* are passed over.
        """
        ...

    def waiting_count(self, node_id: str, *, below: bool | None = None, holder: str = "") -> int:
        """Return how many rows wait unclaimed: of runs that are tasks of others (*below*), that are not, or of both.

        *holder* is a worker id, or an asker; empty: all of them. With an empty *node_id*, DAGs in the outbox are meant.

        Check, then insert: two submissions must not both take the last place (the counter's row is locked until the
        commit). Cheap, however many wait.
        """
        ...

    def admitted_count(self, node_id: str, worker_id: str, *, at_most: int) -> int:
        """Return how many runs of a worker, no tasks of others, are in the queue and not ``waiting``.

        It counts up to *at_most*. Check, then insert: two must not both take the last place of a scope (the worker's id
        is what to lock).
        """
        ...

    def workers_waited_for(self, node_id: str) -> Sequence[str]:
        """Return the worker ids with ``waiting`` runs."""
        ...

    def admit(self, node_id: str, worker_id: str, *, limit: int) -> None:
        """Make up to *limit* waiting runs queued, in the order of ``claim``."""
        ...

    def position(self, run_id: str) -> int:
        """Return where a run stands in the order in which runs came into the queue; 0 when it is not there."""
        ...

    def get(self, run_id: str) -> QueueItem | None:
        """Return a run's place in the queue, with the document; ``below`` and ``asker`` are not read back.

        Inside a transaction it holds until the commit: whether a run is suspended decides what a grant does.
        """
        ...

    def claim(
        self,
        node_id: str,
        worker_id: str,
        *,
        epoch: int,
        limit: int,
        above: int | None = None,
        from_position: int = 0,
    ) -> Sequence[QueueItem]:
        """Take up to *limit* queued runs, higher priority first, then oldest. Nobody else can take one of them.

        With *above*, only runs of a higher priority than that number. A row that cannot be read comes with an
        empty document: whoever takes it finds no DAG in it, and sets the run aside.
        """
        ...

    def queued(
        self, node_id: str, worker_id: str, *, limit: int, above: int | None = None, from_position: int = 0
    ) -> Sequence[QueuedRun]:
        """Return the runs that ``claim`` would take, in its order; nothing is taken, and no document is read."""
        ...

    def hand_over(self, node_id: str, worker_id: str, *, epoch: int | None) -> Sequence[QueuedRun]:
        """Give every run that some epoch of this worker holds to *epoch*, or with None back to the queue; return them.

        They come in the order of ``claim``, which they keep, and no document is read.
        """
        ...

    def move(
        self, run_id: str, to: QueueState, *, only: QueueState | None = None, due_at_us: int | None = None
    ) -> None:
        """Change the state of a run in the queue, if it is the *only* one named (None: any); its place is kept.

        A claimed run that is *queued* again may be claimed by another. One that is *suspended* is taken by no worker.
        One that only waits is *parked*, until *due_at_us* or until somebody queues it: then it is in no ``claim`` and
        no ``demand``; ``wake_due`` queues it again, and so does the end of a child run (``runs.change``,
        ``runs.set_aside``).

        Check, then write: whoever parks a run has found that no child has ended and nothing was asked of it. An end
        that comes before the commit must queue it again, so whoever ends a child waits for its row.
        """
        ...

    def any_due(self, node_id: str, *, now_us: int) -> bool:
        """Whether a parked run is due; reads an index of those alone."""
        ...

    def wake_due(self, node_id: str, *, now_us: int, limit: int) -> None:
        """Put up to *limit* parked runs that are due back to queued, the earliest first."""
        ...

    def remove(self, run_id: str) -> None:
        """Delete the row of a run that is final."""
        ...

    def load(self, node_id: str, *, at_most: int) -> int:
        """Return how many runs are in this node's queue, claimed or not, counting up to *at_most*."""
        ...

    def of_other_ids(self, node_id: str) -> dict[str, int]:
        """Return how many runs wait in the queues of other node ids that this home had, by id."""
        ...


class Workers(Protocol):
    """Workers, their leases and epochs."""

    def take(self, worker: WorkerRecord) -> WorkerRecord:
        """Register a process as its id's worker under the next epoch, and return the row; what it has done begins anew.

        Of two that do so at once each gets an epoch of its own, and the later one holds.
        """
        ...

    def check_epoch(self, node_id: str, worker_id: str, epoch: int) -> None:
        """Raise FencedError unless *epoch* is the id's current one and it was not declared dead.

        Holds until the commit: ``take`` and ``set_status`` of others wait for it (the worker's row is locked).
        """
        ...

    def beat(self, beat: Heartbeat) -> None:
        """Record a heartbeat and renew the lease. Raises FencedError as ``check_epoch`` does."""
        ...

    def cannot_start(self, node_id: str, worker_id: str, scope: Scope, *, short_of: str | None, now_us: int) -> None:
        """Note what the machine has too little of to start a worker; the row of one that lives stays as it is."""
        ...

    def set_status(self, node_id: str, worker_id: str, *, epoch: int, status: WorkerState, now_us: int) -> bool:
        """Change the status if *epoch* still holds and was not declared dead; return whether it did."""
        ...

    def get(self, node_id: str, worker_id: str) -> WorkerRecord | None:
        """Return one worker of a node. Inside a transaction it holds until the commit: a rescuer decides by it."""
        ...

    def all(self, *, node_id: str | None = None, live_only: bool = False) -> Sequence[WorkerRecord]:
        """Return workers by node and id, those of one node or of every one."""
        ...


class Events(Protocol):
    """The log of changes."""

    def append(self, events: Iterable[EventRecord]) -> None:
        """Add events to the log; the store gives each its ``seq``, above that of every event there ever was.

        Events become visible in the order of ``seq``: whoever reads on after one must not miss another that was
        committed later with a smaller number. An adapter whose transactions commit in parallel lets one at a time take
        numbers.
        """
        ...

    def after(self, seq: int, *, limit: int) -> Sequence[EventRecord]:
        """Return the events after one, in order."""
        ...

    def last_seq(self) -> int:
        """Return the number of the newest event; 0 when there was none."""
        ...

    def tally_after(self, seq: int) -> EventTally:
        """Return how many events there are after one, and what they say, without reading each of them."""
        ...

    def prune(self, *, keep: int, at_most: int) -> int:
        """Delete the oldest events, but for the newest *keep*, at least one; return how many went."""
        ...
