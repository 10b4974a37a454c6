"""What goes wrong, and the store in which it does: the real one, with faults at the begin, the statements, the commit.

A crash is no ``Exception``: nothing of the program may catch it, as nothing catches a SIGKILL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import apsw

from cis.errors import LaunchError, StoreBusyError, StoreError
from cis.store.sqlite.connection import Database, Row
from cis.store.sqlite.store import SqliteStore
from tests.chaos.simulation.stage import Stage

LONGEST_WAIT_S = 0.5
Committed = Callable[[apsw.Connection], None]
Prepare = Callable[[apsw.Connection], None]


class CrashError(BaseException):
    """The process in which this is raised is gone in the middle of what it did."""


class Faults:
    """Decides at every point where something can fail whether it does."""

    def __init__(self, stage: Stage) -> None:
        rng = stage.rng
        self._stage = stage
        self.store_p = rng.choice((0.0, 0.0, 0.001, 0.005, 0.02))
        self.late_p = rng.choice((0.0, 0.0, 0.01, 0.03))
        self.launch_p = rng.choice((0.0, 0.0, 0.03, 0.15))
        self.wait_p = rng.choice((0.0, 0.05, 0.2))
        self.full_until_s = 0.0
        self.busy_until_s = 0.0
        self.fuses: dict[str, int] = {}
        self.happened = 0

    def end(self) -> None:
        """Let nothing fail any more."""
        self.store_p = self.late_p = self.launch_p = self.wait_p = 0.0
        self.full_until_s = self.busy_until_s = 0.0
        self.fuses.clear()

    def point(self, who: str, where: str) -> bool:
        """Come to a point where something can fail; return whether others had to be waited for.

        Raises:
            CrashError: *who* dies here.
            StoreError: the database fails here.
            LaunchError: a process cannot be started.
        """
        self._burn(who, where)
        if where in ("begin", "statement", "commit"):
            self._fail_store(who, where)
            if where == "begin" and self.wait_p and self._stage.chance(self.wait_p):
                self._stage.let_others(LONGEST_WAIT_S * self._stage.rng.random())  # they have the write lock
                return True
        elif where == "committed" and self.late_p and self._stage.chance(self.late_p):
            self._say(who, "the commit holds, but is reported as failed")
            raise StoreError("simulated: the commit failed")
        elif where == "start" and self.launch_p and self._stage.chance(self.launch_p):
            self._say(who, "a process cannot be started")
            raise LaunchError("simulated: no such program")
        return False

    def _burn(self, who: str, where: str) -> None:
        if who not in self.fuses:
            return
        self.fuses[who] -= 1
        if self.fuses[who] <= 0:
            del self.fuses[who]
            self._say(who, f"crashes at {where}")
            raise CrashError

    def _fail_store(self, who: str, where: str) -> None:
        now_s = self._stage.now_s
        if where == "begin" and now_s < self.busy_until_s:
            self._say(who, "the database is locked")
            raise StoreBusyError("cis.db", waited_s=30)
        if where == "statement" and now_s < self.full_until_s:
            self._say(who, "the disk is full")
            raise StoreError("simulated: the disk is full")
        if self.store_p and self._stage.chance(self.store_p):
            self._say(who, f"the database fails at {where}")
            raise StoreError(f"simulated: I/O error at {where}")

    def _say(self, who: str, what: str) -> None:
        self.happened += 1
        self._stage.log(f"{who}: {what}")


class FaultyDatabase(Database):
    """A connection whose statements fail where the faults say so."""

    def __init__(self, path: Path, *, point: Callable[[str], bool]) -> None:
        super().__init__(path)
        self._point = point

    def all_rows(self, what: str, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        self._point("read")
        return super().all_rows(what, sql, parameters)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        self._point("read")
        return super().rows(sql, parameters)

    def write(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        self._point("statement")
        return super().write(sql, parameters)

    @contextmanager
    def transaction(self, *, wait: bool = True) -> Iterator[None]:
        waited = self._point("begin")
        if waited and not wait:
            raise StoreBusyError(str(self.path), waited_s=0)
        with super().transaction():
            self.waited = waited
            yield
            self._point("commit")


class FaultyStore(SqliteStore):
    """The real store, in a real file, which fails at times and tells the watch of every commit."""

    def __init__(self, path: Path, *, who: str, faults: Faults, prepare: Prepare, committed: Committed) -> None:
        self._point = partial(faults.point, who)
        super().__init__(FaultyDatabase(path, point=self._point))
        self._committed = committed
        prepare(self._db.connection)

    def transaction(self, *, wait: bool = True) -> AbstractContextManager[None]:
        return self._transaction(wait=wait)

    @contextmanager
    def _transaction(self, *, wait: bool) -> Iterator[None]:
        before = self._db.connection.total_changes()
        with self._db.transaction(wait=wait):
            yield
        if self._db.connection.total_changes() != before:
            self._committed(self._db.connection)
        self._point("committed")
