"""Runs in which another node has a part, in SQLite: ``remote_runs``, ``withdrawals``, and rows of its execution.

A mirrored row is a copy: the node that executes is the one that checked its arrows, so only its age is looked at here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cis.store.records import AttemptRecord, TaskRecord
from cis.store.sqlite.cluster_rows import REMOTE, remote_of
from cis.store.sqlite.connection import Database
from cis.store.sqlite.rows import ATTEMPT, read, read_all
from cis.store.sqlite.tasks import attempt_values, changing_values

if TYPE_CHECKING:
    from cis.store.cluster import RemoteRole, RemoteRun

_PUT = (
    f"INSERT INTO remote_runs ({REMOTE}) VALUES ({', '.join('?' * 14)})"  # noqa: S608 - constants
    " ON CONFLICT (run_id) DO UPDATE SET role = excluded.role, peer = excluded.peer, epoch = excluded.epoch,"
    " lease_until_us = excluded.lease_until_us, control_seq = excluded.control_seq,"
    " heard_version = excluded.heard_version, open = excluded.open, event_id = excluded.event_id, lease_us = excluded.lease_us,"
    " suspended_us = excluded.suspended_us, boot_id = excluded.boot_id, lease_uptime_us = excluded.lease_uptime_us,"
    " told_bytes = excluded.told_bytes"
)
_ONE = f"SELECT {REMOTE} FROM remote_runs WHERE run_id = ?"  # noqa: S608 - constants
_OPEN = f"SELECT {REMOTE} FROM remote_runs WHERE role = ? AND open = 1 ORDER BY run_id"  # noqa: S608 - constants
_MIRROR_TASK = (
    "UPDATE run_tasks SET version = ?1, status = ?, attempts = ?, failures = ?, exit_code = ?, started_at_us = ?,"
    " finished_at_us = ?, outputs = ?, error = ?, blocked_by = ?, retry_at_us = ?, child_run_id = ?"
    " WHERE run_id = ? AND task_no = ? AND version < ?1"
    " AND status NOT IN ('completed', 'failed', 'skipped', 'cancelled')"
)
_ATTEMPT_COLUMNS = ATTEMPT.split(", ")  # named as the record's fields are
_TOLD = _ATTEMPT_COLUMNS[4:]  # all but the key and the task's id, which its number says
_MIRROR_ATTEMPT = (
    f"INSERT INTO task_executions ({ATTEMPT}) VALUES ({', '.join('?' * 17)})"  # noqa: S608 - constants
    " ON CONFLICT (run_id, task_no, attempt) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _TOLD)
    + " WHERE task_executions.status = 'running' AND ("
    + " OR ".join(f"task_executions.{name} IS NOT excluded.{name}" for name in _TOLD)
    + ")"
)
_WITHDRAW = (
    "INSERT INTO withdrawals (run_id, sender, expires_at_us) VALUES (?, ?, ?)"
    " ON CONFLICT (run_id, sender) DO UPDATE SET expires_at_us = max(expires_at_us, excluded.expires_at_us)"
)
_PRUNE_WITHDRAWALS = "DELETE FROM withdrawals WHERE expires_at_us < ?"
_WITHDRAWALS = "SELECT count(*) FROM (SELECT 1 FROM withdrawals WHERE sender = ? LIMIT ?)"
_WITHDRAWN = "SELECT 1 FROM withdrawals WHERE run_id = ? AND sender = ?"
_LOAD = "SELECT count(*) FROM (SELECT 1 FROM worker_queue WHERE node_id = ? AND status IN ('queued', 'claimed', 'parked', 'waiting') LIMIT ?)"


class RemoteRows:
    """The remote runs' part of the store."""

    _db: Database

    def put_remote(self, remote: RemoteRun) -> None:
        """Store, or replace, the other node's part in a run."""
        self._db.write(
            _PUT,
            (
                remote.run_id,
                str(remote.role),
                remote.peer,
                remote.epoch,
                remote.lease_until_us,
                remote.control_seq,
                remote.heard_version,
                int(remote.open),
                remote.event_id,
                remote.lease_us,
                remote.suspended_us,
                remote.boot_id,
                remote.lease_uptime_us,
                remote.told_bytes,
            ),
        )

    def remote_run(self, run_id: str) -> RemoteRun | None:
        """Return the other node's part in a run, or None."""
        row = self._db.row(_ONE, (run_id,))
        return None if row is None else read("remote run", remote_of, row)

    def open_remotes(self, role: RemoteRole) -> Sequence[RemoteRun]:
        """Return those that are open, by run id."""
        return read_all("remote run", remote_of, self._db.rows(_OPEN, (str(role),)))

    def mirror_tasks(self, tasks: Iterable[TaskRecord]) -> Sequence[TaskRecord]:
        """Take over tasks whose version is above the stored one; return those."""
        return [
            task
            for task in tasks
            if self._db.write(_MIRROR_TASK, (task.version, *changing_values(task), task.run_id, task.task_no)) == 1
        ]

    def mirror_attempts(self, attempts: Iterable[AttemptRecord]) -> Sequence[AttemptRecord]:
        """Take over new attempts, and what changed of running ones; return those that changed anything."""
        return [one for one in attempts if self._db.write(_MIRROR_ATTEMPT, attempt_values(one)) == 1]

    def withdraw(self, run_id: str, *, sender: str, expires_at_us: int) -> None:
        """Refuse a run of *sender* from now on, if it is not here."""
        self._db.write(_WITHDRAW, (run_id, sender, expires_at_us))

    def withdrawal_count(self, sender: str, *, at_most: int) -> int:
        """Return how many runs of *sender* are to be refused, counting up to *at_most*."""
        row = self._db.row(_WITHDRAWALS, (sender, at_most))
        return int(row[0]) if row else 0

    def prune_withdrawals(self, *, expired_before_us: int) -> int:
        """Forget withdrawals whose run would be refused as expired anyway; return how many went."""
        return self._db.write(_PRUNE_WITHDRAWALS, (expired_before_us,))

    def withdrawn(self, run_id: str, *, sender: str) -> bool:
        """Return whether such a run is to be refused."""
        return self._db.row(_WITHDRAWN, (run_id, sender)) is not None

    def suspend(self, run_id: str) -> None:
        """Keep a run in the queue where no worker takes it."""
        self._db.write("UPDATE worker_queue SET status = 'suspended' WHERE run_id = ?", (run_id,))

    def local_load(self, node_id: str, *, at_most: int) -> int:
        """Return how many runs are in this node's queue, claimed or not, counting up to *at_most*."""
        row = self._db.row(_LOAD, (node_id, at_most))
        return int(row[0]) if row else 0
