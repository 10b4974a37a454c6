"""Empties the outbox by push: each peer has its own queue, and one that is down holds up nobody else.

For each peer at most ``AT_ONCE`` messages are on their way, the most urgent first. An item is marked as sent before it
is (``uncertain``), so that a crash in between is known for what it is; a node that starts sends such items again at
once. A peer that cannot be reached is tried with one message, after growing pauses; when it speaks to this node by
itself, it is tried at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from cis.engine.accept import dispatch
from cis.errors import CisError, MalformedMessageError, NotFoundError, PoisonRecordError
from cis.federation import restored
from cis.federation.messages import make_ping, refusal_text
from cis.federation.origin import outbox
from cis.federation.origin.outbox import message_of
from cis.federation.service import Answered, NodePort, NotDelivered, Sending, Wakeup, pause_s
from cis.model.dag import Json
from cis.model.message import MessageKind, Result
from cis.store.access_records import AuditRecord
from cis.store.cluster import OutboxItem, PeerRecord, Route
from cis.store.port import Store

log = logging.getLogger(__name__)

AT_ONCE = 8
LOOK_EVERY_S = 5.0
LOOK_AROUND_S = 1.0  # while something due waits for a peer that is down; another one's may be due meanwhile
LATE_AT_ONCE = 10_000
HOLD_BACK_US = 50_000


@dataclass(slots=True)
class _Line:
    """What is known of the way to one peer."""

    failures: int = 0
    resume_at_s: float = 0.0
    redirected: str | None = None  # the address that did so last
    busy: asyncio.Task[None] | None = None
    meeting: asyncio.Lock = field(default_factory=asyncio.Lock)
    met: bool = False  # it was told what time this node has
    in_flight: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """What is due for a peer: what came too late, what is to be sent now, and what waits for what goes before it."""

    peer: PeerRecord | None
    late: Sequence[OutboxItem]
    fresh: Sequence[OutboxItem]
    held: Sequence[tuple[OutboxItem, OutboxItem]]


class Courier:
    """Delivers by push. *room_takes* says whether the room can carry what a push does not deliver for long."""

    def __init__(
        self,
        node: NodePort,
        client: Sending,
        *,
        jitter: Callable[[], float],
        room_takes: Callable[[PeerRecord], bool],
        fall_back_after_s: float,
    ) -> None:
        self._node = node
        self._client = client
        self._jitter = jitter
        self._room_takes = room_takes
        self._fall_back_after_s = fall_back_after_s
        self._lines: dict[str, _Line] = {}
        self._woken = Wakeup()

    def wake(self) -> None:
        """Look at the outbox now."""
        self._woken.set()

    def nudge(self, node_id: str) -> None:
        """Try a peer at once: it has just spoken."""
        line = self._lines.get(node_id)
        if line is not None and line.failures:
            line.failures, line.resume_at_s = 0, 0.0
            self._woken.set()

    async def run(self) -> None:
        """Serve until cancelled."""
        revived = False
        try:
            while True:
                self._woken.clear()
                try:
                    if not revived:
                        await self._revive()
                        revived = True
                    due_s = await self._look()
                except CisError as error:
                    log.error("the outbox cannot be read; trying again", extra={"error": str(error)})
                    due_s = 1.0
                await self._woken.within(due_s)
        finally:
            for line in self._lines.values():
                if line.busy is not None:
                    line.busy.cancel()

    async def send_now(self, item: OutboxItem) -> Result | None:
        """Send an item that its writer has marked as being sent already; return what came of it."""
        line = self._lines.setdefault(item.node_id, _Line())
        if item.message_id in line.in_flight:
            return None
        peer = await self._node.read(lambda store: store.peers.get(item.node_id))
        if peer is None:
            return None
        try:
            return await self._send(replace(item, uncertain=False), peer, line)  # this is its first try
        finally:
            self._woken.set()

    async def _revive(self) -> None:
        """Make due again what was being sent when this node ended the last time."""
        now_us = self._node.this_node.clock_us()
        later_us = now_us + round(dispatch.SENDING_S * 1e6)
        items = await self._node.read(lambda store: store.outbox.due(Route.PUSH, now_us=later_us, limit=LATE_AT_ONCE))
        flying = {message_id for line in self._lines.values() for message_id in line.in_flight}
        items = [item for item in items if item.uncertain and item.due_at_us > now_us and item.message_id not in flying]

        def job(store: Store) -> None:
            for item in items:
                store.outbox.put_off(item.message_id, due_at_us=now_us, fault=item.fault or "", uncertain=True)

        if items:
            await self._node.write(job)

    async def _look(self) -> float:
        """Have each peer served for which something is due; return when to look again."""
        now_us, now_s = self._node.this_node.clock_us(), asyncio.get_running_loop().time()
        nodes, next_us = await self._node.read(lambda store: store.outbox.schedule(now_us=now_us))
        due_s = LOOK_AROUND_S if nodes else LOOK_EVERY_S
        if not nodes and next_us is not None:
            due_s = min(due_s, max(0.02, (next_us - now_us) / 1e6))
        for node_id in nodes:
            line = self._lines.setdefault(node_id, _Line())
            if line.busy is not None:
                continue  # it says when it is done
            if line.resume_at_s > now_s:
                due_s = min(due_s, max(0.02, line.resume_at_s - now_s))
            else:
                line.busy = asyncio.create_task(self._serve(node_id, line))
        return due_s

    async def _serve(self, node_id: str, line: _Line) -> None:
        try:
            while await self._serve_some(node_id, line):
                pass
        except CisError as error:
            log.error("the outbox of a peer cannot be served", extra={"node": node_id, "error": str(error)})
            line.resume_at_s = asyncio.get_running_loop().time() + 1.0
        finally:
            line.busy = None
            self._woken.set()

    async def _serve_some(self, node_id: str, line: _Line) -> bool:
        """Send the most urgent of what is due; return whether to go on at once."""
        now_us = self._node.this_node.clock_us()
        batch = await self._node.read(lambda store: _batch(store, node_id, line, now_us=now_us))
        if batch.late:
            ended = await self._node.write(lambda store: dispatch.expire(store, batch.late, now_us=now_us))
            self._node.wake(run.worker_id for run in ended)
        peer = batch.peer
        if peer is None or peer.url is None:
            for item in batch.fresh:
                await self._give_up(item, f"node {node_id} is not trusted any more, or has no address here")
        else:
            there = await self._mark(batch, now_us=now_us)
            await asyncio.gather(*(self._send(item, peer, line) for item in batch.fresh if item.message_id in there))
        if not (batch.late or batch.fresh or batch.held):
            line.resume_at_s = asyncio.get_running_loop().time() + LOOK_AROUND_S  # all of it is under way
            return False
        return not line.failures or not batch.fresh

    async def _mark(self, batch: _Batch, *, now_us: int) -> Collection[str]:
        """Mark what is fresh as being sent; return what of it was not taken back meanwhile."""
        ids, due_at_us = [item.message_id for item in batch.fresh], now_us + round(dispatch.SENDING_S * 1e6)

        def job(store: Store) -> Collection[str]:
            for item, before in batch.held:
                held_until_us = max(now_us, before.due_at_us) + HOLD_BACK_US
                store.outbox.put_off(
                    item.message_id, due_at_us=held_until_us, fault=item.fault or "", uncertain=item.uncertain
                )
            return store.outbox.begin_sending(ids, due_at_us=due_at_us)

        return await self._node.write(job) if ids or batch.held else ()

    async def _send(self, item: OutboxItem, peer: PeerRecord, line: _Line) -> Result | None:
        node = self._node
        line.in_flight.add(item.message_id)
        try:
            try:
                message = await node.read(
                    lambda store: message_of(store, item, sender=node.this_node.node_id, lease_s=node.this_node.lease_s)
                )
            except (NotFoundError, PoisonRecordError) as error:
                await self._give_up(item, str(error))
                return Result.REFUSED
            answer: Answered | NotDelivered | None = await self._meet(peer, line)
            if answer is None:
                answer = await self._client.send(message, peer)
            if isinstance(answer, NotDelivered):
                await self._failed(item, peer, line, answer)
                return None
            line.failures, line.redirected = 0, None
            if peer.fault is not None:
                await self._note_contact(answer, peer)
            await self._settle(item, peer, answer)
            return answer.reply.result
        finally:
            line.in_flight.discard(item.message_id)

    async def _meet(self, peer: PeerRecord, line: _Line) -> NotDelivered | None:
        """Ping a peer before the first message to it, so that it knows this node's clock when it judges what expires.

        Return why it cannot be reached; None when it was pinged, now or before.
        """
        async with line.meeting:
            if line.met:
                return None
            this_node = self._node.this_node
            ping = make_ping(this_node, target=peer.node_id)
            answer = await self._client.send(ping, peer)
            if isinstance(answer, NotDelivered) and answer.unreachable:
                return replace(answer, uncertain=False)
            line.met = True
            if isinstance(answer, Answered):
                await self._note_contact(answer, peer)
            return None

    async def _settle(self, item: OutboxItem, peer: PeerRecord, answer: Answered) -> None:
        now_us, reply = self._node.this_node.clock_us(), answer.reply
        if reply.result is Result.LATER:
            if reply.code == restored.UNCONFIRMED and item.kind == MessageKind.EXECUTE:
                await self._confirm(item, reply.fields.get(restored.CONFIRM))
            await self._put_off(item, fault=reply.detail, uncertain=False)
            return
        if reply.result is Result.REFUSED and item.kind == MessageKind.EXECUTE:
            await self._give_up(item, refusal_text(peer.node_id, reply.detail))
            return

        if reply.result is Result.REFUSED:
            log.warning("a message was refused", extra={"node": peer.node_id, "reason": reply.detail})
        await self._node.write(lambda store: outbox.answered(store, item, reply, peer_id=peer.node_id, now_us=now_us))
        self._node.wake()

    async def _confirm(self, item: OutboxItem, nonce: Json) -> None:
        """Send a run once more to a peer that was restored from a backup and asks for it."""
        this_node = self._node.this_node
        message_id = this_node.new_id()
        try:
            await self._node.write(
                lambda store: restored.confirm(store, item.run_id, nonce, message_id=message_id, this_node=this_node)
            )
        except MalformedMessageError as error:
            log.warning("a question cannot be answered", extra={"run_id": item.run_id, "error": str(error)})
        self._woken.set()

    async def _give_up(self, item: OutboxItem, error: str) -> None:
        now_us = self._node.this_node.clock_us()
        await self._node.write(lambda store: outbox.give_up(store, item, error, now_us=now_us))
        self._node.wake()

    async def _failed(self, item: OutboxItem, peer: PeerRecord, line: _Line, why: NotDelivered) -> None:
        if why.unreachable:
            line.failures += 1
            pause = pause_s(line.failures, jitter=self._jitter)
            line.resume_at_s = max(line.resume_at_s, asyncio.get_running_loop().time() + pause)
            await self._put_off(item, fault=why.fault, uncertain=why.uncertain, pause=0.0)
        else:
            await self._put_off(item, fault=why.fault, uncertain=why.uncertain)
        await self._node.write(lambda store: store.peers.note_fault(peer.node_id, why.fault))
        if why.redirected and line.redirected != peer.url:
            line.redirected = peer.url  # written down once, until it has answered by itself again
            await self._audit_redirect(item, peer)
        waited_s = (self._node.this_node.clock_us() - item.created_at_us) / 1e6
        if waited_s >= self._fall_back_after_s and self._room_takes(peer):
            await self._also_by_room(item)

    async def _audit_redirect(self, item: OutboxItem, peer: PeerRecord) -> None:
        entry = AuditRecord(
            at_us=self._node.this_node.clock_us(),
            actor=f"node:{peer.node_id}",
            action="refused.redirect",
            subject=item.run_id or item.message_id,
            source=peer.url or "",
        )
        await self._node.write(lambda store: store.audit.append(entry))

    async def _note_contact(self, answer: Answered, peer: PeerRecord) -> None:
        now_us, ahead_us = self._node.this_node.clock_us(), answer.clock_ahead_us
        await self._node.write(
            lambda store: store.peers.note_contact(peer.node_id, now_us=now_us, clock_ahead_us=ahead_us)
        )

    async def _put_off(self, item: OutboxItem, *, fault: str, uncertain: bool, pause: float | None = None) -> None:
        pause = pause_s(item.attempts + 1, jitter=self._jitter) if pause is None else pause
        due_at_us = self._node.this_node.clock_us() + round(pause * 1e6)
        maybe = item.uncertain or uncertain  # an earlier try may have arrived
        await self._node.write(
            lambda store: store.outbox.put_off(item.message_id, due_at_us=due_at_us, fault=fault, uncertain=maybe)
        )

    async def _also_by_room(self, item: OutboxItem) -> None:
        now_us, message_id = self._node.this_node.clock_us(), f"{item.message_id}.room"[:128]
        await self._node.write(lambda store: dispatch.also_by_room(store, item, message_id=message_id, now_us=now_us))
        self._node.wake()


def _batch(store: Store, node_id: str, line: _Line, *, now_us: int) -> _Batch:
    # While a peer is down, what expires behind something that does not is looked for as well.
    limit, look_at = (1, LATE_AT_ONCE) if line.failures else (AT_ONCE, AT_ONCE + len(line.in_flight))
    due = store.outbox.due(Route.PUSH, now_us=now_us, limit=look_at, node_id=node_id)
    due = [item for item in due if item.message_id not in line.in_flight]
    fresh, held = [], []
    for item in [item for item in due if item.expires_at_us > now_us][:limit]:
        before = dispatch.goes_before(store.outbox, item)
        if before is None:
            fresh.append(item)
        else:
            held.append((item, before))
    late = [item for item in due if item.expires_at_us <= now_us]
    return _Batch(peer=store.peers.get(node_id, or_farewell=True), late=late, fresh=fresh, held=held)
