"""One connection to PostgreSQL: transactions, errors, and a new connection after one was lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import psycopg
from psycopg import conninfo, errors
from psycopg.pq import TransactionStatus
from psycopg.types.numeric import Int8Dumper

from cis.errors import (
    StoreBusyError,
    StoreError,
    StoreFullError,
    StorePoolerError,
    StoreReadOnlyError,
    StoreRefusedError,
    StoreUnsureError,
)
from cis.store.postgres.dialect import batch_of, plain, translated_sql
from cis.store.sql.database import Row, Value

TIMEOUT_S = 30.0  # for whom a transaction waits, unless it is told otherwise; the same as in SQLite
CONNECT_TIMEOUT_S = 10
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
POOLER_ROUNDS = 3
LARGEST_BATCH = 1000  # rows of one round trip
_HOLDS = " FOR NO KEY UPDATE"
_DEFAULTS = {
    "application_name": "cis",
    "connect_timeout": str(CONNECT_TIMEOUT_S),
    "keepalives": "1",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
    "client_encoding": "UTF8",
}


class Address(NamedTuple):
    """Where a database is: *text* is for messages, and has no password."""

    conninfo: str
    text: str


def address_of(url: str, *, text: str) -> Address:
    """Return the address that a ``postgresql://`` URL names, with our settings where it has none.

    Raises:
        StoreError: it is no such URL.
    """
    try:
        given = conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # What libpq says of it may quote the password.
        raise StoreError(
            f"{text} is not an address that PostgreSQL's libpq can read: see docs/howto/postgresql.md"
        ) from None
    return Address(conninfo.make_conninfo("", **{**_DEFAULTS, **given}), text)


def connect(address: Address) -> psycopg.Connection[Row]:
    """Open a connection that commits what is outside of transactions at once.

    Raises:
        StoreError: nobody answers there, or it is refused.
    """
    try:
        connection = psycopg.connect(address.conninfo, autocommit=True, cursor_factory=psycopg.RawCursor)
    except psycopg.Error as error:
        raise store_error(error, address.text) from error
    connection.adapters.register_dumper(int, Int8Dumper)
    return connection


def demand_session(connection: psycopg.Connection[Row], address: Address) -> None:
    """Raise StorePoolerError if somebody between us and the server gives our session to others.

    A pooler has no number of the server's for us when we connect, so it makes one up. One that keeps sessions apart
    never has two clients in the same one, nor one client in two.
    """
    mine = _process_of(connection)
    if mine == connection.info.backend_pid:
        return
    with connect(address) as another:
        for _ in range(POOLER_ROUNDS):
            if _process_of(another) == mine or _process_of(connection) != mine:
                raise StorePoolerError(address.text)


def _process_of(connection: psycopg.Connection[Row]) -> int:
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    return int(row[0]) if row else 0


def store_error(error: psycopg.Error, path: str, *, waited_s: float = TIMEOUT_S) -> StoreError:
    """Return what *error* means to this program; it names the database, and where there is one, the mend."""
    why = " ".join(str(error).split())[:500]
    match error:
        case errors.DiskFull():
            return StoreFullError(path)
        case errors.ReadOnlySqlTransaction():
            return StoreReadOnlyError(path, mend="the server takes no writes: is it a standby?")
        case errors.LockNotAvailable() | errors.DeadlockDetected() | errors.SerializationFailure():
            return StoreBusyError(path, waited_s=round(waited_s))
        case errors.TooManyConnections():
            return StoreError(f"{path} has no connection left: raise its max_connections, or run fewer workers")
        case errors.InvalidPassword() | errors.InvalidAuthorizationSpecification():
            return StoreError(f"{path} refuses this user or password; see docs/howto/postgresql.md")
        case psycopg.IntegrityError() | psycopg.DataError() | errors.ProgramLimitExceeded():
            return StoreRefusedError(path, why)
        case _:
            return StoreError(f"{path}: {why}")


class Database:
    """A connection, with transactions that nest one level deep as savepoints.

    One that was lost is made anew by whatever comes next outside of a transaction. Queries are read to their end.
    """

    def __init__(self, address: Address, *, home: Path) -> None:
        self.path = address.text
        self.home = home
        self._address = address
        self.connection = connect(address)
        self._cursor = self.connection.cursor()
        self._timeout_s = TIMEOUT_S
        self._set_s = 0.0  # what the server knows of it
        self._writes = 0
        # Both also when the connection was lost, until the block ends: what comes then must not be done on another one.
        self._in_block = False
        self.in_transaction = False
        self.waited = False  # nobody waits for others to begin a transaction here
        self.pending: list[tuple[object, ...]] = []  # events, which get their numbers last (``parts.PostgresEvents``)
        self.store_pending: Callable[[], None] = _pass

    def wait_at_most(self, seconds: float, *, meanwhile: Callable[[], None] | None = None) -> None:
        """Wait no longer than that for what others hold. The server does the waiting, so *meanwhile* is not called."""
        del meanwhile
        self._timeout_s = seconds

    def leave_gap(self) -> None:
        """Do nothing: nobody waits to begin a transaction."""

    def _error(self, error: psycopg.Error) -> StoreError:
        return store_error(error, self.path, waited_s=self._timeout_s)

    def others_writes(self) -> int:
        """Return a greater number each time: nothing tells what others have written."""
        self._writes += 1
        return self._writes

    def rows(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        """Return the rows of a query."""
        return self._run(sql, parameters).fetchall()

    def all_rows(self, what: str, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:  # noqa: ARG002 - no text is odd here
        """Return all rows of a query."""
        return self._run(sql, parameters).fetchall()

    def row(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        """Return the first row of a query that finds few, or None."""
        return self._run(sql, parameters).fetchone()

    def held_row(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        """Return a row, which nobody else changes or deletes before the commit."""
        return self.row(sql + _HOLDS if self.in_transaction else sql, parameters)

    def hold(self, sql: str, parameters: Sequence[Value] = ()) -> None:
        """Have the rows of a query neither changed nor deleted by others before the commit."""
        if self.in_transaction:
            self._run(sql + _HOLDS, parameters)

    def lock(self, *name: str) -> None:
        """Have nobody else behind the same call before the commit.

        If two names have one number, one waits for the other without need.
        """
        if self.in_transaction:
            self._run("SELECT pg_advisory_xact_lock(?)", (_number(*name),))

    def write(self, sql: str, parameters: Sequence[Value] = ()) -> int:
        """Run a statement inside the transaction, and return how many rows it changed."""
        self.demand_transaction()
        if self.pending and sql.startswith("INSERT INTO events"):
            self.store_pending()  # they come before what a statement tells of by itself
        return self._run(sql, parameters).rowcount

    def write_many(self, sql: str, rows: Iterable[Sequence[Value]]) -> int:
        """Run a statement inside the transaction for each of *rows*, in few round trips; return how many rows it changed."""
        self.demand_transaction()
        values = [[plain(value) for value in row] for row in rows]
        if len(values) == 1:
            return self._run(sql, values[0]).rowcount
        batch = batch_of(sql)
        changed = 0
        for first in range(0, len(values), LARGEST_BATCH):
            part = values[first : first + LARGEST_BATCH]
            with self._told():
                if batch is not None and batch.takes(part):
                    self._cursor.execute(batch.sql, [list(column) for column in zip(*part, strict=True)])
                else:
                    self._cursor.executemany(translated_sql(sql), part)
            changed += self._cursor.rowcount
        return changed

    def demand_transaction(self) -> None:
        """Raise StoreError outside of a transaction: what is written in several steps must not be there in part."""
        if not self.in_transaction:
            raise StoreError("a write outside of a transaction; this is a fault of the program")

    def _run(self, sql: str, parameters: Sequence[Value] = ()) -> psycopg.Cursor[Row]:
        values = [plain(value) for value in parameters]
        alone = not self._in_block
        if alone and self.connection.closed:
            self._connect_again()
        try:
            return self._cursor.execute(translated_sql(sql), values)
        except psycopg.OperationalError as error:
            if not (alone and self.connection.closed):
                raise self._error(error) from error
        except psycopg.Error as error:
            raise self._error(error) from error
        self._connect_again()  # a question changes nothing, and may be asked again
        with self._told():
            return self._cursor.execute(translated_sql(sql), values)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise self._error(error) from error

    def _connect_again(self) -> None:
        """Make the connection anew; try for as long as a transaction waits for others."""
        gives_up_s = time.monotonic() + self._timeout_s
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                self.connection = connect(self._address)
                break
            except StoreError:
                if time.monotonic() + pause_s >= gives_up_s:
                    raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        self._cursor = self.connection.cursor()
        self._set_s = 0.0

    def transaction(self, *, wait: bool = True) -> AbstractContextManager[None]:  # noqa: ARG002 - nobody has to wait
        """Begin, and commit when the block ends; roll back when it raises."""
        return self._transaction()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._begin()
        self._in_block = self.in_transaction = True
        try:
            yield
            if self.pending:
                self.store_pending()
            self._commit()
        except BaseException:
            self._roll_back()
            raise
        finally:
            self._in_block = self.in_transaction = False

    def _begin(self) -> None:
        if self.connection.closed:
            self._connect_again()
        try:
            self._begin_once()
        except psycopg.OperationalError as error:
            if not self.connection.closed:
                raise self._error(error) from error
            self._connect_again()
            with self._told():
                self._begin_once()

    def _begin_once(self) -> None:
        if self._set_s != self._timeout_s:
            self._cursor.execute(f"SET lock_timeout = {max(1, round(self._timeout_s * 1000))}".encode())
            self._set_s = self._timeout_s
        self._cursor.execute(b"BEGIN")

    def _commit(self) -> None:
        try:
            done = self._cursor.execute(b"COMMIT").statusmessage
        except psycopg.Error as error:
            if self.connection.closed:
                raise StoreUnsureError(self.path) from error
            raise self._error(error) from error
        if done != "COMMIT":
            raise StoreError(f"{self.path} has undone a transaction in which an error was passed over")

    def _roll_back(self) -> None:
        self.pending.clear()
        if not self.connection.closed and self.connection.info.transaction_status != TransactionStatus.IDLE:
            with suppress(psycopg.Error):  # what went wrong first is what is told
                self._cursor.execute(b"ROLLBACK")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Have several questions answered from the database as it is at one moment."""
        if self._in_block:
            yield
            return
        if self.connection.closed:
            self._connect_again()
        with self._told():
            self._cursor.execute(b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        self._in_block = True
        try:
            yield
        finally:
            self._in_block = False
            self._roll_back()

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Inside a transaction, keep or undo one part of it alone."""
        with self._told():
            self._cursor.execute(b"SAVEPOINT part")
        pending = list(self.pending)
        try:
            yield
        except BaseException:
            self.pending[:] = pending  # also those that were stored within it
            if not self.connection.closed:
                with suppress(psycopg.Error):
                    self._cursor.execute(b"ROLLBACK TO SAVEPOINT part")
                    self._cursor.execute(b"RELEASE SAVEPOINT part")
            raise
        with self._told():
            self._cursor.execute(b"RELEASE SAVEPOINT part")

    def without_foreign_keys(self) -> AbstractContextManager[None]:
        """Do nothing: here a task may be there before its run (migration 22)."""
        return nullcontext()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


def _number(*name: str) -> int:
    """Return a number of 64 bits, as a lock is named."""
    return int.from_bytes(blake2b("\0".join(name).encode(), digest_size=8).digest(), "big", signed=True)


def _pass() -> None:
    pass
