"""The queue between node and worker, and the workers that serve it: ``worker_queue`` and ``workers``.

Every query of the queue names the state that it asks for, so only ``queue_item`` sees suspended and waiting rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cis.errors import FencedError, PoisonRecordError, StoreError
from cis.model.scope import Scope, parse_worker_id
from cis.model.states import Priority
from cis.store.records import (
    Heartbeat,
    QueueDemand,
    QueuedRun,
    QueueItem,
    QueueState,
    WorkerRecord,
    WorkerState,
)
from cis.store.sql.rows import (
    MAX_NUMBER,
    QUEUE,
    WORKER,
    places_of,
    queue_item_of,
    read,
    read_all,
    tell_queued,
    worker_of,
)

if TYPE_CHECKING:
    from cis.store.sql.database import Database, Row

_ENQUEUE = (
    "INSERT INTO worker_queue (node_id, worker_id, run_id, dag_json, status, priority, epoch, created_at_us, below, asker)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
# One odd number must not hide what else the worker has to do, so both are kept in bounds.
_DEMAND = (
    "SELECT worker_id, count(*), max(-1, min(99, max(priority))),"  # noqa: S608 - constants
    f" max(0, min({MAX_NUMBER}, min(created_at_us))) FROM worker_queue"
    " WHERE node_id = ? AND status = 'queued' AND queue_id >= ? GROUP BY worker_id ORDER BY 3 DESC, 4"
)
_WAITING = (
    "SELECT coalesce(sum(waiting), 0) FROM queue_counts"
    " WHERE node_id = ?1 AND below IN (coalesce(?2, 0), coalesce(?2, 1)) AND holder = ?3"
)
_ADMITTED = (
    "SELECT count(*) FROM (SELECT 1 FROM worker_queue WHERE node_id = ? AND worker_id = ? AND below = 0"
    " AND status IN ('queued', 'claimed', 'parked', 'suspended') LIMIT ?) AS found"
)
# From one worker to the next by the index, past the runs between them.
_WAITED_FOR = (
    "WITH RECURSIVE found (worker_id) AS ("
    "SELECT min(worker_id) FROM worker_queue WHERE node_id = ?1 AND status = 'waiting' UNION ALL"
    " SELECT (SELECT min(q.worker_id) FROM worker_queue q WHERE q.node_id = ?1 AND q.status = 'waiting'"
    " AND q.worker_id > found.worker_id) FROM found WHERE found.worker_id IS NOT NULL)"
    " SELECT worker_id FROM found WHERE worker_id IS NOT NULL"
)
_ADMIT = (
    "UPDATE worker_queue SET status = 'queued' WHERE queue_id IN (SELECT queue_id FROM worker_queue"
    " WHERE node_id = ? AND worker_id = ? AND status = 'waiting' ORDER BY priority DESC, queue_id LIMIT ?)"
)
_POSITION = "SELECT queue_id FROM worker_queue WHERE run_id = ?"
_ITEM = f"SELECT {QUEUE} FROM worker_queue WHERE run_id = ?"  # noqa: S608 - constants
_NEXT = (
    "SELECT queue_id, run_id FROM worker_queue WHERE node_id = ? AND worker_id = ? AND status = 'queued'"
    " AND priority > ? AND queue_id >= ? ORDER BY priority DESC, queue_id LIMIT ?"
)
# Sizes only, which SQLite knows without reading what is large; AS_DEFINED stands for what is. What a row says of itself may be odd: it
# is looked at when it is read.
_SIZES = (
    "SELECT q.run_id, q.priority, coalesce(r.task_count, 0), CASE octet_length(q.dag_json) WHEN 1"
    " THEN 16777216 ELSE octet_length(q.dag_json) END, q.epoch FROM worker_queue q"
    " LEFT JOIN dag_runs r ON r.run_id = q.run_id WHERE q.node_id = ? AND q.worker_id = ? AND q.status = ?"
    " AND q.priority > ? AND q.queue_id >= ? ORDER BY q.priority DESC, q.queue_id LIMIT ?"
)
HELD = "SELECT 1 FROM worker_queue WHERE run_id = ?"
_CLAIM = "UPDATE worker_queue SET status = 'claimed', epoch = ? WHERE queue_id = ?"
_RECLAIM = "UPDATE worker_queue SET epoch = ? WHERE node_id = ? AND worker_id = ? AND status = 'claimed'"
_RELEASE_ALL = "UPDATE worker_queue SET status = 'queued' WHERE node_id = ? AND worker_id = ? AND status = 'claimed'"
_MOVE = "UPDATE worker_queue SET status = ?1, due_at_us = ?2 WHERE run_id = ?3 AND status = coalesce(?4, status)"
WAKE = "UPDATE worker_queue SET status = 'queued', due_at_us = NULL WHERE run_id = ? AND status = 'parked'"
_DUE = "node_id = ? AND status = 'parked' AND due_at_us IS NOT NULL AND due_at_us <= ?"
_ANY_DUE = f"SELECT 1 FROM worker_queue WHERE {_DUE} LIMIT 1"  # noqa: S608 - constants
_WAKE_DUE = (
    "UPDATE worker_queue SET status = 'queued', due_at_us = NULL WHERE queue_id IN"  # noqa: S608 - constants
    f" (SELECT queue_id FROM worker_queue WHERE {_DUE} ORDER BY due_at_us LIMIT ?)"
)
_LOAD = "SELECT count(*) FROM (SELECT 1 FROM worker_queue WHERE node_id = ? AND status IN ('queued', 'claimed', 'parked', 'waiting') LIMIT ?) AS found"
_OTHERS = "SELECT node_id, count(*) FROM worker_queue WHERE node_id != ? GROUP BY node_id ORDER BY node_id"


class QueueRows:
    """The queue's part of the store."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, node_id: str, item: QueueItem) -> None:
        """Put a run into its worker's queue."""
        self._db.write(
            _ENQUEUE,
            (
                node_id,
                item.worker_id,
                item.run_id,
                item.dag_json,
                str(item.status),
                int(item.priority),
                item.epoch,
                item.created_at_us,
                int(item.below),
                item.asker,
            ),
        )

    def demand(self, node_id: str, *, from_position: int = 0) -> Sequence[QueueDemand]:
        """Return the worker ids with queued runs; the most urgent first, then the oldest."""
        return read_all("queue of", _demand_of, self._db.rows(_DEMAND, (node_id, from_position)))

    def waiting_count(self, node_id: str, *, below: bool | None = None, holder: str = "") -> int:
        """Return how many rows wait unclaimed, by the counter that triggers keep (migration 13)."""
        self._db.lock("waiting", node_id, holder)
        row = self._db.row(_WAITING, (node_id, below, holder))
        return int(row[0]) if row else 0

    def admitted_count(self, node_id: str, worker_id: str, *, at_most: int) -> int:
        """Return how many runs of a worker, no tasks of others, are in the queue and not waiting."""
        self._db.lock("admitted", node_id, worker_id)
        row = self._db.row(_ADMITTED, (node_id, worker_id, at_most))
        return int(row[0]) if row else 0

    def workers_waited_for(self, node_id: str) -> Sequence[str]:
        """Return the worker ids with waiting runs."""
        return [worker_id for (worker_id,) in self._db.rows(_WAITED_FOR, (node_id,))]

    def admit(self, node_id: str, worker_id: str, *, limit: int) -> None:
        """Make up to *limit* waiting runs queued, in the order of ``claim``."""
        self._db.write(_ADMIT, (node_id, worker_id, limit))

    def position(self, run_id: str) -> int:
        """Return where a run stands in the order in which runs came into the queue; 0 when it is not there."""
        row = self._db.row(_POSITION, (run_id,))
        return 0 if row is None else int(row[0])

    def get(self, run_id: str) -> QueueItem | None:
        """Return a run's place in the queue."""
        row = self._db.held_row(_ITEM, (run_id,))
        return None if row is None else read("queue item", queue_item_of, row)

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
        """Take up to *limit* queued runs, higher priority first, then oldest."""
        chosen = self._db.rows(_NEXT, (node_id, worker_id, -1 if above is None else above, from_position, limit))
        for queue_id, _ in chosen:
            self._db.write(_CLAIM, (epoch, queue_id))
        return [self._held(run_id, worker_id, epoch) for _, run_id in chosen]

    def queued(
        self, node_id: str, worker_id: str, *, limit: int, above: int | None = None, from_position: int = 0
    ) -> Sequence[QueuedRun]:
        """Return what ``claim`` would take, without taking or reading it."""
        which = (node_id, worker_id, "queued", -1 if above is None else above, from_position, limit)
        return list(map(QueuedRun._make, self._db.rows(_SIZES, which)))

    def _held(self, run_id: str, worker_id: str, epoch: int) -> QueueItem:
        try:
            item = self.get(run_id)
        except PoisonRecordError as error:
            tell_queued(run_id, error)
            item = None
        return item or _unreadable(run_id, worker_id, epoch)

    def hand_over(self, node_id: str, worker_id: str, *, epoch: int | None) -> Sequence[QueuedRun]:
        """Give every run that this worker holds to *epoch*, or with None back to the queue; return them."""
        if epoch is not None:
            self._db.write(_RECLAIM, (epoch, node_id, worker_id))
        held = list(
            map(
                QueuedRun._make,
                self._db.rows(_SIZES, (node_id, worker_id, "claimed", -MAX_NUMBER, -MAX_NUMBER, MAX_NUMBER)),
            )
        )
        if epoch is None:
            self._db.write(_RELEASE_ALL, (node_id, worker_id))
        return held

    def move(
        self, run_id: str, to: QueueState, *, only: QueueState | None = None, due_at_us: int | None = None
    ) -> None:
        """Change the state of a run in the queue, if it is the *only* one named; its place is kept."""
        self._db.write(_MOVE, (to, due_at_us, run_id, only))

    def any_due(self, node_id: str, *, now_us: int) -> bool:
        """Whether a parked run is due."""
        return self._db.row(_ANY_DUE, (node_id, now_us)) is not None

    def wake_due(self, node_id: str, *, now_us: int, limit: int) -> None:
        """Put parked runs that are due back to queued, the earliest first."""
        self._db.write(_WAKE_DUE, (node_id, now_us, limit))

    def remove(self, run_id: str) -> None:
        """Delete the row of a run that is final."""
        self._db.write("DELETE FROM worker_queue WHERE run_id = ?", (run_id,))

    def load(self, node_id: str, *, at_most: int) -> int:
        """Return how many runs are in this node's queue, claimed or not, counting up to *at_most*."""
        row = self._db.row(_LOAD, (node_id, at_most))
        return int(row[0]) if row else 0

    def of_other_ids(self, node_id: str) -> dict[str, int]:
        """Return how many runs wait in the queues of other node ids, by id."""
        return {str(row[0]): int(row[1]) for row in self._db.rows(_OTHERS, (node_id,))}


def _demand_of(row: Row) -> QueueDemand:
    worker_id, count, priority, oldest_us = row
    urgency = Priority(priority) if priority in set(Priority) else Priority.NORMAL
    return QueueDemand(
        worker_id=worker_id, scope=parse_worker_id(worker_id), runs=count, priority=urgency, oldest_us=oldest_us
    )


def _unreadable(run_id: str, worker_id: str, epoch: int) -> QueueItem:
    return QueueItem(
        run_id=run_id,
        worker_id=worker_id,
        dag_json="",
        status=QueueState.CLAIMED,
        priority=Priority.NORMAL,
        created_at_us=0,
        epoch=epoch,
    )


# An epoch that cannot be read gives way to one that no counting has reached: the time.
_TAKE = (
    f"INSERT INTO workers ({WORKER}) VALUES ({places_of(WORKER)})"  # noqa: S608 - constants
    " ON CONFLICT (node_id, worker_id) DO UPDATE SET scope_type = excluded.scope_type,"
    " scope_id = excluded.scope_id, status = excluded.status, pid = excluded.pid,"
    " pid_started = excluded.pid_started,"
    f" epoch = CASE WHEN workers.epoch BETWEEN 0 AND {MAX_NUMBER} - 1 THEN workers.epoch + 1"
    " ELSE excluded.started_at_us END, slots = excluded.slots,"
    " started_at_us = excluded.started_at_us, heartbeat_at_us = excluded.heartbeat_at_us,"
    " lease_until_us = excluded.lease_until_us, runs_done = 0, current_run = NULL, short_of = NULL"
)
_CANNOT_START = (
    f"INSERT INTO workers ({WORKER}) VALUES ({places_of(WORKER)})"  # noqa: S608 - constants
    " ON CONFLICT (node_id, worker_id) DO UPDATE SET short_of = excluded.short_of WHERE status IN ('stopped', 'dead')"
)
_ONE = f"SELECT {WORKER} FROM workers WHERE node_id = ? AND worker_id = ?"  # noqa: S608 - constants
_EPOCH = "SELECT 1 FROM workers WHERE node_id = ? AND worker_id = ? AND epoch = ? AND status != 'dead'"
_BEAT = (  # in the order of the record's fields
    "UPDATE workers SET status = ?4, heartbeat_at_us = ?5, lease_until_us = ?6, runs_done = ?7, current_run = ?8,"
    " short_of = ?9 WHERE node_id = ?1 AND worker_id = ?2 AND epoch = ?3 AND status != 'dead'"
)
_STATUS = (
    "UPDATE workers SET status = ?, heartbeat_at_us = ?, current_run = NULL, short_of = NULL"
    " WHERE node_id = ? AND worker_id = ? AND epoch = ? AND status != 'dead'"
)


class WorkerRows:
    """The workers' part of the store."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def take(self, worker: WorkerRecord) -> WorkerRecord:
        """Register a process as its id's worker under the next epoch, and return the row."""
        self._db.write(
            _TAKE,
            (
                worker.worker_id,
                worker.node_id,
                str(worker.scope.type),
                worker.scope.id,
                str(worker.status),
                worker.pid,
                worker.pid_started,
                1,
                worker.slots,
                worker.started_at_us,
                worker.heartbeat_at_us,
                worker.lease_until_us,
                0,
                None,
                None,
            ),
        )
        taken = self.get(worker.node_id, worker.worker_id)
        if taken is None:
            raise StoreError(f"{worker.worker_id} could not be registered")
        return taken

    def check_epoch(self, node_id: str, worker_id: str, epoch: int) -> None:
        """Raise FencedError unless *epoch* is the id's current one and it was not declared dead."""
        if self._db.held_row(_EPOCH, (node_id, worker_id, epoch)) is None:
            raise FencedError(worker_id, epoch)

    def beat(self, beat: Heartbeat) -> None:
        """Record a heartbeat and renew the lease. Raises FencedError."""
        if self._db.write(_BEAT, beat) != 1:
            raise FencedError(beat.worker_id, beat.epoch)

    def set_status(self, node_id: str, worker_id: str, *, epoch: int, status: WorkerState, now_us: int) -> bool:
        """Change the status if *epoch* still holds and was not declared dead; return whether it did."""
        return self._db.write(_STATUS, (str(status), now_us, node_id, worker_id, epoch)) == 1

    def cannot_start(self, node_id: str, worker_id: str, scope: Scope, *, short_of: str | None, now_us: int) -> None:
        """Note what a worker that does not live cannot start for; None: it is not known any more."""
        values = (
            worker_id,
            node_id,
            str(scope.type),
            scope.id,
            "stopped",
            0,
            None,
            0,
            0,
            now_us,
            now_us,
            now_us,
            0,
            None,
        )
        self._db.write(_CANNOT_START, (*values, short_of))

    def get(self, node_id: str, worker_id: str) -> WorkerRecord | None:
        """Return one worker of a node."""
        row = self._db.held_row(_ONE, (node_id, worker_id))
        return None if row is None else read("worker", worker_of, row)

    def all(self, *, node_id: str | None = None, live_only: bool = False) -> Sequence[WorkerRecord]:
        """Return workers by node and id."""
        sql = (
            f"SELECT {WORKER} FROM workers WHERE node_id = coalesce(?, node_id)"  # noqa: S608 - values are bound
            + (" AND status NOT IN ('stopped', 'dead')" if live_only else "")
            + " ORDER BY node_id, worker_id"
        )
        return read_all("worker", worker_of, self._db.rows(sql, (node_id,)))
