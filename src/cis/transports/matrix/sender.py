"""What this node says in the room: the outbox's items of that route, status events, and claims of what others offer.

A send that is repeated has the same transaction id, so the homeserver takes it once. What it refuses for being too much
(429) waits as long as it says; meanwhile nothing else is sent.

**Claims.** A node claims no more than it has free slots, counting what it has claimed and not heard of yet. It claims
each offer only after a short random wait that grows with its load, so the less busy come first, and offers are spread.
Among offers that are as urgent, each node has an order of its own, so that nodes do not all claim the same one. The
offering node claims like any other, by the room, so that it has no head start. A claim that nobody answers is repeated,
ever more seldom: it may have been lost, or the offering node may be away.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from cis.engine.accept import dispatch
from cis.errors import (
    NotFoundError,
    PoisonRecordError,
    RoomError,
    RoomLimitedError,
    RoomRefusedError,
    RoomUnreachableError,
)
from cis.federation.executing import lease
from cis.federation.messages import message_of, offer_terms
from cis.federation.origin import arbiter
from cis.model.dag import Json
from cis.model.message import Message, MessageKind
from cis.store.cluster import OfferRecord, OfferState, OutboxItem, RemoteRole, RemoteRun, Route
from cis.store.port import Store, stored_spec
from cis.transports.envelope import seal
from cis.transports.matrix.client import MatrixClient
from cis.transports.matrix.threads import NOTICE
from cis.transports.ports import NodePort
from cis.transports.push import make_ping
from cis.transports.wakeup import Wakeup, pause_s

log = logging.getLogger(__name__)

WAIT_S = (
    0.2  # at most, for an idle node: a few times the room's own delay, so that most see the grant before they claim
)
MOST_AGAIN_S = 300.0
LOOK_FOR_OFFERS_EVERY_S = 2.0
CLAIMS_AT_ONCE = 100
CLAIM_AGAIN_S = 5.0

SendClaim = Callable[[Message], Awaitable[bool]]
"""Sends a claim into the room; returns whether the homeserver took it."""

LOOK_EVERY_S = 5.0
AT_ONCE = 8


class RoomSender:
    """Sends into one room. *offered* is called when this node has put a DAG on offer there."""

    def __init__(
        self,
        node: NodePort,
        client: MatrixClient,
        *,
        room_id: str,
        jitter: Callable[[], float],
        offered: Callable[[], None],
    ) -> None:
        self._node = node
        self._client = client
        self._room_id = room_id
        self._jitter = jitter
        self._offered = offered
        self._woken = Wakeup()
        self._failures = 0
        self._hold_until_s = 0.0
        self._met: set[str] = set()

    def wake(self) -> None:
        """Look at the outbox now."""
        self._woken.set()

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            held_s = self._hold_until_s - loop.time()
            if held_s > 0:
                await asyncio.sleep(held_s)  # whoever wakes this: nothing may be sent
                continue
            self._woken.clear()
            await self._woken.within(await self._serve())

    async def send_status(self, message: Message, remote: RemoteRun) -> bool:
        """Send a report; return whether the homeserver took it, which renews no lease."""
        if asyncio.get_running_loop().time() < self._hold_until_s:
            return False
        relation = {"rel_type": "m.reference", "event_id": remote.event_id} if remote.event_id else None
        try:
            await self._send(message, txn_id=f"status-{message.run_id}-{message.message_id}", relation=relation)
        except RoomError as error:
            self._held_up(error)
            return False
        return True

    async def send_once(self, message: Message) -> bool:
        """Send a claim or a ping, which is not kept since it is worth nothing late; return whether it was taken."""
        if asyncio.get_running_loop().time() < self._hold_until_s:
            return False
        try:
            await self._send(message, txn_id=f"{message.kind.rpartition('.')[2]}-{message.message_id}")
        except RoomError as error:
            self._held_up(error)
            return False
        return True

    async def _serve(self) -> float:
        """Send what is due; return when there may be more."""
        now_us = self._node.this_node.clock_us()
        items, next_us = await self._node.read(
            lambda store: (
                store.outbox.due(Route.ROOM, now_us=now_us, limit=AT_ONCE),
                store.outbox.schedule(now_us=now_us).next_us,
            )
        )
        if not items:
            return LOOK_EVERY_S if next_us is None else min(LOOK_EVERY_S, max(0.05, (next_us - now_us) / 1e6))
        late = [item for item in items if item.expires_at_us <= now_us]
        if late:
            ended = await self._node.write(lambda store: dispatch.expire(store, late, now_us=now_us))
            self._node.wake(run.worker_id for run in ended)
        fresh = [item for item in items if item.expires_at_us > now_us]
        results = await asyncio.gather(*(self._deliver(item) for item in fresh if item.kind != NOTICE))
        for item in fresh:
            if item.kind == NOTICE:  # one after the other, as people are to read them
                results.append(await self._deliver(item))
        return 0.0 if all(results) else 0.05

    async def _deliver(self, item: OutboxItem) -> bool:
        node = self._node
        due_at_us = node.this_node.clock_us() + round(dispatch.SENDING_S * 1e6)
        if not await node.write(lambda store: store.outbox.begin_sending([item.message_id], due_at_us=due_at_us)):
            return True  # it was taken back meanwhile
        try:
            if item.kind == NOTICE:
                event_id = await self._client.send(
                    self._room_id, type="m.room.message", content=dict(item.fields), txn_id=f"notice-{item.message_id}"
                )
            else:
                message = await node.read(
                    lambda store: message_of(store, item, sender=node.this_node.node_id, lease_s=node.this_node.lease_s)
                )
                await self._meet(item)
                kind = item.kind.rpartition(".")[2]
                event_id = await self._send(message, txn_id=f"{kind}-{item.message_id}")
        except (NotFoundError, PoisonRecordError) as error:
            log.error("a message cannot be made", extra={"run_id": item.run_id, "error": str(error)})
            reason, now_us = str(error), node.this_node.clock_us()
            await node.write(lambda store: _give_up(store, item, reason, now_us=now_us))
            return True
        except RoomError as error:
            await self._put_off(item, error)
            return False
        self._failures = 0
        await node.write(lambda store: self._sent(store, item, event_id))
        if item.kind == MessageKind.EXECUTE and not item.node_id:
            self._offered()
        return True

    async def _meet(self, item: OutboxItem) -> None:
        """Tell a node this node's time before the first run for it: it may have been away when that was told last."""
        if item.kind == MessageKind.EXECUTE and item.node_id and item.node_id not in self._met:
            ping = make_ping(self._node.this_node, target=item.node_id)
            await self._send(ping, txn_id=f"ping-{ping.message_id}")
            self._met.add(item.node_id)

    async def _send(self, message: Message, *, txn_id: str, relation: Json = None) -> str:
        mxc = None
        if message.blob is not None:
            mxc = await self._client.upload(
                message.blob.encode(), content_type="application/json", filename=f"{message.run_id}.json"
            )
        content = seal(message, self._node.keys.signer(), room_id=self._room_id, mxc=mxc)
        if relation is not None:
            content["m.relates_to"] = relation
        return await self._client.send(self._room_id, type=str(message.kind), content=content, txn_id=txn_id)

    def _sent(self, store: Store, item: OutboxItem, event_id: str) -> None:
        now_us = self._node.this_node.clock_us()
        if item.kind != MessageKind.EXECUTE:
            store.outbox.remove(item.message_id)
            if item.kind == MessageKind.GRANT:
                arbiter.grant_sent(store.remotes, item.run_id, epoch=int(item.fields["epoch"]), now_us=now_us)
            return
        remote = store.remotes.get(item.run_id)
        if remote is None or not remote.open:
            store.outbox.remove(item.message_id)
            return
        store.remotes.put(replace(remote, event_id=event_id))
        # The item stays until somebody takes the run, or its time is over. No offer is taken without this node's word.
        offered = remote.role is RemoteRole.OFFERED
        if not any(kept.message_id == item.message_id for kept in store.outbox.of_run(item.run_id)):
            return  # it was granted, or cancelled, while it was being sent
        store.outbox.put_off(item.message_id, due_at_us=item.expires_at_us, fault="", uncertain=not offered)
        run = store.runs.get(item.run_id)
        if offered and run is not None:
            spec, lease_s = stored_spec(store.definitions, run.definition_id), self._node.this_node.lease_s
            store.offers.put(
                OfferRecord(
                    run_id=item.run_id,
                    sender=self._node.this_node.node_id,
                    event_id=event_id,
                    epoch=remote.epoch,
                    priority=run.priority,
                    content=offer_terms(spec, epoch=remote.epoch, lease_s=lease_s).fields(),
                    state=OfferState.OPEN,
                    created_at_us=item.created_at_us,
                    expires_at_us=item.expires_at_us,
                    claim_at_us=now_us,
                )
            )

    async def _put_off(self, item: OutboxItem, error: RoomError) -> None:
        self._held_up(error)
        own = isinstance(error, RoomRefusedError)
        pause = pause_s(item.attempts + 1, jitter=self._jitter) if own else 0.0
        due_at_us, fault = self._node.this_node.clock_us() + round(pause * 1e6), str(error)
        maybe = item.uncertain or isinstance(error, RoomUnreachableError)
        await self._node.write(
            lambda store: store.outbox.put_off(item.message_id, due_at_us=due_at_us, fault=fault, uncertain=maybe)
        )

    def _held_up(self, error: RoomError) -> None:
        """Send nothing for a while, as *error* demands."""
        now_s = asyncio.get_running_loop().time()
        if isinstance(error, RoomLimitedError):
            hold_s = error.retry_after_s
        elif isinstance(error, RoomRefusedError):
            log.error("the homeserver refused an event", extra={"error": str(error)})
            return
        else:
            self._failures += 1
            hold_s = pause_s(self._failures, jitter=self._jitter, most_s=15.0)
        self._hold_until_s = max(self._hold_until_s, now_s + hold_s)


def _give_up(store: Store, item: OutboxItem, error: str, *, now_us: int) -> None:
    """Drop an item whose message cannot be made; a run that nobody can be told of fails."""
    store.outbox.remove(item.message_id)
    if item.kind == MessageKind.EXECUTE:
        dispatch.undeliverable(store, item.run_id, error=error, now_us=now_us)


@dataclass(frozen=True, slots=True)
class _Seen:
    claimed: Sequence[OfferRecord]
    open: Sequence[OfferRecord]
    load: int


class Claimer:
    """Claims for one node; *capacity* is how many runs it takes at once, *labels* are its own."""

    def __init__(
        self,
        node: NodePort,
        *,
        labels: Sequence[str],
        capacity: int,
        grace_s: float,
        send: SendClaim,
        jitter: Callable[[], float],
    ) -> None:
        self._node = node
        self._labels = frozenset(labels)
        self._capacity = capacity
        self._grace_s = grace_s
        self._send = send
        self._jitter = jitter
        self._woken = Wakeup()
        self._claimed_s: dict[str, float] = {}
        self._waits: dict[str, tuple[int, float, int]] = {}  # run: epoch, claim at (loop's time), claims made

    def wake(self) -> None:
        """Look now: there may be an offer, or room for one."""
        self._woken.set()

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            self._woken.clear()
            await self._woken.within(await self._turn())

    async def _turn(self) -> float:
        """Claim what is due, and return when to look again."""
        seen = await self._node.read(self._look)
        loop, now_us = asyncio.get_running_loop(), self._node.this_node.clock_us()
        free = self._capacity - seen.load
        known, self._waits = self._waits, {}
        due_s = LOOK_FOR_OFFERS_EVERY_S
        self._claimed_s = {run_id: at_s for run_id, at_s in self._claimed_s.items() if run_id in known}
        for offer in (*seen.claimed, *sorted(seen.open, key=self._turn_of)):
            if offer.expires_at_us <= now_us or not lease.eligible(offer, labels=self._labels, grace_s=self._grace_s):
                await self._set(offer, OfferState.CLOSED)
                continue
            epoch, at_s, count = known.get(offer.run_id, (-1, 0.0, 0))
            if epoch != offer.epoch:
                wait_s = WAIT_S * self._jitter() * (1 + seen.load)
                epoch, at_s, count = offer.epoch, loop.time() + wait_s, 0
            self._waits[offer.run_id] = (epoch, at_s, count)
            if free <= 0:
                continue
            if at_s > loop.time():
                # A claim that was not answered soon is no promise: its node may sleep for a week.
                free -= self._claimed_s.get(offer.run_id, -CLAIM_AGAIN_S) + CLAIM_AGAIN_S > loop.time()
                due_s = min(due_s, at_s - loop.time())
                continue
            free -= 1
            self._claimed_s[offer.run_id] = loop.time()
            if await self._claim(offer, free=free):
                again_s = min(MOST_AGAIN_S, CLAIM_AGAIN_S * 2.0**count)
                self._waits[offer.run_id] = (epoch, loop.time() + again_s * (0.5 + self._jitter()), count + 1)
        return due_s

    def _turn_of(self, offer: OfferRecord) -> tuple[int, bytes]:
        mine = hashlib.blake2b(f"{self._node.this_node.node_id} {offer.run_id}".encode(), digest_size=8).digest()
        return -offer.priority, mine

    def _look(self, store: Store) -> _Seen:
        return _Seen(
            claimed=store.offers.in_state(OfferState.CLAIMED, limit=CLAIMS_AT_ONCE),
            open=store.offers.in_state(OfferState.OPEN, limit=CLAIMS_AT_ONCE),
            load=store.queue.load(self._node.this_node.node_id, at_most=self._capacity),
        )

    async def _claim(self, offer: OfferRecord, *, free: int) -> bool:
        this_node = self._node.this_node
        claim = await self._node.write(
            lambda store: lease.make_claim(store.offers, offer, free=free, this_node=this_node)
        )
        return claim is None or await self._send(claim)

    async def _set(self, offer: OfferRecord, state: OfferState) -> None:
        await self._node.write(lambda store: store.offers.set_state(offer.run_id, state))
