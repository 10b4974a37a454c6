"""What PostgreSQL keeps in another way than SQLite: events, what a home is, and upkeep."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cis.errors import StoreError, StoreNewerError
from cis.store.postgres.migrate import NEWEST, is_ours, version_of
from cis.store.sql.logs import EventRows, event_values
from cis.store.upkeep_port import Schema

if TYPE_CHECKING:
    from cis.store.postgres.connection import Database
    from cis.store.records import EventRecord, EventTally

_NUMBERS = "UPDATE event_numbers SET last = last + ? RETURNING last"
_APPEND = (
    "INSERT INTO events (seq, at_us, kind, status, run_id, dag_id, task_id, worker_id, data)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_ORPHANS = (
    "SELECT count(*) FROM task_executions e WHERE NOT EXISTS"
    " (SELECT 1 FROM run_tasks t WHERE t.run_id = e.run_id AND t.task_no = e.task_no)"
)


class PostgresEvents(EventRows):
    """The log of changes. Events take their numbers as the last step of a transaction, one transaction at a time.

    So whoever reads on after one misses none, and nobody waits for longer than a commit takes.
    """

    _db: Database

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        db.store_pending = self._flush

    def append(self, events: Iterable[EventRecord]) -> None:
        """Add events to the log, when the transaction ends."""
        self._db.demand_transaction()
        self._db.pending += map(event_values, events)

    def after(self, seq: int, *, limit: int) -> Sequence[EventRecord]:
        """Return the events after one, in order."""
        self._flush()
        return super().after(seq, limit=limit)

    def last_seq(self) -> int:
        """Return the number of the newest event; 0 when there was none."""
        self._flush()
        return super().last_seq()

    def tally_after(self, seq: int) -> EventTally:
        """Return how many events there are after one, and what they say, without reading each of them."""
        self._flush()
        return super().tally_after(seq)

    def prune(self, *, keep: int, at_most: int) -> int:
        """Delete the oldest events, but for the newest *keep*, at least one; return how many went."""
        self._flush()
        return super().prune(keep=keep, at_most=at_most)

    def _flush(self) -> None:
        """Store the events of this transaction; nobody else numbers events before it has ended."""
        pending = list(self._db.pending)
        self._db.pending.clear()
        if pending:
            row = self._db.row(_NUMBERS, (len(pending),))
            before = (row[0] if row else 0) - len(pending)
            self._db.write_many(_APPEND, ((before + place, *each) for place, each in enumerate(pending, 1)))


class Upkeep:
    """The upkeep's part of the store."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def write_nothing(self) -> None:
        """Write what changes nothing, but takes the same way to the disk as anything else."""
        self._db.write("UPDATE schema_version SET number = number")

    def faults(self, *, quick: bool = False) -> Sequence[str]:
        """Return what is wrong with what is stored; the server itself looks after its files."""
        if quick:
            self._db.row("SELECT 1")
            return []
        row = self._db.row(_ORPHANS)
        orphans = row[0] if row else 0
        return [f"task_executions: {orphans} rows refer to a row of run_tasks that is gone"] if orphans else []

    def schema(self) -> Schema:
        """Return which schema the database has."""
        return Schema(is_newest=version_of(self._db.connection) == NEWEST, is_ours=is_ours(self._db.connection))

    def check_current(self) -> None:
        """Raise StoreNewerError if the schema was changed by a newer program."""
        row = self._db.row("SELECT max(number) FROM schema_version")
        version = int(row[0] or 0) if row else 0
        if version > NEWEST:
            raise StoreNewerError(self._db.path, schema=version, known=NEWEST)

    def back_up(self, path: Path) -> None:
        """Refuse: the server's own tools copy a database of any size, as of one moment."""
        raise StoreError(
            f"{self._db.path} is copied by PostgreSQL's own tools: 'pg_dump --format=custom --file={path} …', and"
            " 'pg_restore' puts it back (docs/howto/postgresql.md)"
        )
