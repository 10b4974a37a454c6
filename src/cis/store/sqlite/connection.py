"""One SQLite connection as the store uses it: opened, checked, migrated, and its errors translated."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import apsw

from cis.errors import (
    PoisonRecordError,
    StoreBusyError,
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreReadOnlyError,
    StoreRefusedError,
)
from cis.store.sql.rows import tell_left_out
from cis.store.sqlite.migrate import check_known, migrate

BUSY_TIMEOUT_MS = 30_000
LOCK_PAUSE_S = 0.0005  # a transaction with its flush takes about as long
LONGEST_PAUSE_S = 0.0015
GAP_S = 0.002  # longer than any pause after which others look again: else they can miss it again and again
FULL_BELOW_BYTES = 64 * 2**10  # the least that SQLite asks for at once: shared memory grows by 32 KiB
Row = tuple[Any, ...]
Value = Any  # what SQLite binds: the columns are STRICT, so it checks the types itself


def check_version(version: str) -> None:
    """Raise StoreError if this SQLite can lose writes when several connections share a WAL file.

    Affected: 3.7.0 to 3.51.2, but for the mended 3.50.7 and 3.44.6 (https://sqlite.org/wal.html, WAL-reset bug).
    """
    number = tuple(int(part) for part in version.split(".")[:3])
    mended = (3, 50, 7) <= number < (3, 51) or (3, 44, 6) <= number < (3, 45)
    if (3, 7, 0) <= number <= (3, 51, 2) and not mended:
        raise StoreError(f"SQLite {version} can lose committed writes in WAL mode; install apsw 3.51.3 or newer")


def open_connection(path: Path, *, as_it_is: bool = False) -> apsw.Connection:
    """Open, and where needed make and migrate, the database at *path*, mode 0600; *as_it_is*, change nothing.

    Raises:
        StoreError: it cannot be opened, is no database, or is newer than this program.
    """
    check_version(apsw.sqlite_lib_version())
    with translated(path):
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            for folder in path.absolute().parents[:2]:  # the home may be new, too
                sync_folder(folder)
        connection = apsw.Connection(str(path), statementcachesize=200)
        try:
            _prepare(connection, path, as_it_is=as_it_is)
        except BaseException:
            connection.close()
            raise
        return connection


def _prepare(connection: apsw.Connection, path: Path, *, as_it_is: bool) -> None:
    connection.set_busy_timeout(BUSY_TIMEOUT_MS)
    mode = "wal" if as_it_is else _enter_wal(connection)
    if mode != "wal":
        raise StoreError(f"{path} lies where SQLite's WAL mode does not work ({mode}); move CIS_HOME to a local disk")
    connection.execute(
        "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY;"
        " PRAGMA cache_size = -8000; PRAGMA journal_size_limit = 67108864;"
        # In pages, 2 MiB, half of SQLite's own: to flush what is written over takes two thirds of what makes the log longer.
        " PRAGMA wal_autocheckpoint = 500"
    ).fetchall()  # to its end: SQLite is not asked for the next statement before the rows of the last were read
    if as_it_is:
        check_known(connection, path)
    else:
        migrate(connection, path)


def _enter_wal(connection: apsw.Connection) -> str:
    # Two that do this to a new file at once would wait for each other, so SQLite refuses one without waiting.
    deadline_s = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            return str(connection.pragma("journal_mode", "wal"))
        except apsw.BusyError:
            if time.monotonic() >= deadline_s:
                raise
            time.sleep(0.005)


def store_error(error: apsw.Error | OSError, path: Path | str) -> StoreError:
    """Return what *error* means to this program, naming the file and, where there is one, the mend."""
    match error:
        case apsw.BusyError():
            return StoreBusyError(str(path), waited_s=BUSY_TIMEOUT_MS // 1000)
        case apsw.FullError():
            return StoreFullError(str(path))
        case apsw.ReadOnlyError() | apsw.PermissionsError() | PermissionError():
            return _read_only(path)
        case apsw.TooBigError() | apsw.ConstraintError() | apsw.MismatchError():
            return StoreRefusedError(str(path), str(error))
        case apsw.CorruptError() | apsw.NotADBError():
            return StoreDamagedError(str(path), str(error))
        case apsw.CantOpenError() | apsw.IOError() | OSError() if (cause := _disk_error(path)) is not None:
            return cause  # of what lies beside the database SQLite says less: the disk knows more
        case apsw.CantOpenError() | apsw.IOError() | OSError():
            what = "opened" if isinstance(error, apsw.CantOpenError) else "read or written"
            return StoreError(f"{path} cannot be {what}: {error}")
        case _:
            return StoreError(f"{path}: {error}")


def _disk_error(path: Path | str) -> StoreError | None:
    """Return what is wrong with the disk of *path*, if it is full or read-only."""
    try:
        disk = os.statvfs(Path(path).parent)
    except OSError:
        return None
    if disk.f_flag & os.ST_RDONLY:
        return _read_only(path)
    return StoreFullError(str(path)) if disk.f_bavail * disk.f_frsize < FULL_BELOW_BYTES else None


def _read_only(path: Path | str) -> StoreReadOnlyError:
    with suppress(OSError):
        if os.statvfs(Path(path).parent).f_flag & os.ST_RDONLY:
            return StoreReadOnlyError(str(path), mend="its disk is mounted read-only: see why ('dmesg') and remount it")
    return StoreReadOnlyError(str(path), mend="give this user the right to write it and its folder")


def file_of(path: Path) -> tuple[int, int] | None:
    """Return what tells the file at *path* from every other while somebody has it open; None: there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 - for each group of writes, and a ``Path`` costs as much again
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk: a new file survives a power cut only with its name."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def translated(path: Path | str) -> Iterator[None]:
    """Turn the errors of SQLite and of the file system into StoreError."""
    try:
        yield
    except (apsw.Error, OSError) as error:
        raise store_error(error, path) from error


class Database:
    """A connection, with transactions that nest one level deep as savepoints.

    Every query is read to its end at once: one that stays half read would keep its view of the database open, and
    the write-ahead log could not be reset for as long.
    """

    def __init__(self, path: Path, *, as_it_is: bool = False) -> None:
        self.path = path
        self.connection = open_connection(path, as_it_is=as_it_is)
        self.connection.set_busy_handler(self._wait_for_lock)
        self._cursor = self.connection.cursor()
        self._timeout_s = BUSY_TIMEOUT_MS / 1000
        self._gives_up_s = 0.0
        self._meanwhile: Callable[[], None] | None = None
        self.waited = False  # whether others had the write lock when the last transaction began
        self._no_waiting = False  # of the transaction that begins
        self._version = -1  # of the database, when this connection last looked
        self._others_writes = 0

    def wait_at_most(self, seconds: float, *, meanwhile: Callable[[], None] | None = None) -> None:
        """Wait no longer than that for others to let go of the write lock, and call *meanwhile* again and again."""
        self._timeout_s = seconds
        self._meanwhile = meanwhile

    def _wait_for_lock(self, tries: int) -> bool:
        """Wait a moment before SQLite tries again; return False to give up.

        SQLite's own waits grow to 100 ms, in which a process that writes again and again leaves no gap that is hit:
        next to a busy node a worker would write ten times a second. These grow as well, but to 1.5 ms: sixteen workers
        that ask again every half of a millisecond would take a third of a core for it.
        """
        if self._no_waiting:
            return False
        now_s = time.monotonic()
        self.waited = True
        if not tries:
            self._gives_up_s = now_s + self._timeout_s
        if now_s >= self._gives_up_s:
            return False
        if self._meanwhile is not None:
            self._meanwhile()
        time.sleep(min(LOCK_PAUSE_S * (1 + tries), LONGEST_PAUSE_S))
        return True

    def rows(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        """Return the rows of a query; those with invalid UTF-8 are skipped, and named in the log."""
        try:
            return self._cursor.execute(sql, parameters).fetchall()
        except UnicodeDecodeError:
            return list(self._readable_rows(sql, parameters))
        except apsw.Error as error:
            raise store_error(error, self.path) from error

    def all_rows(self, what: str, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        """Return all rows of a query. Raises PoisonRecordError, about *what*, when the text of one is none."""
        try:
            return self._cursor.execute(sql, parameters).fetchall()
        except UnicodeDecodeError as error:
            raise PoisonRecordError(what, str(error)) from error
        except apsw.Error as error:
            raise store_error(error, self.path) from error

    def row(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        """Return the first row of a query that finds few, or None. Raises PoisonRecordError: invalid UTF-8."""
        found = self.all_rows("a row", sql, parameters)
        return found[0] if found else None

    held_row = row  # one lock is for all who write: what a transaction has read stays as it is

    def hold(self, sql: str, parameters: Sequence[Value] = ()) -> None:
        """Do nothing: see ``held_row``."""

    def lock(self, *name: str) -> None:
        """Do nothing: see ``held_row``."""

    def write(self, sql: str, parameters: Sequence[Value] = ()) -> int:
        """Run a statement inside the transaction, and return how many rows it changed."""
        self._demand_transaction()
        try:
            self._cursor.execute(sql, parameters)
        except apsw.Error as error:
            raise store_error(error, self.path) from error
        return self.connection.changes()

    def write_many(self, sql: str, rows: Iterable[Sequence[Value]]) -> int:
        """Run a statement inside the transaction for each of *rows*; return how many rows it changed in all."""
        self._demand_transaction()
        before = self.connection.total_changes()
        try:
            self._cursor.executemany(sql, rows)
        except apsw.Error as error:
            raise store_error(error, self.path) from error
        return self.connection.total_changes() - before

    def _demand_transaction(self) -> None:
        # What is written in several steps must not be there in part, and each commit of its own costs an fsync.
        if not self.connection.in_transaction:
            raise StoreError("a write outside of a transaction; this is a fault of the program")

    def _readable_rows(self, sql: str, parameters: Sequence[Value]) -> Iterator[Row]:
        with translated(self.path):
            found = self._cursor.execute(sql, parameters)
            while True:
                try:
                    yield next(found)
                except StopIteration:
                    return
                except UnicodeDecodeError as error:
                    tell_left_out(error)

    def transaction(self, *, wait: bool = True) -> AbstractContextManager[None]:
        """Take the write lock, and commit when the block ends; roll back when it raises.

        Unless it may *wait*, StoreBusyError comes at once when others have the lock.
        """
        return _Transaction(self, wait=wait)

    def others_writes(self) -> int:
        """Return a number that grows with others' commits; inside a transaction, as of its beginning."""
        if not self.connection.in_transaction:
            self.row("PRAGMA data_version")  # so that SQLite looks
        self._look_at_version()
        return self._others_writes

    def _look_at_version(self) -> None:
        """Count a version that did not come of this connection's own commits (``SQLITE_FCNTL_DATA_VERSION``)."""
        version = self.connection.data_version()
        if version != self._version:
            self._version = version
            self._others_writes += 1

    @contextmanager
    def without_foreign_keys(self) -> Iterator[None]:
        """Let rows refer to what is not there, in transactions that begin and end within."""
        with translated(self.path):
            self._cursor.execute("PRAGMA foreign_keys = OFF")
        try:
            yield
        finally:
            with translated(self.path):
                self._cursor.execute("PRAGMA foreign_keys = ON")

    def leave_gap(self) -> None:
        """Leave the write lock to others for a moment: who writes again and again leaves no gap that they would hit."""
        time.sleep(GAP_S)

    def begin(self, *, wait: bool) -> None:
        """Take the write lock. Raises StoreBusyError when others keep it; at once, unless it may *wait* for them."""
        self.waited = False
        self._no_waiting = not wait
        try:
            self._cursor.execute("BEGIN IMMEDIATE")
        except apsw.BusyError as error:
            raise StoreBusyError(str(self.path), waited_s=0 if self._no_waiting else round(self._timeout_s)) from error
        except (apsw.Error, OSError) as error:
            raise store_error(error, self.path) from error
        finally:
            self._no_waiting = False
        self._look_at_version()

    def commit(self) -> None:
        """Put what the transaction wrote on disk, and let go of the write lock."""
        try:
            self._cursor.execute("COMMIT")
            self._version = self.connection.data_version()
        except (apsw.Error, OSError) as error:
            raise store_error(error, self.path) from error

    def roll_back(self) -> None:
        """Undo the transaction, if SQLite has not done so itself."""
        if self.connection.in_transaction:
            with suppress(apsw.Error):  # what went wrong first is what is told; closing rolls back as well
                self._cursor.execute("ROLLBACK")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Have several questions answered from the database as it is at one moment."""
        if self.connection.in_transaction:  # it is one already
            yield
            return
        with translated(self.path):
            self._cursor.execute("BEGIN")
        try:
            yield
        finally:
            # SQLite itself may have ended it, after an I/O error; nothing was written that could be lost.
            with translated(self.path), suppress(apsw.SQLError):
                self._cursor.execute("COMMIT")

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Inside a transaction, keep or undo one part of it alone."""
        with translated(self.path):
            self._cursor.execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            if self.connection.in_transaction:  # SQLite itself may have rolled back all of it: disk full, I/O error
                self._cursor.execute("ROLLBACK TO part")
                self._cursor.execute("RELEASE part")
            raise
        with translated(self.path):
            self._cursor.execute("RELEASE part")

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


class _Transaction:
    """The block of ``Database.transaction``; a generator would take twice as long, and a task has one."""

    __slots__ = ("_database", "_wait")

    def __init__(self, database: Database, *, wait: bool) -> None:
        self._database = database
        self._wait = wait

    def __enter__(self) -> None:
        self._database.begin(wait=self._wait)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._database.roll_back()
            return
        try:
            self._database.commit()
        except BaseException:
            self._database.roll_back()
            raise
