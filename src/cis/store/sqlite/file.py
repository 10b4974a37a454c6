"""What concerns the database's file as a whole: is it the one we opened, is it sound, can it be copied."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import apsw

from cis.errors import StoreDamagedError, StoreError, StoreGoneError, StoreNewerError
from cis.model.ids import id_at
from cis.store.sqlite.connection import Database, file_of, sync_folder, translated
from cis.store.sqlite.migrate import NEWEST
from cis.store.upkeep_port import Schema

SEARCH_LIMIT_S = 5.0
STAGED_S = 86_400.0
_STAGED_LATELY = (
    "SELECT count(*) FROM run_tasks t WHERE run_id > ? AND run_id < ?"
    " AND NOT EXISTS (SELECT 1 FROM dag_runs r WHERE r.run_id = t.run_id)"
)


class StoreFile:
    """The upkeep's part of the store."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._file = file_of(db.path)

    def write_nothing(self) -> None:
        """Write what changes nothing, but takes the same way to the disk as anything else."""
        # What was read in this very transaction: no other number than the one that is there.
        self._db.write(f"PRAGMA user_version = {self._version()}")

    def check_current(self) -> None:
        """Raise StoreNewerError if the schema was changed by a newer program, StoreGoneError if the file is another."""
        if file_of(self._db.path) != self._file:
            raise StoreGoneError(str(self._db.path))
        version = self._version()
        if version > NEWEST:
            raise StoreNewerError(str(self._db.path), schema=version, known=NEWEST)

    def schema(self) -> Schema:
        """Return which schema the file has; one that was opened as it is may have an older one, or be anybody's."""
        ours = self._db.row("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'dag_runs'") is not None
        return Schema(is_newest=self._version() == NEWEST, is_ours=ours)

    def _version(self) -> int:
        row = self._db.row("PRAGMA user_version")
        return int(row[0]) if row else 0

    def faults(self, *, quick: bool = False) -> Sequence[str]:
        """Return what is wrong with the file, a line each; with *quick* the first thing alone, if it is found soon."""
        return self._first_fault() if quick else self._all_faults()

    def _first_fault(self) -> list[str]:
        gives_up_s = time.monotonic() + SEARCH_LIMIT_S
        self._db.connection.release_memory()  # what is kept in memory hides what has become of the file
        self._db.connection.set_progress_handler(lambda: time.monotonic() > gives_up_s, 10_000)
        try:
            found = self._db.rows("PRAGMA quick_check(1)")
        except StoreDamagedError as error:
            return [str(error)]
        except StoreError as error:
            if isinstance(error.__cause__, apsw.InterruptError):
                return []
            raise
        finally:
            self._db.connection.set_progress_handler(None)
        return [] if found == [("ok",)] else [str(StoreDamagedError(str(self._db.path), str(found[0][0])))]

    def _all_faults(self) -> list[str]:
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

    def back_up(self, path: Path) -> None:
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
