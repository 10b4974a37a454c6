"""Events, tokens and the audit log."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from cis.model.scope_rules import read_patterns, written
from cis.store.access_records import EVERY_ENTRY, AuditFilter, AuditRecord, TokenRecord
from cis.store.records import EventRecord, EventTally
from cis.store.shares import RefusalShares
from cis.store.sql.rows import EVENT, event_of, read, read_all

if TYPE_CHECKING:
    from cis.store.sql.database import Database, Row

_APPEND = (
    "INSERT INTO events (at_us, kind, status, run_id, dag_id, task_id, worker_id, data) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_COLUMNS_OF_TOKENS = "name, sha256, may, created_at_us, scopes"
_AFTER = f"SELECT {EVENT} FROM events WHERE seq > ? ORDER BY seq LIMIT ?"  # noqa: S608 - constants
_TALLY = (
    "SELECT status, count(*), count(*) FILTER (WHERE kind = 'run'), max(seq) FROM events WHERE seq > ? GROUP BY status"
)
_PRUNE = (
    "DELETE FROM events WHERE seq <= (SELECT max(seq) FROM events) - ?1 AND seq < (SELECT min(seq) FROM events) + ?2"
)
_AUDIT = (
    "SELECT seq, at_us, actor, action, subject, source FROM audit"
    " WHERE seq < coalesce(?1, 9223372036854775807) AND at_us >= coalesce(?2, at_us) AND actor = coalesce(?3, actor)"
    " AND (action = coalesce(?4, action) OR substr(action, 1, length(?4) + 1) = ?4 || '.') ORDER BY seq DESC LIMIT ?5"
)


class EventRows:
    """The events' part of the store."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def append(self, events: Iterable[EventRecord]) -> None:
        """Add events to the log; ``seq`` is given here."""
        self._db.write_many(_APPEND, map(event_values, events))

    def after(self, seq: int, *, limit: int) -> Sequence[EventRecord]:
        """Return the events after one, in order."""
        return read_all("event", event_of, self._db.rows(_AFTER, (seq, limit)))

    def last_seq(self) -> int:
        """Return the number of the newest event; 0 when there was none."""
        row = self._db.row("SELECT max(seq) FROM events")
        return int(row[0] or 0) if row else 0

    def tally_after(self, seq: int) -> EventTally:
        """Return how many events there are after one, and what they say, without reading each of them."""
        rows = self._db.rows(_TALLY, (seq,))
        return EventTally(
            events=sum(count for _, count, _, _ in rows),
            last_seq=max((last for *_, last in rows), default=seq),
            runs={status: runs for status, _, runs, _ in rows if runs},
        )

    def prune(self, *, keep: int, at_most: int) -> int:
        """Delete the oldest events, but for the newest *keep*, at least one; return how many went."""
        # The next number is that of the newest and one.
        return self._db.write(_PRUNE, (max(keep, 1), at_most))


class TokenRows:
    """The tokens' part of the store."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def put(self, token: TokenRecord) -> None:
        """Store a token, in place of one of the same name."""
        self._db.write(
            f"INSERT INTO api_tokens ({_COLUMNS_OF_TOKENS}) VALUES (?, ?, ?, ?, ?)"  # noqa: S608 - constants
            " ON CONFLICT (name) DO UPDATE SET sha256 = excluded.sha256, may = excluded.may,"
            " created_at_us = excluded.created_at_us, scopes = excluded.scopes",
            (token.name, token.sha256, ",".join(token.may), token.created_at_us, written(token.scopes)),
        )

    def all(self) -> Sequence[TokenRecord]:
        """Return all tokens by name."""
        self._db.lock("tokens")
        rows = self._db.rows(f"SELECT {_COLUMNS_OF_TOKENS} FROM api_tokens ORDER BY name")  # noqa: S608 - constants
        return read_all("token", _token, rows)

    def by_sha256(self, sha256: str) -> TokenRecord | None:
        """Return the token with this digest."""
        row = self._db.row(f"SELECT {_COLUMNS_OF_TOKENS} FROM api_tokens WHERE sha256 = ?", (sha256,))  # noqa: S608 - constants
        return None if row is None else read("token", _token, row)

    def delete(self, name: str) -> bool:
        """Delete a token; return whether there was one."""
        return self._db.write("DELETE FROM api_tokens WHERE name = ?", (name,)) == 1


class AuditRows:
    """The audit log's part of the store."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._refusals = RefusalShares()

    def append(self, entry: AuditRecord) -> None:
        """Add an entry to the audit log; of one actor's refusals, no more than its share (``RefusalShares``)."""
        admitted = self._refusals.admit(entry)
        if admitted is not None:
            self._db.write(
                "INSERT INTO audit (at_us, actor, action, subject, source) VALUES (?, ?, ?, ?, ?)",
                (admitted.at_us, admitted.actor, admitted.action, admitted.subject, admitted.source),
            )

    def page(self, where: AuditFilter = EVERY_ENTRY, *, limit: int, before: int | None = None) -> Sequence[AuditRecord]:
        """Return entries, newest first."""
        chosen = (before, where.since_us, where.actor, where.action, limit)
        return read_all("audit entry", _audit_entry, self._db.rows(_AUDIT, chosen))


def _token(row: Row) -> TokenRecord:
    name, sha256, may, created_at_us, scopes = row
    return TokenRecord(
        name=str(name),
        sha256=str(sha256),
        may=tuple(str(may).split(",")),
        created_at_us=int(str(created_at_us)),
        scopes=read_patterns(scopes),
    )


def _audit_entry(row: Row) -> AuditRecord:
    seq, at_us, actor, action, subject, source = row
    return AuditRecord(seq=seq, at_us=at_us, actor=actor, action=action, subject=subject, source=source)


def event_values(event: EventRecord) -> tuple[object, ...]:
    """Return what of an event is stored, but for its number."""
    return (
        event.at_us,
        event.kind,
        event.status,
        event.run_id,
        event.dag_id,
        event.task_id,
        event.worker_id,
        _json(tuple(event.data.items())) if event.data else None,
    )


@lru_cache(maxsize=1024)
def _json(data: tuple[tuple[str, int | None], ...]) -> str:
    """Return the text of an event's data: a few small numbers, the same for thousands of tasks."""
    return json.dumps(dict(data))
