"""The store in one SQLite file."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path

import apsw

from cis.store.sqlite.connection import Database, translated
from cis.store.sqlite.definitions import DefinitionRows
from cis.store.sqlite.logs import LogRows
from cis.store.sqlite.outbox import OutboxRows
from cis.store.sqlite.peers import PeerRows
from cis.store.sqlite.queue import QueueRows
from cis.store.sqlite.remote import RemoteRows
from cis.store.sqlite.retention import RetentionRows
from cis.store.sqlite.room import RoomRows
from cis.store.sqlite.runs import RunRows
from cis.store.sqlite.tasks import TaskRows
from cis.store.sqlite.workers import WorkerRows


class SqliteStore(
    DefinitionRows,
    RunRows,
    TaskRows,
    QueueRows,
    WorkerRows,
    LogRows,
    PeerRows,
    OutboxRows,
    RemoteRows,
    RoomRows,
    RetentionRows,
):
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
        lost = Counter((str(table), str(parent)) for table, _, parent, _ in self._db.rows("PRAGMA foreign_key_check"))
        return [
            *(fault for fault in found if fault != "ok"),
            *(
                f"{table}: {count} rows refer to a row of {parent} that is gone"
                for (table, parent), count in lost.items()
            ),
        ]

    def backup_to(self, path: Path) -> None:
        """Copy the database to a new file, mode 0600, while it is in use, as of one moment.

        Raises:
            StoreError: the file is there already, or cannot be written.
        """
        with translated(path):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            target = apsw.Connection(str(path))
            try:
                with target.backup("main", self._db.connection, "main") as backup:
                    backup.step(-1)  # in one step: in several, each write of another process would start it again
            except BaseException:
                path.unlink()
                raise
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
