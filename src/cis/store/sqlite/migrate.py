"""Brings a database to the newest schema: numbered SQL files, each in a transaction of its own."""

from __future__ import annotations

from pathlib import Path

import apsw

from cis.errors import StoreError

FOLDER = Path(__file__).parents[1] / "migrations" / "sqlite"


def migrations() -> list[tuple[int, Path]]:
    """Return the migrations, ascending: ``NNNN_name.sql``."""
    return sorted((int(path.name.partition("_")[0]), path) for path in FOLDER.glob("[0-9]*_*.sql"))


NEWEST = 7


def migrate(connection: apsw.Connection, path: Path) -> None:
    """Run the migrations that the database lacks; two processes may do so at once.

    Raises:
        StoreError: the database was written by a newer program.
    """
    version = _version(connection)
    if version == NEWEST:
        return
    if version > NEWEST:
        raise StoreError(f"{path} has schema {version}, this program knows {NEWEST}; install a newer cis-dag")
    for number, file in migrations():
        connection.execute("BEGIN IMMEDIATE")
        try:
            if _version(connection) < number:
                connection.execute(file.read_text(encoding="utf-8"))
                connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _version(connection: apsw.Connection) -> int:
    return int(connection.pragma("user_version"))
