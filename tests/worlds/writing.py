"""Rows that tests have a writer write, and a writer that is kept busy."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cis.errors import StoreError
from cis.node.store_threads import Writer
from cis.store.access_records import AuditRecord
from cis.store.port import Store
from cis.store.sqlite.store import SqliteStore


class CountingStore(SqliteStore):
    """Counts transactions, and fails where a test says so."""

    transactions = 0
    fail_commit = False

    @contextmanager
    def transaction(self, *, wait: bool = True) -> Iterator[None]:
        """Begin and commit."""
        with super().transaction(wait=wait):
            yield
            if self.fail_commit:
                raise StoreError("the disk is full")
        type(self).transactions += 1


def audit(store: Store, subject: str) -> str:
    """Write one row, and return its subject."""
    store.audit.append(AuditRecord(at_us=0, actor="a", action="test", subject=subject, source="here"))
    return subject


def subjects(database: Path) -> set[str]:
    """Return what is on disk, as another connection sees it."""
    connection = sqlite3.connect(database)
    try:
        return {row[0] for row in connection.execute("SELECT subject FROM audit")}
    finally:
        connection.close()


@contextmanager
def held(writer: Writer) -> Iterator[threading.Event]:
    """Keep the writer busy with one job until the block ends, so that the next ones gather."""
    go, begun = threading.Event(), threading.Event()

    def job(_: Store) -> None:
        begun.set()
        assert go.wait(10)

    first = writer.submit(job)
    assert begun.wait(10)
    try:
        yield go
    finally:
        go.set()
        first.result(10)


class SlowJob:
    """A job that writes a row once it may."""

    def __init__(self, subject: str) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self._subject = subject

    def __call__(self, store: Store) -> str:
        """Say that it has begun, wait, and write."""
        self.begun.set()
        assert self.go.wait(10)
        return audit(store, self._subject)
