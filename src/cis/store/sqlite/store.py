"""The store in one SQLite file: a part for each concept, all over one connection."""

from __future__ import annotations

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
