"""Offers in the room: each is remembered, and claimed when this node has room for one more run.

A node claims no more than it has free slots, counting what it has claimed and not heard of yet. It claims
each offer only after a short random wait that grows with its load, so the less busy come first, and offers are spread.
Among offers that are as urgent, each node has an order of its own, so that nodes do not all claim the same one. The
offering node claims like any other, by the room, so that it has no head start. A claim that nobody answers is repeated,
ever more seldom: it may have been lost, or the offering node may be away.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace

from cis.engine.leases import margin_s
from cis.engine.this_node import ThisNode
from cis.errors import MalformedMessageError, MessageRefusedError, ShareExceededError
from cis.federation.messages import Outcome, ReceivedMessage, outcome, remember_ask
from cis.federation.requested import scope_of
from cis.federation.service import NodePort, Wakeup
from cis.model.lease_terms import Claim, OfferTerms
from cis.model.message import NONCES, Message, MessageKind, Result
from cis.model.scope_rules import allows
from cis.model.states import Priority, RunState
from cis.store.cluster import OfferRecord, OfferState
from cis.store.cluster_port import Offers
from cis.store.port import Store

WAIT_S = (
    0.2  # at most, for an idle node: a few times the room's own delay, so that most see the grant before they claim
)
MOST_AGAIN_S = 300.0
LOOK_FOR_OFFERS_EVERY_S = 2.0
CLAIMS_AT_ONCE = 100
CLAIM_AGAIN_S = 5.0

UNFIT = "unfit"
CLAIM_FOR_US = 60_000_000
MAX_OFFERS = 100_000  # of one node: as many runs as may wait there, if nothing else is set

SendClaim = Callable[[Message], Awaitable[bool]]
"""Sends a claim into the room; returns whether the homeserver took it."""


def receive_offer(store: Store, received: ReceivedMessage, *, this_node: ThisNode) -> Outcome:
    """Remember an offer, to be claimed when this node has room for it (``Claimer``)."""
    message = received.message
    terms, priority = OfferTerms.read(message.fields), message.fields.get("priority")
    if not message.run_id or received.event_id is None:
        raise MalformedMessageError("an offer needs a run_id, and comes by the room")
    if received.peer.scopes is not None and not allows(received.peer.scopes, scope_of(message)):
        return outcome(Result.DUPLICATE)  # this node would refuse it: let the others have it
    seen = store.offers.get(message.run_id)
    if seen is not None and (seen.origin_id != message.sender or _says_nothing_new(seen, terms)):
        return outcome(Result.DUPLICATE)
    known = store.runs.get(message.run_id)
    if known is not None and known.status is RunState.CANCELLED:
        return outcome(Result.DUPLICATE)  # this node had it and let it go: what is final here stays so
    if seen is None and message.sender != this_node.node_id:  # its own are as many as wait in its queue
        _make_room(store.offers, message.sender)
    store.offers.put(
        OfferRecord(
            run_id=message.run_id,
            origin_id=message.sender,
            event_id=received.event_id,
            epoch=terms.epoch,
            priority=next((one for one in Priority if str(one) == priority), Priority.NORMAL),
            content=terms.fields(),
            state=OfferState.OPEN,
            created_at_us=message.created_at_us,
            expires_at_us=message.expires_at_us,
            claim_at_us=this_node.clock_us(),
        )
    )
    return outcome(Result.ACCEPTED)


def _make_room(offers: Offers, sender: str) -> None:
    """Forget a closed offer of a node that has its share; refuse another one when all of them are open.

    Nothing is lost with one that is closed: should it be seen and claimed again, its arbiter does not grant it.
    """
    if not offers.make_room(sender, most=MAX_OFFERS):
        detail = f"{MAX_OFFERS:,} offers of node {sender!r} are open here, so this one is left to other nodes"
        raise MessageRefusedError(ShareExceededError.code, detail)


def _says_nothing_new(seen: OfferRecord, terms: OfferTerms) -> bool:
    if seen.content.get(UNFIT) or seen.epoch > terms.epoch:
        return True
    # The arbiter was upgraded since it said the same without nonces, when nobody of this version could claim it.
    upgraded = terms.nonces and seen.content.get(NONCES) is not True
    return seen.epoch == terms.epoch and not upgraded


def eligible(offer: OfferRecord, *, labels: Collection[str], grace_s: float) -> bool:
    """Whether a node may take an offer: it has the labels, and can end tasks well within half of the lease.

    One of an arbiter that names no nonces is nobody's who looks at them: it could not tell an old grant from a new one.
    """
    wanted, lease_ms = offer.content.get("labels", []), offer.content.get("lease_ms", 0)
    has_labels = isinstance(wanted, list) and all(label in labels for label in wanted)
    long_enough = isinstance(lease_ms, int) and lease_ms >= 2000 * margin_s(grace_s)
    return has_labels and long_enough and offer.content.get(NONCES) is True


def make_claim(offers: Offers, offer: OfferRecord, *, free: int, this_node: ThisNode) -> Message | None:
    """Return a claim of an offer, with a nonce that is remembered first; None when it is on offer no more.

    Only the answer to a node's newest claim counts, so what was remembered of earlier ones is forgotten.
    """
    fresh = offers.get(offer.run_id)
    if fresh is None or fresh.state is OfferState.CLOSED or fresh.epoch != offer.epoch:
        return None
    ask = remember_ask(offers, offer.run_id, keep=1, this_node=this_node)
    offers.set_state(offer.run_id, OfferState.CLAIMED, claim_at_us=ask.asked_at_us)
    claim = Claim(node_id=this_node.node_id, epoch=offer.epoch, free=max(0, free), nonce=ask.nonce)
    return Message(
        kind=MessageKind.CLAIM,
        message_id=this_node.new_id(),
        sender=this_node.node_id,
        target=offer.origin_id,
        run_id=offer.run_id,
        created_at_us=ask.asked_at_us,
        expires_at_us=ask.asked_at_us + CLAIM_FOR_US,
        fields=claim.fields(),
    )


def set_unfit(offers: Offers, run_id: str) -> None:
    """Remember that this node refused a run that was granted to it: it claims it no more."""
    offer = offers.get(run_id)
    if offer is not None:
        offers.put(replace(offer, state=OfferState.CLOSED, content={**offer.content, UNFIT: True}))


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
            if offer.expires_at_us <= now_us or not eligible(offer, labels=self._labels, grace_s=self._grace_s):
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
        claim = await self._node.write(lambda store: make_claim(store.offers, offer, free=free, this_node=this_node))
        return claim is None or await self._send(claim)

    async def _set(self, offer: OfferRecord, state: OfferState) -> None:
        await self._node.write(lambda store: store.offers.set_state(offer.run_id, state))
