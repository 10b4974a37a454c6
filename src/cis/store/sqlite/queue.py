"""The queue between node and worker in SQLite: the table ``worker_queue``."""

from __future__ import annotations

from collections.abc import Sequence

from cis.model.dag import Priority
from cis.model.scope import parse_worker_id
from cis.store.records import QueueDemand, QueueItem
from cis.store.sqlite.connection import Database
from cis.store.sqlite.rows import QUEUE, queue_item_of, read, read_all

_ENQUEUE = (
    "INSERT INTO worker_queue (node_id, worker_id, run_id, dag_json, status, priority, epoch, created_at_us)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_DEMAND = (
    "SELECT worker_id, count(*), max(priority), min(created_at_us) FROM worker_queue"
    " WHERE node_id = ? AND status = 'queued' GROUP BY worker_id ORDER BY 3 DESC, 4"
)
_COUNT = "SELECT count(*) FROM worker_queue WHERE node_id = ? AND status = 'queued'"
_ITEM = f"SELECT {QUEUE} FROM worker_queue WHERE run_id = ?"  # noqa: S608 - constants
_NEXT = (
    "SELECT queue_id FROM worker_queue WHERE node_id = ? AND worker_id = ? AND status = 'queued'"
    " AND priority > ? ORDER BY priority DESC, queue_id LIMIT ?"
)
_CLAIM = f"UPDATE worker_queue SET status = 'claimed', epoch = ? WHERE queue_id = ? RETURNING {QUEUE}"  # noqa: S608
_CLAIMED = (
    f"SELECT {QUEUE} FROM worker_queue WHERE node_id = ? AND worker_id = ? AND status = 'claimed'"  # noqa: S608
    " ORDER BY priority DESC, queue_id"
)
_RECLAIM = "UPDATE worker_queue SET epoch = ? WHERE node_id = ? AND worker_id = ? AND status = 'claimed'"


class QueueRows:
    """The queue's part of the store."""

    _db: Database

    def enqueue(self, node_id: str, item: QueueItem) -> None:
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
            ),
        )

    def queue_demand(self, node_id: str) -> Sequence[QueueDemand]:
        """Return the worker ids with queued runs; the most urgent first, then the oldest."""
        return [
            QueueDemand(
                worker_id=worker_id,
                scope=parse_worker_id(worker_id),
                count=count,
                priority=Priority(priority),
                oldest_us=oldest_us,
            )
            for worker_id, count, priority, oldest_us in self._db.rows(_DEMAND, (node_id,))
        ]

    def queued_count(self, node_id: str) -> int:
        """Return how many rows wait unclaimed."""
        row = self._db.row(_COUNT, (node_id,))
        return int(row[0]) if row else 0

    def queue_item(self, run_id: str) -> QueueItem | None:
        """Return a run's place in the queue."""
        row = self._db.row(_ITEM, (run_id,))
        return None if row is None else read("queue item", queue_item_of, row)

    def claim(
        self, node_id: str, worker_id: str, *, epoch: int, limit: int, above: int | None = None
    ) -> Sequence[QueueItem]:
        """Take up to *limit* queued runs, higher priority first, then oldest."""
        chosen = self._db.rows(_NEXT, (node_id, worker_id, -1 if above is None else above, limit))
        rows = [row for (queue_id,) in chosen for row in self._db.rows(_CLAIM, (epoch, queue_id))]
        return read_all("queue item", queue_item_of, rows)

    def claimed(self, node_id: str, worker_id: str) -> Sequence[QueueItem]:
        """Return the runs that some epoch of this worker holds."""
        return read_all("queue item", queue_item_of, self._db.rows(_CLAIMED, (node_id, worker_id)))

    def reclaim(self, node_id: str, worker_id: str, *, epoch: int) -> None:
        """Move every claimed row of this worker to *epoch*."""
        self._db.write(_RECLAIM, (epoch, node_id, worker_id))

    def release(self, run_id: str) -> None:
        """Put a claimed run back to queued, at its old place."""
        self._db.write("UPDATE worker_queue SET status = 'queued' WHERE run_id = ?", (run_id,))

    def dequeue(self, run_id: str) -> None:
        """Delete the row of a run that is final."""
        self._db.write("DELETE FROM worker_queue WHERE run_id = ?", (run_id,))
