"""Claims what others offer in the room, for as many runs as this node has room for.

A node claims no more than it has free slots, counting what it has claimed and not heard of yet. It claims
each offer only after a short random wait that grows with its load, so the less busy come first, and offers are spread.
Among offers that are as urgent, each node has an order of its own, so that nodes do not all claim the same one. The
offering node claims like any other, by the room, so that it has no head start. A claim that nobody answers is repeated,
ever more seldom: it may have been lost, or the offering node may be away.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from cis.federation.executing import lease
from cis.federation.service import NodePort, Wakeup
from cis.model.message import Message
from cis.store.cluster import OfferRecord, OfferState
from cis.store.port import Store

WAIT_S = (
    0.2  # at most, for an idle node: a few times the room's own delay, so that most see the grant before they claim
)
MOST_AGAIN_S = 300.0
LOOK_FOR_OFFERS_EVERY_S = 2.0
CLAIMS_AT_ONCE = 100
CLAIM_AGAIN_S = 5.0

SendClaim = Callable[[Message], Awaitable[bool]]
"""Sends a claim into the room; returns whether the homeserver took it."""


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
