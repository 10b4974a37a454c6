"""The parts of other nodes in runs, and what the room said.

``RemoteRows`` keeps ``remote_runs``, ``withdrawals``, and copies of rows that another node executes. That node checked
the arrows of a copy, so only its age is looked at here. ``RoomRows`` keeps ``room_events``, ``room_cursors``,
``offers``, ``lease_asks`` and ``chat_threads``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cis.store.sql.cluster_rows import REMOTE, remote_of
from cis.store.sql.rows import places_of, read, read_all

if TYPE_CHECKING:
    from cis.store.cluster import RemoteRole, RemoteRun
    from cis.store.sql.database import Database

from typing import TYPE_CHECKING

from cis.store.sql.cluster_rows import (
    LEASE_ASK,
    OFFER,
    ROOM_CURSOR,
    ROOM_EVENT,
    json_text,
    lease_ask_of,
    offer_of,
    room_cursor_of,
    room_event_of,
)

if TYPE_CHECKING:
    from cis.store.cluster import JournalState, LeaseAsk, OfferRecord, OfferState, RoomCursor, RoomEvent

_PUT = (
    f"INSERT INTO remote_runs ({REMOTE}) VALUES ({places_of(REMOTE)})"  # noqa: S608 - constants
    " ON CONFLICT (run_id) DO UPDATE SET role = excluded.role, peer = excluded.peer, epoch = excluded.epoch,"
    " lease_until_us = excluded.lease_until_us, control_seq = excluded.control_seq,"
    " heard_version = excluded.heard_version, open = excluded.open, event_id = excluded.event_id, lease_us = excluded.lease_us,"
    " suspended_us = excluded.suspended_us, boot_id = excluded.boot_id, lease_uptime_us = excluded.lease_uptime_us,"
    " told_bytes = excluded.told_bytes, ignores_errexit = excluded.ignores_errexit"
)
_ONE = f"SELECT {REMOTE} FROM remote_runs WHERE run_id = ?"  # noqa: S608 - constants
_OPEN = f"SELECT {REMOTE} FROM remote_runs WHERE role = ? AND open = 1 ORDER BY run_id"  # noqa: S608 - constants
_WITHDRAW = (
    "INSERT INTO withdrawals (run_id, sender, expires_at_us) VALUES (?, ?, ?)"
    " ON CONFLICT (run_id, sender) DO UPDATE SET expires_at_us = max(withdrawals.expires_at_us, excluded.expires_at_us)"
)
_WITHDRAWALS = "SELECT count(*) FROM (SELECT 1 FROM withdrawals WHERE sender = ? LIMIT ?) AS found"
_WITHDRAWN = "SELECT 1 FROM withdrawals WHERE run_id = ? AND sender = ?"


class RemoteRows:
    """The remote runs' part of the store."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def put(self, remote: RemoteRun) -> None:
        """Store, or replace, the other node's part in a run."""
        self._db.write(
            _PUT,
            (
                remote.run_id,
                str(remote.role),
                remote.peer_id,
                remote.epoch,
                remote.lease_until_us,
                remote.control_seq,
                remote.applied_version,
                int(remote.open),
                remote.event_id,
                remote.lease_us,
                remote.suspended_us,
                remote.boot_id,
                remote.lease_uptime_us,
                remote.reported_bytes,
                int(remote.ignores_errexit),
            ),
        )

    def get(self, run_id: str) -> RemoteRun | None:
        """Return the other node's part in a run, or None."""
        row = self._db.held_row(_ONE, (run_id,))
        return None if row is None else read("remote run", remote_of, row)

    def open(self, role: RemoteRole) -> Sequence[RemoteRun]:
        """Return those that are open, by run id."""
        return read_all("remote run", remote_of, self._db.rows(_OPEN, (str(role),)))

    def withdraw(self, run_id: str, *, sender: str, expires_at_us: int) -> None:
        """Refuse a run of *sender* from now on, if it is not here."""
        self._db.lock("run", run_id)
        self._db.write(_WITHDRAW, (run_id, sender, expires_at_us))

    def withdrawal_count(self, sender: str, *, at_most: int) -> int:
        """Return how many runs of *sender* are to be refused, counting up to *at_most*."""
        row = self._db.row(_WITHDRAWALS, (sender, at_most))
        return int(row[0]) if row else 0

    def withdrawn(self, run_id: str, *, sender: str) -> bool:
        """Return whether such a run is to be refused."""
        self._db.lock("run", run_id)
        return self._db.row(_WITHDRAWN, (run_id, sender)) is not None


_CURSOR = f"SELECT {ROOM_CURSOR} FROM room_cursors WHERE room_id = ?"  # noqa: S608 - constants
_PUT_CURSOR = (
    f"INSERT INTO room_cursors ({ROOM_CURSOR}) VALUES (?, ?, ?, ?)"  # noqa: S608 - constants
    " ON CONFLICT (room_id) DO UPDATE SET user_id = excluded.user_id, next_batch = excluded.next_batch,"
    " synced_at_us = excluded.synced_at_us"
)
_JOURNAL = (
    "INSERT INTO room_events (event_id, room_id, sender, type, content, sent_at_us, state)"
    " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (event_id) DO NOTHING"
)
_NEW = f"SELECT {ROOM_EVENT} FROM room_events WHERE state = 'new' AND seq > ? ORDER BY seq LIMIT ?"  # noqa: S608 - constants
_EVENT = f"SELECT {ROOM_EVENT} FROM room_events WHERE event_id = ?"  # noqa: S608 - constants
_PRUNE_EVENTS = (
    "DELETE FROM room_events WHERE state != 'new' AND seq <="
    " (SELECT seq FROM room_events WHERE state != 'new' ORDER BY seq DESC LIMIT 1 OFFSET ?)"
    " AND event_id NOT IN (SELECT event_id FROM offers WHERE state != 'closed')"
)
_PUT_THREAD = (
    "INSERT INTO chat_threads (run_id, room_id, event_id) VALUES (?, ?, ?)"
    " ON CONFLICT (run_id) DO UPDATE SET room_id = excluded.room_id, event_id = excluded.event_id"
)


class RoomRows:
    """The room's part of the store."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def cursor(self, room_id: str) -> RoomCursor | None:
        """Return how far a room was read, or None."""
        row = self._db.row(_CURSOR, (room_id,))
        return None if row is None else read("room", room_cursor_of, row)

    def append(self, events: Iterable[RoomEvent], *, cursor: RoomCursor | None = None) -> int:
        """Append events that are not there yet, and record how far the room was read; return how many were new."""
        if cursor is not None:
            self._db.write(_PUT_CURSOR, (cursor.room_id, cursor.user_id, cursor.next_batch, cursor.synced_at_us))
        return sum(self._db.write(_JOURNAL, _event_values(event)) for event in events)

    def new_events(self, *, limit: int, after: int = 0) -> Sequence[RoomEvent]:
        """Return events that were not acted upon and come after one, in the room's order."""
        return read_all("room event", room_event_of, self._db.rows(_NEW, (after, limit)))

    def event(self, event_id: str) -> RoomEvent | None:
        """Return an event of the journal, or None."""
        row = self._db.row(_EVENT, (event_id,))
        return None if row is None else read("room event", room_event_of, row)

    def settle(self, event_id: str, state: JournalState) -> None:
        """Record what became of an event."""
        self._db.write("UPDATE room_events SET state = ? WHERE event_id = ?", (str(state), event_id))

    def prune(self, *, keep: int) -> int:
        """Delete all but the newest *keep* settled events, and those that an offer needs; return how many went."""
        return self._db.write(_PRUNE_EVENTS, (keep,))

    def put_thread(self, run_id: str, *, room_id: str, event_id: str) -> None:
        """Remember the thread of the room into which a run reports."""
        self._db.write(_PUT_THREAD, (run_id, room_id, event_id))

    def thread(self, run_id: str) -> tuple[str, str] | None:
        """Return (room id, event id) of a run's thread."""
        row = self._db.row("SELECT room_id, event_id FROM chat_threads WHERE run_id = ?", (run_id,))
        return None if row is None else (row[0], row[1])


def _event_values(event: RoomEvent) -> tuple[object, ...]:
    return (
        event.event_id,
        event.room_id,
        event.sender,
        event.type,
        json_text(event.content),
        event.sent_at_us,
        str(event.state),
    )


_PUT_OFFER = (
    f"INSERT INTO offers ({OFFER}) VALUES ({places_of(OFFER)})"  # noqa: S608 - constants
    " ON CONFLICT (run_id) DO UPDATE SET sender = excluded.sender, event_id = excluded.event_id,"
    " epoch = excluded.epoch, priority = excluded.priority, content = excluded.content, state = excluded.state,"
    " created_at_us = excluded.created_at_us, expires_at_us = excluded.expires_at_us,"
    " claim_at_us = excluded.claim_at_us"
)
_OFFER = f"SELECT {OFFER} FROM offers WHERE run_id = ?"  # noqa: S608 - constants
_OFFERS = (
    f"SELECT {OFFER} FROM offers WHERE state = ?"  # noqa: S608 - constants
    " ORDER BY priority DESC, created_at_us, run_id LIMIT ?"
)
_OFFER_STATE = "UPDATE offers SET state = ?, claim_at_us = coalesce(?, claim_at_us) WHERE run_id = ?"
_HAS_OFFERS = (
    "SELECT CASE WHEN (SELECT max(rowid) FROM offers) - (SELECT min(rowid) FROM offers) + 1 >= ?2"
    " THEN (SELECT count(*) FROM (SELECT 1 FROM offers WHERE sender = ?1 LIMIT 1 OFFSET max(?2 - 1, 0)) AS one) ELSE 0 END"
)
_FORGET_CLOSED = (
    "DELETE FROM offers WHERE rowid = (SELECT rowid FROM offers WHERE sender = ? AND state = 'closed'"
    " ORDER BY expires_at_us LIMIT 1)"
)
_PUT_ASK = (
    f"INSERT INTO lease_asks ({LEASE_ASK}) VALUES (?, ?, ?, ?, ?)"  # noqa: S608 - constants
    " ON CONFLICT (run_id, nonce) DO UPDATE SET asked_at_us = excluded.asked_at_us,"
    " asked_uptime_us = excluded.asked_uptime_us, boot_id = excluded.boot_id"
)
_ASK = f"SELECT {LEASE_ASK} FROM lease_asks WHERE run_id = ? AND nonce = ?"  # noqa: S608 - constants
_FORGET_ASKS = (
    "DELETE FROM lease_asks WHERE run_id = ?1 AND nonce NOT IN"
    " (SELECT nonce FROM lease_asks WHERE run_id = ?1 AND nonce != ?2 ORDER BY asked_at_us DESC, nonce DESC LIMIT ?3)"
    " AND nonce != ?2"
)


class OfferRows:
    """The offers' part of the store."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def put(self, offer: OfferRecord) -> None:
        """Store, or replace, an offer."""
        self._db.write(
            _PUT_OFFER,
            (
                offer.run_id,
                offer.origin_id,
                offer.event_id,
                offer.epoch,
                int(offer.priority),
                json_text(offer.content),
                str(offer.state),
                offer.created_at_us,
                offer.expires_at_us,
                offer.claim_at_us,
            ),
        )

    def get(self, run_id: str) -> OfferRecord | None:
        """Return an offer, or None."""
        row = self._db.held_row(_OFFER, (run_id,))
        return None if row is None else read("offer", offer_of, row)

    def set_state(self, run_id: str, state: OfferState, *, claim_at_us: int | None = None) -> None:
        """Record what became of an offer; None keeps the time at which to claim it."""
        self._db.write(_OFFER_STATE, (str(state), claim_at_us, run_id))

    def in_state(self, state: OfferState, *, limit: int) -> Sequence[OfferRecord]:
        """Return offers, the most urgent first, then the oldest."""
        return read_all("offer", offer_of, self._db.rows(_OFFERS, (str(state), limit)))

    def make_room(self, sender: str, *, most: int) -> bool:
        """Whether one more offer of *sender* may be remembered; for that a closed one is forgotten."""
        row = self._db.row(_HAS_OFFERS, (sender, most))  # they are counted only when there are so many at all
        return row is None or not row[0] or self._db.write(_FORGET_CLOSED, (sender,)) > 0

    def put_ask(self, ask: LeaseAsk, *, keep: int) -> None:
        """Remember what was asked about a run, and of earlier asks about it the newest, so that *keep* are known."""
        self._db.write(_PUT_ASK, (ask.run_id, ask.nonce, ask.asked_at_us, ask.asked_uptime_us, ask.boot_id))
        self._db.write(_FORGET_ASKS, (ask.run_id, ask.nonce, keep - 1))

    def ask(self, run_id: str, nonce: str) -> LeaseAsk | None:
        """Return what was asked with a nonce, or None."""
        row = self._db.row(_ASK, (run_id, nonce))
        return None if row is None else read("ask", lease_ask_of, row)
