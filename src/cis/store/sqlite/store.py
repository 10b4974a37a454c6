"""The store in one SQLite file: a part for each concept, all over one connection."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from cis.errors import NotFoundError, StoreError, StoreGoneError
from cis.store.sql.store import SqlStore, part
from cis.store.sqlite.connection import Database

if TYPE_CHECKING:
    from cis.store.sql.upkeep import HomeRows
    from cis.store.sqlite.file import StoreFile


class SqliteStore(SqlStore):
    """All parts of the store in one file; an object is for one thread."""

    home: HomeRows = part("sql.upkeep", "HomeRows")
    upkeep: StoreFile = part("sqlite.file", "StoreFile")
    _db: Database

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self.path = db.path

    def transaction(self, *, wait: bool = True) -> AbstractContextManager[None]:
        """Take the write lock, and commit when the block ends; roll back when it raises.

        Unless it may *wait*, StoreBusyError comes at once when others have the lock.
        """
        return self._db.transaction(wait=wait)

    def savepoint(self) -> AbstractContextManager[None]:
        """Inside a transaction: keep or undo one part of it alone."""
        return self._db.savepoint()

    def wait_at_most(self, seconds: float, *, meanwhile: Callable[[], None] | None = None) -> None:
        """Wait no longer than that for others to let go of the write lock; StoreBusyError comes then.

        While it waits it calls *meanwhile* about a thousand times a second.
        """
        self._db.wait_at_most(seconds, meanwhile=meanwhile)

    def others_writes(self) -> int:
        """Return a number that grows with others' commits; inside a transaction, as of its beginning."""
        return self._db.others_writes()

    @property
    def waited(self) -> bool:
        """Whether others had the write lock when the last transaction began."""
        return self._db.waited

    def let_others_in(self) -> None:
        """Leave the write lock to others for longer than any of them pauses before it looks again."""
        self._db.leave_gap()

    def close(self) -> None:
        """Close the connection."""
        self._db.close()


def open_sqlite(path: Path, *, as_it_is: bool = False) -> SqliteStore:
    """Open the store at *path*; see ``cis.store.open_store``."""
    if as_it_is and not path.exists():
        raise NotFoundError("database", str(path))
    return SqliteStore(Database(path, as_it_is=as_it_is))


def open_sqlite_again(path: Path) -> SqliteStore:
    """Open the store at *path* if it is still there; see ``cis.store.open_store``."""
    try:
        if path.exists():
            return SqliteStore(Database(path))
    except StoreError:
        if path.exists():
            raise
    raise StoreGoneError(str(path))
