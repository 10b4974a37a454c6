"""Where messages come in, whatever brought them: signature, DAG, then one transaction (``cis.federation.inbox``)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from cis.errors import CisError, MalformedMessageError, OverloadedError, StoreError, UntrustedError
from cis.federation.inbox import Inbox, refuse
from cis.federation.messages import FetchBlob, ReceivedMessage
from cis.model.dag import Json
from cis.model.ids import id_fault
from cis.model.message import Message, MessageKind, Reply
from cis.store.access_records import AuditRecord
from cis.store.cluster import PeerRecord
from cis.store.port import Store
from cis.store.shares import UNVERIFIED, RefusalShares
from cis.transports.envelope import Opened, SigningNode, open_envelope

log = logging.getLogger(__name__)

_CONTACT_EVERY_S = 5.0


class Receiver:
    """Opens messages and has *inbox* act on them. *spoke* is told of each peer that spoke."""

    def __init__(self, node: SigningNode, inbox: Inbox, *, spoke: Callable[[str], None]) -> None:
        self.inbox = inbox
        self._node = node
        self._spoke = spoke
        self._refusals = RefusalShares()
        self._contacts: dict[tuple[str, bool], float] = {}
        self._notes: set[asyncio.Future[None]] = set()

    async def open(self, content: Json, *, source: str, room_id: str | None = None) -> tuple[Message, PeerRecord]:
        """Return a message and the peer that signed it; one that a stranger sent is written into the audit log.

        Raises:
            MalformedMessageError, UntrustedError: as ``open_envelope`` does.
        """
        peers: dict[str, PeerRecord] = {}
        sender = content.get("sender") if isinstance(content, dict) else None
        if isinstance(sender, str) and not id_fault(sender):
            own = room_id is not None and sender == self._node.this_node.node_id
            peer = self.myself(source) if own else await self._node.read(lambda store: store.peers.get(sender))
            if peer is not None:
                peers[sender] = peer

        def trusted_key(node_id: str) -> str | None:
            return peers[node_id].public_key if node_id in peers else None

        try:
            opened = open_envelope(content, trusted_key=trusted_key, room_id=room_id)
        except (MalformedMessageError, UntrustedError) as error:
            await self.note_stranger(sender, error, source=source)
            raise
        peer = peers[opened.message.sender]
        if peer.node_id == self._node.this_node.node_id:
            return opened.message, peer
        if opened.public_key != peer.public_key:
            peer = await self._follow(peer, opened, source=source)
        self.note_contact(peer)
        return opened.message, peer

    def myself(self, matrix_user: str) -> PeerRecord:
        """Return this node as its own peer, for what it has said in the room: it may nothing that needs a right."""
        this_node = self._node.this_node
        return PeerRecord(
            node_id=this_node.node_id,
            public_key=self._node.keys.signer().public_key,
            may=(),
            trusted_at_us=0,
            matrix_user=matrix_user,
        )

    async def receive(self, message: Message, peer: PeerRecord, *, source: str, fetch: FetchBlob) -> Reply:
        """Act on an opened message, fetching what travels beside it, and return the answer.

        Raises:
            StoreError, OverloadedError: not now; the message is to come again.
        """
        if message.kind is MessageKind.PING and peer.clock_ahead_us is None:
            await self.note_clock(peer, clock_ahead_us=message.created_at_us - self._node.this_node.clock_us())
        received = ReceivedMessage(message=message, peer=peer, source=source)
        try:
            received = await self.inbox.complete(received, fetch)
        except (StoreError, OverloadedError):
            raise
        except CisError as error:
            failed = error
            outcome = await self._node.write(
                lambda store: refuse(store.audit, received, failed, now_us=self._node.this_node.clock_us())
            )
            return outcome.reply
        return (await self.inbox.receive(received)).reply

    async def note_stranger(self, sender: Json, error: CisError, *, source: str) -> None:
        """Write into the audit log that somebody's message was refused; a flood of them is only counted."""
        name = "unknown" if sender is None else str(sender)[:128]
        if id_fault(name):
            name = ascii(name)  # a stranger may write anything there, and terminals show it
        entry = self._refusals.admit(
            AuditRecord(
                at_us=self._node.this_node.clock_us(),
                actor=f"{UNVERIFIED}:{name}",
                action="refused.message",
                subject=error.code,
                source=source,
            )
        )
        if entry is not None:
            log.warning("a message was refused", extra={"claimed_sender": name, "source": source, "reason": str(error)})
            await self._node.write(lambda store: store.audit.append(entry))

    async def _follow(self, peer: PeerRecord, opened: Opened, *, source: str) -> PeerRecord:
        entry = AuditRecord(
            at_us=self._node.this_node.clock_us(),
            actor=f"node:{peer.node_id}",
            action="node.new_key",
            subject=f"{peer.node_id} {opened.public_key}",
            source=source,
        )

        def job(store: Store) -> PeerRecord:
            now = store.peers.get(peer.node_id)
            if now is None or now.public_key not in (peer.public_key, opened.public_key):
                raise UntrustedError(f"node {peer.node_id!r} was trusted with this key until just now")
            if now.public_key == opened.public_key:
                return now
            fresh = replace(now, public_key=opened.public_key)
            store.peers.put(fresh)
            store.audit.append(entry)
            return fresh

        fresh = await self._node.write(job)
        log.warning("a node has a new key, which its old one signed", extra={"node": peer.node_id})
        return fresh

    async def note_clock(self, peer: PeerRecord, *, clock_ahead_us: int) -> None:
        """Note the time that a node has just told. Nothing of its is judged by a clock of which nothing is known."""
        if peer.clock_ahead_us is not None or peer.node_id == self._node.this_node.node_id:
            self.note_contact(peer, clock_ahead_us=clock_ahead_us)
            return
        now_us = self._node.this_node.clock_us()
        await self._node.write(
            lambda store: store.peers.note_contact(peer.node_id, now_us=now_us, clock_ahead_us=clock_ahead_us)
        )

    def note_contact(self, peer: PeerRecord, *, clock_ahead_us: int | None = None) -> None:
        """Remember, every few seconds at most, that a peer spoke, and what its clock said if that is known."""
        if peer.node_id == self._node.this_node.node_id:
            return
        now_s = time.monotonic()
        last = (peer.node_id, clock_ahead_us is not None)
        if peer.fault is None and now_s - self._contacts.get(last, -_CONTACT_EVERY_S) < _CONTACT_EVERY_S:
            return
        self._contacts[last] = now_s
        now_us = self._node.this_node.clock_us()
        # Nobody who brings a message waits for this note.
        note = asyncio.ensure_future(
            self._node.write(
                lambda store: store.peers.note_contact(peer.node_id, now_us=now_us, clock_ahead_us=clock_ahead_us)
            )
        )
        self._notes.add(note)
        note.add_done_callback(self._noted)
        self._spoke(peer.node_id)

    def _noted(self, note: asyncio.Future[None]) -> None:
        self._notes.discard(note)
        if not note.cancelled() and note.exception() is not None:
            log.warning("a contact could not be noted", extra={"error": str(note.exception())})
