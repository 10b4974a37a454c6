"""Brings a database to the newest schema: numbered SQL files, each in a transaction, one process at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg

from cis.errors import StoreNewerError

FOLDER = Path(__file__).parents[1] / "migrations" / "postgres"
NEWEST = 26  # as in SQLite
_LOCK = 0x63697364  # of this program alone; any number would do
_NEVER = -1


def migrate(connection: psycopg.Connection[Any], where: str) -> None:
    """Run the migrations that the database lacks; ten nodes may do so at once.

    Raises:
        StoreNewerError: the database was written by a newer program.
    """
    if check_known(connection, where) == NEWEST:
        return
    for number, file in migrations():
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock($1)", (_LOCK,))
            if check_known(connection, where) < number:
                psycopg.ClientCursor(connection).execute(file.read_bytes())
                if connection.execute("UPDATE schema_version SET number = $1", (number,)).rowcount == 0:
                    connection.execute("INSERT INTO schema_version VALUES ($1)", (number,))


def migrations() -> list[tuple[int, Path]]:
    """Return the migrations, ascending: ``NNNN_name.sql``."""
    return sorted((int(path.name.partition("_")[0]), path) for path in FOLDER.glob("[0-9]*_*.sql"))


def check_known(connection: psycopg.Connection[Any], where: str) -> int:
    """Return the schema of a database; StoreNewerError if it was written by a newer program."""
    version = version_of(connection)
    if version > NEWEST:
        raise StoreNewerError(where, schema=version, known=NEWEST)
    return version


def version_of(connection: psycopg.Connection[Any]) -> int:
    """Return the number of the schema; -1 where there is none."""
    if not is_ours(connection):
        return _NEVER
    row = connection.execute("SELECT max(number) FROM schema_version").fetchone()
    return _NEVER if row is None or row[0] is None else int(row[0])


def is_ours(connection: psycopg.Connection[Any]) -> bool:
    """Whether the database was made by this program."""
    row = connection.execute("SELECT to_regclass('schema_version') IS NOT NULL").fetchone()
    return bool(row and row[0])
