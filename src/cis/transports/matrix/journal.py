"""From the room's events to what they do here: first into the journal, then, in the room's order, acted upon.

The journal and the place up to which the room was read are written in one transaction, so no event is lost or read
twice, whatever crashes. Acting on an event and marking it as dealt with is one transaction as well.

Before a message is opened: its event must come from the Matrix user of a trusted node (never mind what name the content
gives), must be no edit, and must still have its content. Then its signature is checked, which covers the room; then,
each time anew, what that node may do (``cis.federation.inbox``).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from http import HTTPStatus

from cis.errors import (
    CisError,
    MalformedMessageError,
    OverloadedError,
    PoisonRecordError,
    RoomError,
    RoomRefusedError,
    StoreError,
    UntrustedError,
)
from cis.federation.executing.accept import refuse_in_room
from cis.federation.inbox import check_allowed, receive, refuse
from cis.federation.messages import Outcome, ReceivedMessage
from cis.federation.restored import is_past
from cis.model.message import BlobRef, Message, MessageKind, Result
from cis.store.access_records import AuditRecord
from cis.store.cluster import JournalState, PeerRecord, RoomEvent
from cis.store.port import Store
from cis.transports.envelope import SigningNode
from cis.transports.matrix.client import MatrixClient
from cis.transports.matrix.sync import RawEvent
from cis.transports.receiver import Receiver

log = logging.getLogger(__name__)

MESSAGE_TYPES = (*(str(kind) for kind in MessageKind if kind.startswith("io.cis.dag.")), str(MessageKind.PING))
_SENT_WHEN_MADE = (MessageKind.CLAIM, MessageKind.PING)
_MAY_COME_YET = (HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS)
MAX_AHEAD_US = 86_400_000_000
CHAT_TYPE = "m.room.message"
CHAT_PREFIX = "!dag"
AT_ONCE = 200
KEEP_EVENTS = 10_000

Chat = Callable[[RoomEvent], Awaitable[None]]


def journalled(events: Sequence[RawEvent], *, room_id: str, me: str, now_us: int) -> list[RoomEvent]:
    """Return those events that are to be acted upon, as the journal keeps them."""
    return [
        RoomEvent(
            event_id=event.event_id,
            room_id=room_id,
            sender=event.sender,
            type=event.type,
            content=event.content,
            sent_at_us=now_us - max(0, event.age_ms) * 1000,
        )
        for event in events
        if event.state_key is None and (_is_message(event, me=me) or (event.sender != me and _is_command(event)))
    ]


def _is_message(event: RawEvent, *, me: str) -> bool:
    """Whether an event is another node's message, or this node's own claim: only the room says which claim is first."""
    return event.type in MESSAGE_TYPES and (event.sender != me or event.type == MessageKind.CLAIM)


def _is_command(event: RawEvent) -> bool:
    body = event.content.get("body")
    return event.type == CHAT_TYPE and isinstance(body, str) and body.strip().startswith(CHAT_PREFIX)


class Journal:
    """Acts on the events of one room."""

    def __init__(
        self, node: SigningNode, receiver: Receiver, client: MatrixClient, *, room_id: str, me: str, chat: Chat
    ) -> None:
        self._node = node
        self._receiver = receiver
        self._client = client
        self._room_id = room_id
        self._me = me
        self._chat = chat

    async def work(self) -> frozenset[str]:
        """Act on all that is new; return the types of what has to wait. What waits holds up nothing behind it."""
        waiting: set[str] = set()
        after = 0
        while True:
            events = await self._node.read(partial(_new_events, after))
            for event in events:
                try:
                    done = await self._act(event)
                except (OverloadedError, RoomError, PoisonRecordError) as error:
                    log.warning("an event has to wait", extra={"event": event.event_id, "error": str(error)})
                    done = False
                except StoreError:
                    raise  # no fault of the event: it is acted upon when the store can be used
                except Exception:  # a fault of this program: one event must not keep all others from being read
                    log.exception("an event was set aside", extra={"event": event.event_id})
                    await self._settle(event, JournalState.REFUSED)
                    done = True
                if not done:
                    waiting.add(event.type)
            if len(events) < AT_ONCE:
                return frozenset(waiting)
            after = events[-1].seq

    async def _act(self, event: RoomEvent) -> bool:
        if event.type == CHAT_TYPE:
            if await self._node.read(lambda store: is_past(store.restores, event.sent_at_us)):
                log.warning("what was typed before the restore is passed over", extra={"event": event.event_id})
            else:
                await self._chat(event)
            await self._settle(event, JournalState.DONE)
            return True
        source = f"room:{event.sender}"
        peer = await self._node.read(lambda store: store.peers.by_user(event.sender))
        if peer is None and event.sender == self._me:
            peer = self._receiver.myself(event.sender)
        fault = _fault(event, peer)
        if peer is None or fault is not None:
            await self._refuse_stranger(event, fault or "no trusted node")
            return True
        try:
            message, peer = await self._receiver.open(dict(event.content), source=source, room_id=self._room_id)
            if str(message.kind) != event.type:
                raise UntrustedError(f"a message of {message.sender!r} came as an event of another type")
        except (StoreError, OverloadedError):
            raise
        except CisError:
            await self._settle(event, JournalState.REFUSED)
            return True
        await self._look_at_clock(message, peer, event)
        if message.target not in (None, self._node.this_node.node_id):
            await self._settle(event, JournalState.DONE)
            return True
        received = ReceivedMessage(message=message, peer=peer, source=source, event_id=event.event_id)
        return await self._receive(event, received)

    async def _look_at_clock(self, message: Message, peer: PeerRecord, event: RoomEvent) -> None:
        """Note how far a node's clock is ahead, by a message that was made as it was sent.

        A homeserver that holds such messages back can make a clock look late, by a day at most: it could have what
        expired in that time executed, once, and nothing else.
        """
        ahead_us = message.created_at_us - event.sent_at_us
        if message.kind in _SENT_WHEN_MADE and abs(ahead_us) <= MAX_AHEAD_US:
            await self._receiver.note_clock(peer, clock_ahead_us=ahead_us)

    async def _receive(self, event: RoomEvent, received: ReceivedMessage) -> bool:
        try:
            # First what is cheap: nobody makes this node fetch anything who may not say this at all.
            await self._node.read(lambda store: check_allowed(store, received, this_node=self._node.this_node))
            received = await self._complete(received)
        except (StoreError, OverloadedError, RoomError) as error:
            if not isinstance(error, RoomRefusedError) or error.status in _MAY_COME_YET:
                raise
            failed: CisError = MalformedMessageError(f"what travels beside the message is not to be had: {error}")
        except CisError as error:
            failed = error
        else:
            return await self._receive_whole(event, received)

        def job(store: Store) -> Outcome:
            outcome = refuse(store.audit, received, failed, now_us=self._node.this_node.clock_us())
            return self._settled(store, event, received, outcome)

        self._receiver.inbox.after(received, await self._node.write(job))
        return True

    async def _receive_whole(self, event: RoomEvent, received: ReceivedMessage) -> bool:
        def job(store: Store) -> Outcome:
            outcome = receive(store, received, this_node=self._node.this_node, logfiles=self._node.logs)
            return self._settled(store, event, received, outcome)

        outcome = await self._node.write(job)
        self._receiver.inbox.after(received, outcome)
        return outcome.reply.result is not Result.LATER or received.message.kind is not MessageKind.EXECUTE

    async def _complete(self, received: ReceivedMessage) -> ReceivedMessage:
        """Fetch what travels beside a message; for a grant to this node, the DAG of the offer that it is about."""
        message, me = received.message, self._node.this_node.node_id
        if message.kind is not MessageKind.GRANT or message.fields.get("node_id") != me:
            return await self._receiver.inbox.complete(received, self._fetch)
        offer, known = await self._node.read(
            lambda store: (store.offers.get(message.run_id), store.remotes.get(message.run_id))
        )
        event = None
        if offer is not None and known is None:
            event = await self._node.read(lambda store: store.room.event(offer.event_id))
        if event is None:
            return received
        offered, _ = await self._receiver.open(dict(event.content), source=received.source, room_id=self._room_id)
        requested = await self._receiver.inbox.requested_run(offered, self._fetch)
        granted = replace(message, created_at_us=offered.created_at_us)
        return replace(received, message=granted, requested=requested, event_id=event.event_id)

    async def _fetch(self, ref: BlobRef) -> bytes:
        if ref.mxc is None:
            raise UntrustedError("a message names what travels beside it, but not where the room keeps it")
        return await self._client.download(ref.mxc, max_bytes=ref.size)

    def _settled(self, store: Store, event: RoomEvent, received: ReceivedMessage, outcome: Outcome) -> Outcome:
        """Mark an event as dealt with, in the transaction that dealt with it; tell an origin of a refusal."""
        reply, message = outcome.reply, received.message
        if reply.result is Result.LATER and message.kind is MessageKind.EXECUTE:
            return outcome
        refused = reply.result is Result.REFUSED
        store.room.settle(event.event_id, JournalState.REFUSED if refused else JournalState.DONE)
        if refused:
            refuse_in_room(store, received, outcome, this_node=self._node.this_node)
        return outcome

    async def _settle(self, event: RoomEvent, state: JournalState) -> None:
        await self._node.write(lambda store: store.room.settle(event.event_id, state))

    async def _refuse_stranger(self, event: RoomEvent, why: str) -> None:
        kind = event.type.rpartition(".")[2]
        log.warning("an event was refused", extra={"sender": event.sender, "type": event.type, "reason": why})
        entry = AuditRecord(
            at_us=self._node.this_node.clock_us(),
            actor=f"matrix:{event.sender}",
            action=f"refused.{kind}",
            subject=f"{event.event_id} ({why})",
            source=f"room:{event.room_id}",
        )

        def job(store: Store) -> None:
            store.room.settle(event.event_id, JournalState.REFUSED)
            store.audit.append(entry)

        await self._node.write(job)


def _new_events(after: int, store: Store) -> Sequence[RoomEvent]:
    return store.room.new_events(limit=AT_ONCE, after=after)


def _fault(event: RoomEvent, peer: PeerRecord | None) -> str | None:
    """Return why an event is not even opened."""
    if peer is None:
        return "the sender is not the user of a trusted node"
    relation = event.content.get("m.relates_to")
    if isinstance(relation, dict) and relation.get("rel_type") == "m.replace":
        return "it is an edit"
    if not event.content:
        return "it was redacted"
    if event.content.get("sender") != peer.node_id:
        return f"its content names another sender than node {peer.node_id}"
    return None
