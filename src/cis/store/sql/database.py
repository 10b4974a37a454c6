"""What the parts of a store need of a connection to its database."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

Row = tuple[Any, ...]
Value = Any  # what a database binds: its columns have types, so it checks them itself


class Database(Protocol):
    """One connection. Statements have ``?`` for the next value, or ``?2`` for the second."""

    @property
    def path(self) -> Path | str:
        """Where the store is, as messages name it."""
        ...

    def rows(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        """Return the rows of a query; one whose text is not UTF-8 is left out, and named in the log."""
        ...

    def all_rows(self, what: str, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        """Return all rows of a query. Raises PoisonRecordError, about *what*, when the text of one is none."""
        ...

    def row(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        """Return the first row of a query that finds few, or None. Raises PoisonRecordError: its text is none."""
        ...

    def held_row(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        """Return a row as ``row`` does; inside a transaction nobody else changes or deletes it before the commit."""
        ...

    def hold(self, sql: str, parameters: Sequence[Value] = ()) -> None:
        """Inside a transaction: have the rows of a query neither changed nor deleted by others before the commit."""
        ...

    def lock(self, *name: str) -> None:
        """Inside a transaction: have nobody else in the block after the same call before the commit.

        It is for rows that are not there yet, which nobody can hold.
        """
        ...

    def write(self, sql: str, parameters: Sequence[Value] = ()) -> int:
        """Run a statement inside the transaction, and return how many rows it changed."""
        ...

    def write_many(self, sql: str, rows: Iterable[Sequence[Value]]) -> int:
        """Run a statement inside the transaction for each of *rows*; return how many rows it changed in all."""
        ...

    def snapshot(self) -> AbstractContextManager[None]:
        """Have several questions answered from the database as it is at one moment."""
        ...

    def transaction(self, *, wait: bool = True) -> AbstractContextManager[None]:
        """Begin a transaction, and commit when the block ends; see ``cis.store.port``."""
        ...

    def savepoint(self) -> AbstractContextManager[None]:
        """Inside a transaction, keep or undo one part of it alone."""
        ...

    def wait_at_most(self, seconds: float, *, meanwhile: Callable[[], None] | None = None) -> None:
        """Wait no longer than that for others; *meanwhile* is called again and again by whoever waits by itself."""
        ...

    @property
    def waited(self) -> bool:
        """Whether the last transaction had to wait for others to begin."""
        ...

    def others_writes(self) -> int:
        """Return a number that grows with others' commits; see ``cis.store.port``."""
        ...

    def leave_gap(self) -> None:
        """Leave others the time to begin a transaction, where they would wait in vain else."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...

    def without_foreign_keys(self) -> AbstractContextManager[None]:
        """Let rows refer to what is not there, in transactions that begin and end within."""
        ...
