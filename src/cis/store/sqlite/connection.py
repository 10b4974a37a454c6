"""One SQLite connection as the store uses it: opened, checked, migrated, and its errors translated."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from cis.errors import StoreError
from cis.store.sqlite.migrate import migrate

BUSY_TIMEOUT_MS = 30_000
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


def open_connection(path: Path) -> apsw.Connection:
    """Open, and where needed make and migrate, the database at *path*, mode 0600.

    Raises:
        StoreError: it cannot be opened, is no database, or is newer than this program.
    """
    check_version(apsw.sqlite_lib_version())
    with translated(path):
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        connection = apsw.Connection(str(path), statementcachesize=200)
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA temp_store = MEMORY")
        migrate(connection, path)
        return connection


@contextmanager
def translated(path: Path | str) -> Iterator[None]:
    """Turn SQLite's errors into StoreError, naming the file and, where there is one, the mend."""
    try:
        yield
    except apsw.BusyError as error:
        raise StoreError(f"{path} was locked for {BUSY_TIMEOUT_MS // 1000} s; see 'cis doctor'") from error
    except apsw.FullError as error:
        raise StoreError(f"{path} cannot grow: the disk is full; make room and it goes on by itself") from error
    except apsw.ReadOnlyError as error:
        raise StoreError(f"{path} is read-only; give this user the right to write it") from error
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise StoreError(f"{path} is damaged ({error}); see 'cis db check' and 'cis db restore'") from error
    except apsw.CantOpenError as error:
        raise StoreError(f"{path} cannot be opened: {error}") from error
    except apsw.IOError as error:
        raise StoreError(f"{path} cannot be read or written: {error}") from error
    except apsw.Error as error:
        raise StoreError(f"{path}: {error}") from error


class Database:
    """A connection, with transactions that nest one level deep as savepoints."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connection = open_connection(path)
        self._cursor = self.connection.cursor()

    def rows(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        """Return all rows of a query."""
        with translated(self.path):
            return list(self._cursor.execute(sql, parameters))

    def row(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        """Return the first row of a query, or None."""
        with translated(self.path):
            row: Row | None = next(self._cursor.execute(sql, parameters), None)
            return row

    def write(self, sql: str, parameters: Sequence[Value] = ()) -> int:
        """Run a statement inside the transaction, and return how many rows it changed."""
        with translated(self.path):
            self._cursor.execute(sql, parameters)
            return self.connection.changes()

    def write_many(self, sql: str, rows: Iterable[Sequence[Value]]) -> None:
        """Run a statement inside the transaction once for each of *rows*."""
        with translated(self.path):
            self._cursor.executemany(sql, rows)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Take the write lock, and commit when the block ends; roll back when it raises."""
        with translated(self.path):
            self._cursor.execute("BEGIN IMMEDIATE")
        try:
            yield
            with translated(self.path):
                self._cursor.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                self._cursor.execute("ROLLBACK")
            raise

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
