"""The store in PostgreSQL: a part for each concept, all over one connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import psycopg

from cis.errors import CisError, NotFoundError, StoreGoneError
from cis.store.opening import Shared, shown
from cis.store.postgres.connection import Database, address_of, demand_session, store_error
from cis.store.postgres.migrate import NEWEST, check_known, migrate
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


def open_postgres(address: Shared, *, as_it_is: bool = False) -> PostgresStore:
    """Open the store at *address*; see ``cis.store.open_store``."""

    def see_to_schema(db: Database) -> None:
        if not as_it_is:
            migrate(db.connection, db.path)
        elif check_known(db.connection, db.path) < 0:
            raise NotFoundError("database", db.path)

    return _opened(address, see_to_schema)


def open_postgres_again(address: Shared) -> PostgresStore:
    """Open the store at *address* if it is still there; see ``cis.store.open_store``."""

    def demand_schema(db: Database) -> None:
        if check_known(db.connection, db.path) < NEWEST:
            raise StoreGoneError(db.path)

    return _opened(address, demand_schema)


def _opened(address: Shared, check: Callable[[Database], None]) -> PostgresStore:
    """Connect, and hand out the store once *check* has nothing against it."""
    there = address_of(address.url, text=shown(address))
    db = Database(there, home=address.home)
    try:
        demand_session(db.connection, there)
        check(db)
    except psycopg.Error as error:
        db.close()
        raise store_error(error, db.path) from error
    except CisError:
        db.close()
        raise
    return PostgresStore(db)
