"""The parts of the store's port (``cis.store.port``) that are about other nodes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from cis.store.cluster import (
    JournalState,
    LeaseAsk,
    OfferRecord,
    OfferState,
    OutboxItem,
    PeerRecord,
    RemoteRole,
    RemoteRun,
    RoomCursor,
    RoomEvent,
    Route,
    Schedule,
)


class Peers(Protocol):
    """Nodes that are trusted."""

    def put(self, peer: PeerRecord) -> None:
        """Store a peer, in place of one of the same id. Keys and users are unique.

        Raises:
            ConflictError: another peer has this Matrix user or this public key.
        """
        ...

    def delete(self, node_id: str, *, farewell_until_us: int) -> bool:
        """Delete a peer; return whether there was one. Until a time it is kept where it was (``get``)."""
        ...

    def get(self, node_id: str, *, or_farewell: bool = False) -> PeerRecord | None:
        """Return a peer, or also one that was, which may nothing here, and is only told what became of its runs.

        Inside a transaction it holds until the commit: what a node may do is looked at in the one that does it.
        """
        ...

    def by_user(self, matrix_user: str) -> PeerRecord | None:
        """Return the peer that speaks as a Matrix user."""
        ...

    def all(self) -> Sequence[PeerRecord]:
        """Return all peers by id."""
        ...

    def note_contact(self, node_id: str, *, now_us: int, clock_ahead_us: int | None = None) -> None:
        """Record that a peer was heard, and forget its fault; None keeps the clock difference that is known."""
        ...

    def note_fault(self, node_id: str, fault: str) -> None:
        """Record why a peer could not be reached."""
        ...


class Outbox(Protocol):
    """What is to be sent."""

    def add(self, item: OutboxItem) -> None:
        """Put a message into the outbox, in the same transaction as what it tells of."""
        ...

    def due(self, route: Route, *, now_us: int, limit: int, node_id: str | None = None) -> Sequence[OutboxItem]:
        """Return what is due, the most urgent first, then the oldest (by ``message_id``)."""
        ...

    def schedule(self, *, now_us: int) -> Schedule:
        """Return for which nodes something is due by push, and when the next item of all is due."""
        ...

    def of_run(self, run_id: str) -> Sequence[OutboxItem]:
        """Return what is to be sent about a run, the oldest first.

        Holds until the commit: what was not begun to be sent then is not (``begin_sending`` waits for the rows).
        """
        ...

    def begin_sending(self, message_ids: Iterable[str], *, due_at_us: int) -> Collection[str]:
        """Count an attempt of each, which from now on may arrive, and make it due again only at *due_at_us*.

        Return those that are still there: one that is gone was taken back, and must not be sent.
        """
        ...

    def put_off(self, message_id: str, *, due_at_us: int, fault: str, uncertain: bool) -> None:
        """Record why an item was not accepted, and when to try again; with *uncertain* False none has arrived."""
        ...

    def remove(self, message_id: str) -> bool:
        """Delete an item; return whether it was there."""
        ...

    def remove_of_run(self, run_id: str, kind: str) -> int:
        """Delete all items of a kind for a run; return how many there were."""
        ...

    def count(self, *, at_most: int) -> int:
        """Return how many items wait, counting up to *at_most*. It is for backpressure: a few more do no harm."""
        ...

    def depths(self) -> Mapping[str, int]:
        """Return how many items wait for each node id (empty: for everyone)."""
        ...


class Remotes(Protocol):
    """Runs in which another node has a part, and what is known of their execution."""

    def put(self, remote: RemoteRun) -> None:
        """Store, or replace, the other node's part in a run, which must be there already."""
        ...

    def get(self, run_id: str) -> RemoteRun | None:
        """Return the other node's part in a run.

        Holds until the commit, inside a transaction: a grant, a lease and a control are decided by what was read (the
        run's row is locked, or that of the part).
        """
        ...

    def open(self, role: RemoteRole) -> Sequence[RemoteRun]:
        """Return those that are open, by run id (an index serves this)."""
        ...

    def withdraw(self, run_id: str, *, sender: str, expires_at_us: int) -> None:
        """Refuse a run of *sender* from now on, if it is not here: it was cancelled early, or came once already."""
        ...

    def withdrawn(self, run_id: str, *, sender: str) -> bool:
        """Return whether such a run is to be refused.

        Check, then insert: ``withdraw`` and ``runs.add`` of one id exclude each other.
        """
        ...

    def withdrawal_count(self, sender: str, *, at_most: int) -> int:
        """Return how many runs of *sender* are to be refused, counting up to *at_most*. A few more do no harm."""
        ...


class Room(Protocol):
    """The journal of the room."""

    def cursor(self, room_id: str) -> RoomCursor | None:
        """Return how far a room was read."""
        ...

    def append(self, events: Iterable[RoomEvent], *, cursor: RoomCursor | None = None) -> int:
        """Append events that are not there yet, and record how far the room was read; return how many were new."""
        ...

    def new_events(self, *, limit: int, after: int = 0) -> Sequence[RoomEvent]:
        """Return events that were not acted upon and come after one, by ``seq``, in the room's order."""
        ...

    def event(self, event_id: str) -> RoomEvent | None:
        """Return an event of the journal."""
        ...

    def settle(self, event_id: str, state: JournalState) -> None:
        """Record what became of an event, in the transaction that did it. One process of a node acts on events."""
        ...

    def prune(self, *, keep: int) -> int:
        """Delete all but the newest *keep* settled events, and those that an offer needs; return how many went."""
        ...

    def put_thread(self, run_id: str, *, room_id: str, event_id: str) -> None:
        """Remember the thread of the room into which a run reports."""
        ...

    def thread(self, run_id: str) -> tuple[str, str] | None:
        """Return (room id, event id) of a run's thread."""
        ...


class Offers(Protocol):
    """Offers of the room, and what was asked about leases."""

    def put(self, offer: OfferRecord) -> None:
        """Store, or replace, an offer."""
        ...

    def get(self, run_id: str) -> OfferRecord | None:
        """Return an offer. Holds until the commit, inside a transaction (the offer's row is locked)."""
        ...

    def set_state(self, run_id: str, state: OfferState, *, claim_at_us: int | None = None) -> None:
        """Record what became of an offer, if it is there; None keeps the time at which it was claimed."""
        ...

    def in_state(self, state: OfferState, *, limit: int) -> Sequence[OfferRecord]:
        """Return offers, the most urgent first, then the oldest."""
        ...

    def make_room(self, sender: str, *, most: int) -> bool:
        """Whether one more offer of *sender* may be remembered, of which there are at most *most*.

        For that its closed offer that expires first is forgotten. One more that comes beside it does no harm.
        """
        ...

    def put_ask(self, ask: LeaseAsk, *, keep: int) -> None:
        """Remember what was asked about a run, and of earlier asks about it the newest, so that *keep* are known."""
        ...

    def ask(self, run_id: str, nonce: str) -> LeaseAsk | None:
        """Return what was asked with a nonce."""
        ...
