"""What tasks were allowed to leave running, in SQLite: the table ``left_processes``, which is empty where none is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cis.store.records import LeftProcess
from cis.store.sqlite.connection import Database
from cis.store.sqlite.rows import Row, read_all

_ADD = "INSERT OR REPLACE INTO left_processes (run_id, task_no, task_id, pid, pid_started) VALUES (?, ?, ?, ?, ?)"
_OF_RUN = "SELECT run_id, task_no, task_id, pid, pid_started FROM left_processes WHERE run_id = ? ORDER BY task_no, pid"


class LeftRows:
    """That part of the store."""

    _db: Database

    def add_left(self, left: Iterable[LeftProcess]) -> None:
        """Note what attempts left running."""
        self._db.write_many(_ADD, [tuple(one) for one in left])

    def left_processes(self, run_id: str) -> Sequence[LeftProcess]:
        """Return what the tasks of a run left running, in their order."""
        return read_all("process left by run", _left_of, self._db.rows(_OF_RUN, (run_id,)))


def _left_of(row: Row) -> LeftProcess:
    return LeftProcess(*row)
