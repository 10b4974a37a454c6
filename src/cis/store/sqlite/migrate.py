"""Brings a database to the newest schema: numbered SQL files, each in a transaction of its own."""

from __future__ import annotations

from pathlib import Path

import apsw

from cis.errors import StoreNewerError

FOLDER = Path(__file__).parents[1] / "migrations" / "sqlite"
NEWEST = 26
_ASK_AGAIN = 100  # SQLite does so once; each time another process has to have changed the schema in between


def migrations() -> list[tuple[int, Path]]:
    """Return the migrations, ascending: ``NNNN_name.sql``."""
    return sorted((int(path.name.partition("_")[0]), path) for path in FOLDER.glob("[0-9]*_*.sql"))


def migrate(connection: apsw.Connection, path: Path) -> None:
    """Run the migrations that the database lacks; two processes may do so at once.

    Raises:
        StoreNewerError: the database was written by a newer program.
    """
    if _version(connection) == NEWEST:
        return
    check_known(connection, path)
    for number, file in migrations():
        connection.execute("BEGIN IMMEDIATE")
        try:
            if max(_version(connection), _steps_made(connection)) < number:
                connection.execute(file.read_text(encoding="utf-8"))
                _note_step(connection, number)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    if _version(connection) < NEWEST:
        _set_right(connection)


def check_known(connection: apsw.Connection, path: Path) -> None:
    """Raise StoreNewerError if the database was written by a newer program."""
    version = max(_version(connection), _steps_made(connection))
    if version > NEWEST:
        raise StoreNewerError(str(path), schema=version, known=NEWEST)


def _version(connection: apsw.Connection) -> int:
    return int(connection.pragma("user_version"))


def _steps_made(connection: apsw.Connection) -> int:
    """Return the last step that was made, by the table that programs of schema 6 do not know; 0 without it."""
    for _ in range(_ASK_AGAIN):
        try:
            return int(connection.execute("SELECT coalesce(max(step), 0) FROM schema_steps").get)
        except apsw.SchemaChangeError:  # another process makes tables at this very moment
            continue
        except apsw.SQLError:  # no such table
            return 0
    return 0


def _note_step(connection: apsw.Connection, number: int) -> None:
    connection.execute(f"PRAGMA user_version = {number}")
    if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'schema_steps'").get:
        connection.execute("INSERT OR IGNORE INTO schema_steps VALUES (?)", (number,))


def _set_right(connection: apsw.Connection) -> None:
    """Put back the number that a program of an earlier schema has written over."""
    connection.execute("BEGIN IMMEDIATE")
    number = _steps_made(connection)
    if _version(connection) < number:
        connection.execute(f"PRAGMA user_version = {number}")
    connection.execute("COMMIT")
