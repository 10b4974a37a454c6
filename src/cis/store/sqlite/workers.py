"""Workers, leases and epochs in SQLite: the table ``workers``."""

from __future__ import annotations

from collections.abc import Sequence

from cis.errors import FencedError, StoreError
from cis.model.scope import Scope
from cis.store.records import WorkerRecord, WorkerState
from cis.store.sqlite.connection import Database
from cis.store.sqlite.rows import MAX_NUMBER, WORKER, read, read_all, worker_of

# An epoch that cannot be read gives way to one that no counting has reached: the time.
_TAKE = (
    f"INSERT INTO workers ({WORKER}) VALUES ({', '.join('?' * 15)})"  # noqa: S608 - constants
    " ON CONFLICT (node_id, worker_id) DO UPDATE SET scope_type = excluded.scope_type,"
    " scope_id = excluded.scope_id, status = excluded.status, pid = excluded.pid,"
    " pid_started = excluded.pid_started,"
    f" epoch = CASE WHEN workers.epoch BETWEEN 0 AND {MAX_NUMBER} - 1 THEN workers.epoch + 1"
    " ELSE excluded.started_at_us END, slots = excluded.slots,"
    " started_at_us = excluded.started_at_us, heartbeat_at_us = excluded.heartbeat_at_us,"
    " lease_until_us = excluded.lease_until_us, runs_done = 0, current_run = NULL, short_of = NULL"
)
_SHORT_OF = "UPDATE workers SET short_of = ? WHERE node_id = ? AND worker_id = ? AND epoch = ? AND status != 'dead'"
_CANNOT_START = (
    f"INSERT INTO workers ({WORKER}) VALUES ({', '.join('?' * 15)})"  # noqa: S608 - constants
    " ON CONFLICT (node_id, worker_id) DO UPDATE SET short_of = excluded.short_of WHERE status IN ('stopped', 'dead')"
)
_ONE = f"SELECT {WORKER} FROM workers WHERE node_id = ? AND worker_id = ?"  # noqa: S608 - constants
_EPOCH = "SELECT 1 FROM workers WHERE node_id = ? AND worker_id = ? AND epoch = ? AND status != 'dead'"
_BEAT = (
    "UPDATE workers SET status = ?, heartbeat_at_us = ?, lease_until_us = ?, runs_done = ?, current_run = ?"
    " WHERE node_id = ? AND worker_id = ? AND epoch = ? AND status != 'dead'"
)
_STATUS = (
    "UPDATE workers SET status = ?, heartbeat_at_us = ?, current_run = NULL, short_of = NULL"
    " WHERE node_id = ? AND worker_id = ? AND epoch = ? AND status != 'dead'"
)


class WorkerRows:
    """The workers' part of the store."""

    _db: Database

    def take_worker(self, worker: WorkerRecord) -> WorkerRecord:
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
        taken = self.worker(worker.node_id, worker.worker_id)
        if taken is None:
            raise StoreError(f"{worker.worker_id} could not be registered")
        return taken

    def check_epoch(self, node_id: str, worker_id: str, epoch: int) -> None:
        """Raise FencedError unless *epoch* is the id's current one and it was not declared dead."""
        if self._db.row(_EPOCH, (node_id, worker_id, epoch)) is None:
            raise FencedError(worker_id, epoch)

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
        """Record a heartbeat and renew the lease. Raises FencedError."""
        values = (str(status), now_us, lease_until_us, runs_done, current_run, node_id, worker_id, epoch)
        if self._db.write(_BEAT, values) != 1:
            raise FencedError(worker_id, epoch)

    def set_worker_status(self, node_id: str, worker_id: str, *, epoch: int, status: WorkerState, now_us: int) -> bool:
        """Change the status if *epoch* still holds and was not declared dead; return whether it did."""
        return self._db.write(_STATUS, (str(status), now_us, node_id, worker_id, epoch)) == 1

    def set_short_of(self, node_id: str, worker_id: str, *, epoch: int, short_of: str | None) -> None:
        """Note what the machine has too little of for a task to start."""
        self._db.write(_SHORT_OF, (short_of, node_id, worker_id, epoch))

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

    def worker(self, node_id: str, worker_id: str) -> WorkerRecord | None:
        """Return one worker of a node."""
        row = self._db.row(_ONE, (node_id, worker_id))
        return None if row is None else read("worker", worker_of, row)

    def workers(self, *, node_id: str | None = None, live_only: bool = False) -> Sequence[WorkerRecord]:
        """Return workers by node and id."""
        sql = (
            f"SELECT {WORKER} FROM workers WHERE node_id = coalesce(?, node_id)"  # noqa: S608 - values are bound
            + (" AND status NOT IN ('stopped', 'dead')" if live_only else "")
            + " ORDER BY node_id, worker_id"
        )
        return read_all("worker", worker_of, self._db.rows(sql, (node_id,)))
