"""The store in one SQLite file."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import apsw

from cis.store.sqlite.connection import Database, translated
from cis.store.sqlite.definitions import DefinitionRows
from cis.store.sqlite.logs import LogRows
from cis.store.sqlite.queue import QueueRows
from cis.store.sqlite.runs import RunRows
from cis.store.sqlite.tasks import TaskRows
from cis.store.sqlite.workers import WorkerRows


class SqliteStore(DefinitionRows, RunRows, TaskRows, QueueRows, WorkerRows, LogRows):
    """All parts of the store over one connection; an object is for one thread."""

    def __init__(self, path: Path) -> None:
        self._db = Database(path)
        self.path = path

    def transaction(self) -> AbstractContextManager[None]:
        """Take the write lock, and commit when the block ends; roll back when it raises."""
        return self._db.transaction()

    def savepoint(self) -> AbstractContextManager[None]:
        """Inside a transaction: keep or undo one part of it alone."""
        return self._db.savepoint()

    def integrity_check(self) -> list[str]:
        """Return what is wrong with the file, a line each; nothing when it is sound."""
        found = [str(row[0]) for row in self._db.rows("PRAGMA integrity_check")]
        return [] if found == ["ok"] else found

    def backup_to(self, path: Path) -> None:
        """Copy the database to a new file while it is in use, as of one moment."""
        with translated(path):
            target = apsw.Connection(str(path))
            try:
                with target.backup("main", self._db.connection, "main") as backup:
                    while not backup.done:
                        backup.step(1000)
            finally:
                target.close()

    def close(self) -> None:
        """Close the connection."""
        self._db.close()


def open_sqlite(path: Path) -> SqliteStore:
    """Open the store at *path*; it is made, and brought to the newest schema, where needed.

    Raises:
        StoreError: it cannot be opened, is damaged, or was written by a newer program.
    """
    return SqliteStore(path)
