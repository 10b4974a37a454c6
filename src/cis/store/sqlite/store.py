"""The store in one SQLite file."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import apsw

from cis.errors import NotFoundError, StoreDamagedError, StoreError, StoreGoneError, StoreNewerError
from cis.model.ids import id_at
from cis.store.refusals import RefusalShares
from cis.store.sqlite.connection import Database, file_of, sync_folder, translated
from cis.store.sqlite.definitions import DefinitionRows
from cis.store.sqlite.logs import LogRows
from cis.store.sqlite.migrate import NEWEST
from cis.store.sqlite.outbox import OutboxRows, PeerRows
from cis.store.sqlite.queue import QueueRows, WorkerRows
from cis.store.sqlite.room import RemoteRows, RoomRows
from cis.store.sqlite.runs import RunRows
from cis.store.sqlite.tasks import LeftRows, LossRows, StagedRows, TaskRows
from cis.store.sqlite.upkeep import HomeRows, RestoreRows, RetentionRows

SEARCH_LIMIT_S = 5.0
STAGED_S = 86_400.0
_STAGED_LATELY = (
    "SELECT count(*) FROM run_tasks t WHERE run_id > ? AND run_id < ?"
    " AND NOT EXISTS (SELECT 1 FROM dag_runs r WHERE r.run_id = t.run_id)"
)


class SqliteStore(
    DefinitionRows,
    RunRows,
    TaskRows,
    LossRows,
    LeftRows,
    QueueRows,
    WorkerRows,
    LogRows,
    PeerRows,
    OutboxRows,
    RemoteRows,
    RoomRows,
    RestoreRows,
    RetentionRows,
    HomeRows,
    StagedRows,
):
    """All parts of the store over one connection; an object is for one thread."""

    def __init__(self, path: Path, *, as_it_is: bool = False) -> None:
        self._db = Database(path, as_it_is=as_it_is)
        self._refusals = RefusalShares()
        self._file = file_of(path)
        self.path = path

    def transaction(self) -> AbstractContextManager[None]:
        """Take the write lock, and commit when the block ends; roll back when it raises."""
        return self._db.transaction()

    def savepoint(self) -> AbstractContextManager[None]:
        """Inside a transaction: keep or undo one part of it alone."""
        return self._db.savepoint()

    def wait_at_most(self, seconds: float, *, meanwhile: Callable[[], None] | None = None) -> None:
        """Wait no longer than that for others to let go of the write lock; StoreBusyError comes then.

        While it waits it calls *meanwhile* about a thousand times a second.
        """
        self._db.wait_at_most(seconds, meanwhile=meanwhile)

    def write_nothing(self) -> None:
        """Write what changes nothing, but takes the same way to the disk as anything else."""
        # What was read in this very transaction: no other number than the one that is there.
        self._db.write(f"PRAGMA user_version = {self._schema()}")

    def check_current(self) -> None:
        """Raise StoreNewerError if the schema was changed by a newer program, StoreGoneError if the file is another."""
        if file_of(self.path) != self._file:
            raise StoreGoneError(str(self.path))
        schema = self._schema()
        if schema > NEWEST:
            raise StoreNewerError(str(self.path), schema=schema, known=NEWEST)

    @property
    def is_newest(self) -> bool:
        """Whether the schema is the one that this program knows; one that was opened as it is may be older."""
        return self._schema() == NEWEST

    @property
    def has_runs(self) -> bool:
        """Whether there is a table of runs, as in any database of ours; one that was opened as it is may be anybody's."""
        return self._db.row("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'dag_runs'") is not None

    def _schema(self) -> int:
        row = self._db.row("PRAGMA user_version")
        return int(row[0]) if row else 0

    def first_damage(self) -> str | None:
        """Return the first thing that is wrong with the file; None when it is sound or the search took too long."""
        gives_up_s = time.monotonic() + SEARCH_LIMIT_S
        self._db.connection.release_memory()  # what is kept in memory hides what has become of the file
        self._db.connection.set_progress_handler(lambda: time.monotonic() > gives_up_s, 10_000)
        try:
            found = self._db.rows("PRAGMA quick_check(1)")
        except StoreDamagedError as error:
            return str(error)
        except StoreError as error:
            if isinstance(error.__cause__, apsw.InterruptError):
                return None
            raise
        finally:
            self._db.connection.set_progress_handler(None)
        return None if found == [("ok",)] else str(StoreDamagedError(str(self.path), str(found[0][0])))

    def integrity_check(self) -> list[str]:
        """Return what is wrong with the file, a line each; nothing when it is sound."""
        try:
            found = [str(row[0]) for row in self._db.rows("PRAGMA integrity_check")]
        except StoreDamagedError as error:
            return [str(error)]
        if found != ["ok"]:
            return found  # the rows of a damaged file lead nowhere
        recent = (id_at(round((time.time() - STAGED_S) * 1e6)), id_at(round((time.time() + STAGED_S) * 1e6)))
        with self._db.snapshot():
            staged = self._db.rows(_STAGED_LATELY, recent)[0][0]
            orphans = self._db.rows("PRAGMA foreign_key_check")
        lost = Counter((str(table), str(parent)) for table, _, parent, _ in orphans)
        lost["run_tasks", "dag_runs"] -= staged  # these wait for their run, which may be about to come
        return [
            f"{table}: {count} rows refer to a row of {parent} that is gone"
            for (table, parent), count in lost.items()
            if count > 0
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
            sync_folder(path.absolute().parent)

    def close(self) -> None:
        """Close the connection."""
        self._db.close()


def open_sqlite(path: Path, *, as_it_is: bool = False) -> SqliteStore:
    """Open the store at *path*; it is made, and brought to the newest schema, where needed.

    With *as_it_is* nothing is changed: of an older schema only ``integrity_check``, ``backup_to`` and ``write_nothing`` are
    sure to work.

    Raises:
        StoreError: it cannot be opened, is damaged, or was written by a newer program (``StoreNewerError``).
        NotFoundError: *as_it_is*, and there is none.
    """
    if as_it_is and not path.exists():
        raise NotFoundError("database", str(path))
    return SqliteStore(path, as_it_is=as_it_is)
