"""The store in PostgreSQL: a part for each concept, all over one connection."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import psycopg

from cis.errors import NotFoundError, StoreError, StoreGoneError
from cis.store.opening import Shared, shown
from cis.store.postgres.connection import Database, address_of, store_error
from cis.store.postgres.migrate import NEWEST, check_known, migrate, version_of
from cis.store.sql.store import SqlStore, part

if TYPE_CHECKING:
    from cis.store.postgres.home_file import HomeFile
    from cis.store.postgres.parts import PostgresEvents, Upkeep


class PostgresStore(SqlStore):
    """All parts of the store in one database; an object is for one thread."""

    events: PostgresEvents = part("postgres.parts", "PostgresEvents")
    home: HomeFile = part("postgres.home_file", "HomeFile")
    upkeep: Upkeep = part("postgres.parts", "Upkeep")
    _db: Database

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self.path = db.path

    def transaction(self, *, wait: bool = True) -> AbstractContextManager[None]:
        """Begin, and commit when the block ends; roll back when it raises."""
        return self._db.transaction(wait=wait)

    def savepoint(self) -> AbstractContextManager[None]:
        """Inside a transaction: keep or undo one part of it alone."""
        return self._db.savepoint()

    def wait_at_most(self, seconds: float, *, meanwhile: Callable[[], None] | None = None) -> None:
        """Wait no longer than that for a row or a name that others hold; StoreBusyError comes then.

        The server does the waiting, so *meanwhile* is not called.
        """
        del meanwhile
        self._db.wait_at_most(seconds)

    def others_writes(self) -> int:
        """Return a greater number each time."""
        return self._db.others_writes()

    @property
    def waited(self) -> bool:
        """Whether the last transaction had to wait to begin: here it never does."""
        return self._db.waited

    def let_others_in(self) -> None:
        """Do nothing: nobody waits to begin a transaction."""

    def close(self) -> None:
        """Close the connection."""
        self._db.close()


def open_postgres(address: Shared, *, as_it_is: bool = False) -> PostgresStore:
    """Open the store at *address*; see ``cis.store.open_store``."""
    db = Database(address_of(address.url, text=shown(address)), home=address.home)
    try:
        if not as_it_is:
            migrate(db.connection, db.path)
        elif check_known(db.connection, db.path) < 0:
            raise NotFoundError("database", db.path)
    except psycopg.Error as error:
        db.close()
        raise store_error(error, db.path) from error
    except StoreError:
        db.close()
        raise
    return PostgresStore(db)


def open_postgres_again(address: Shared) -> PostgresStore:
    """Open the store at *address* if it is still there; see ``cis.store.open_store``."""
    db = Database(address_of(address.url, text=shown(address)), home=address.home)
    try:
        if version_of(db.connection) < NEWEST:
            raise StoreGoneError(db.path)
        check_known(db.connection, db.path)
    except psycopg.Error as error:
        db.close()
        raise store_error(error, db.path) from error
    except StoreError:
        db.close()
        raise
    return PostgresStore(db)
