"""The part of the store's port that is about other nodes; the rules are those of ``cis.store.port``."""

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
)
from cis.store.records import AttemptRecord, TaskRecord


class PeerStore(Protocol):
    """Nodes that are trusted."""

    def put_peer(self, peer: PeerRecord) -> None:
        """Store a peer, in place of one of the same id.

        Raises:
            ConflictError: another peer has this Matrix user or this public key.
        """
        ...

    def delete_peer(self, node_id: str) -> bool: ...

    def peer(self, node_id: str) -> PeerRecord | None: ...

    def put_farewell(self, peer: PeerRecord, *, until_us: int) -> None:
        """Keep where a node is that is trusted no more, so that it can be told what became of its runs."""
        ...

    def peer_or_farewell(self, node_id: str) -> PeerRecord | None:
        """Return a peer, or one that was; that one may nothing here, and is only told something."""
        ...

    def prune_farewells(self, *, before_us: int) -> int: ...

    def peer_of_user(self, matrix_user: str) -> PeerRecord | None: ...

    def peers(self) -> Sequence[PeerRecord]:
        """Return all peers by id."""
        ...

    def note_contact(self, node_id: str, *, now_us: int, clock_ahead_us: int | None = None) -> None:
        """Record that a peer was heard, and forget its fault; None keeps the clock difference that is known."""
        ...

    def note_fault(self, node_id: str, fault: str) -> None: ...


class OutboxStore(Protocol):
    """What is to be sent."""

    def post(self, item: OutboxItem) -> None: ...

    def due_items(self, route: Route, *, now_us: int, limit: int, node_id: str | None = None) -> Sequence[OutboxItem]:
        """Return what is due, the most urgent first, then the oldest (by ``message_id``)."""
        ...

    def due_nodes(self, *, now_us: int) -> Sequence[str]:
        """Return the ids of the nodes for which something is due by push."""
        ...

    def next_due_us(self) -> int | None:
        """Return when the next item is due; None when the outbox is empty."""
        ...

    def outbox_of_run(self, run_id: str) -> Sequence[OutboxItem]: ...

    def begin_sending(self, message_ids: Iterable[str], *, due_at_us: int) -> Collection[str]:
        """Count an attempt of each, which from now on may arrive, and make it due again only at *due_at_us*.

        Return those that are still there: one that is gone was taken back, and must not be sent.
        """
        ...

    def put_off(self, message_id: str, *, due_at_us: int, fault: str, uncertain: bool) -> None:
        """Record why an item was not accepted, and when to try again; with *uncertain* False none has arrived."""
        ...

    def unpost(self, message_id: str) -> bool:
        """Delete an item; return whether it was there."""
        ...

    def unpost_run(self, run_id: str, kind: str) -> int:
        """Delete all items of a kind for a run; return how many there were."""
        ...

    def outbox_load(self, *, at_most: int) -> int:
        """Return how many items wait, counting up to *at_most*, for backpressure."""
        ...

    def outbox_depths(self) -> Mapping[str, int]:
        """Return how many items wait for each node id (empty: for everyone)."""
        ...


class RemoteStore(Protocol):
    """Runs in which another node has a part, and what is known of their execution."""

    def put_remote(self, remote: RemoteRun) -> None:
        """Store, or replace, the other node's part in a run, which must be there already."""
        ...

    def remote_run(self, run_id: str) -> RemoteRun | None: ...

    def open_remotes(self, role: RemoteRole) -> Sequence[RemoteRun]:
        """Return those that are open, by run id (an index serves this)."""
        ...

    def mirror_tasks(self, tasks: Iterable[TaskRecord]) -> Sequence[TaskRecord]:
        """Take over tasks as their executor stored them, each whose version is above the stored one; return those."""
        ...

    def mirror_attempts(self, attempts: Iterable[AttemptRecord]) -> Sequence[AttemptRecord]:
        """Take over new attempts, and what changed of running ones; return those that changed anything."""
        ...

    def withdraw(self, run_id: str, *, sender: str, expires_at_us: int) -> None:
        """Refuse a run of *sender* from now on, if it is not here: it was cancelled early, or came once already."""
        ...

    def withdrawn(self, run_id: str, *, sender: str) -> bool:
        """Return whether such a run is to be refused."""
        ...

    def withdrawal_count(self, sender: str, *, at_most: int) -> int:
        """Return how many runs of *sender* are to be refused, counting up to *at_most*."""
        ...

    def prune_withdrawals(self, *, expired_before_us: int) -> int:
        """Forget those whose run would be refused as expired anyway; return how many went."""
        ...

    def suspend(self, run_id: str) -> None:
        """Keep a run, claimed or not, in the queue where no worker takes it (``release`` puts it back to queued)."""
        ...

    def local_load(self, node_id: str, *, at_most: int) -> int:
        """Return how many runs are in this node's queue, claimed or not, counting up to *at_most*."""
        ...


class RoomStore(Protocol):
    """The journal of the room, and the offers in it."""

    def room_cursor(self, room_id: str) -> RoomCursor | None: ...

    def put_room_cursor(self, cursor: RoomCursor) -> None: ...

    def journal(self, events: Iterable[RoomEvent]) -> int:
        """Append events that are not there yet; return how many were new."""
        ...

    def new_room_events(self, *, limit: int, after: int = 0) -> Sequence[RoomEvent]:
        """Return events that were not acted upon and come after one, by ``seq``, in the room's order."""
        ...

    def room_event(self, event_id: str) -> RoomEvent | None: ...

    def settle_room_event(self, event_id: str, state: JournalState) -> None: ...

    def prune_room_events(self, *, keep: int) -> int:
        """Delete all but the newest *keep* settled events, and those that an offer needs; return how many went."""
        ...

    def put_offer(self, offer: OfferRecord) -> None:
        """Store, or replace, an offer."""
        ...

    def offer(self, run_id: str) -> OfferRecord | None: ...

    def set_offer_state(self, run_id: str, state: OfferState, *, claim_at_us: int | None = None) -> None: ...

    def offers_in_state(self, state: OfferState, *, limit: int) -> Sequence[OfferRecord]:
        """Return offers, the most urgent first, then the oldest."""
        ...

    def has_offers(self, sender: str, *, at_least: int) -> bool:
        """Whether so many offers of *sender* are remembered; they are counted only when there are so many at all."""
        ...

    def forget_closed_offer(self, sender: str) -> bool:
        """Forget the closed offer of *sender* that expires first; return whether there was one."""
        ...

    def prune_offers(self, *, expired_before_us: int) -> int: ...

    def put_ask(self, ask: LeaseAsk, *, keep: int) -> None:
        """Remember what was asked about a run, and of earlier asks about it the newest, so that *keep* are known."""
        ...

    def ask(self, run_id: str, nonce: str) -> LeaseAsk | None: ...

    def prune_asks(self, *, asked_before_us: int) -> int: ...

    def put_thread(self, run_id: str, *, room_id: str, event_id: str) -> None:
        """Remember the thread of the room into which a run reports."""
        ...

    def thread(self, run_id: str) -> tuple[str, str] | None:
        """Return (room id, event id) of a run's thread."""
        ...
