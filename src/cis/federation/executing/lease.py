"""The side of the nodes that take what is offered in the room: they see offers, and take on what is granted to them.

``cis.federation.origin.arbiter``, the arbiter's side, tells the protocol, and what it holds when something fails.
A grant to this node counts as the answer to its own newest claim, or to a status message that asked for the lease to be
renewed, and from when that was asked: what the homeserver says of order and age decides nothing. One that names another
node, or nobody, ends this node's part: a run that it held before is cancelled here. How its worker keeps the deadline
of a lease is in ``cis.engine.leases``.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace
from typing import NamedTuple

from cis.engine.accept.control import cancel
from cis.engine.leases import margin_s
from cis.engine.this_node import ThisNode
from cis.errors import (
    IllegalStateError,
    MalformedMessageError,
    MessageRefusedError,
    NotAllowedError,
    ShareExceededError,
)
from cis.federation.executing.accept import take_on
from cis.federation.messages import Outcome, ReceivedMessage, outcome, remember_ask, scope_of
from cis.model.dag import Priority
from cis.model.message import NONCES, Claim, Grant, Message, MessageKind, OfferTerms, Result
from cis.model.scope_rules import allows
from cis.model.states import RunState
from cis.store.cluster import LeaseAsk, OfferRecord, OfferState, RemoteRole, RemoteRun
from cis.store.cluster_port import Offers, Remotes
from cis.store.port import Store
from cis.store.queue_port import Queue
from cis.store.records import QueueState, RunRecord

log = logging.getLogger(__name__)

UNFIT = "unfit"
CLAIM_FOR_US = 60_000_000
MAX_OFFERS = 100_000  # of one node: as many runs as may wait there, if nothing else is set
ASKS_KEPT = 4  # of renewals: four are asked for in the time of a lease
NO_NONCE = "the grant does not say which claim it answers, so it may be of any age"


def receive_offer(store: Store, received: ReceivedMessage, *, this_node: ThisNode) -> Outcome:
    """Remember an offer, to be claimed when this node has room for it (``cis.transports.matrix.sender``)."""
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


def ask_to_renew(offers: Offers, run_id: str, *, this_node: ThisNode) -> str:
    """Return a nonce for the next status message of a run that is held here: its arbiter's answer renews the lease.

    Several may be on their way at once: an answer counts from when its own question was asked.
    """
    return remember_ask(offers, run_id, keep=ASKS_KEPT, this_node=this_node).nonce


def receive_grant(store: Store, received: ReceivedMessage, *, this_node: ThisNode) -> Outcome:
    """Take on a run that is granted to this node, or renew its lease; let go of one that is granted to another."""
    message, grant = received.message, Grant.read(received.message.fields)
    held = store.remotes.get(message.run_id)
    if held is not None and (held.role is not RemoteRole.RECEIVED or held.peer_id != message.sender):
        raise NotAllowedError(f"run {message.run_id!r} is not for node {message.sender!r} to grant")
    offer = store.offers.get(message.run_id)
    if offer is not None:
        if offer.origin_id != message.sender:
            raise NotAllowedError(f"run {message.run_id!r} was not offered by node {message.sender!r}")
        if offer.epoch < grant.epoch:
            store.offers.put(replace(offer, epoch=grant.epoch - 1, state=OfferState.CLOSED))
    mine = grant.node_id == this_node.node_id
    if held is not None and (held.epoch > grant.epoch or (held.epoch == grant.epoch and not mine)):
        return outcome(Result.DUPLICATE)
    if not mine:
        return _let_go(store, held, grant.node_id, this_node=this_node)
    renews = held is not None and held.epoch == grant.epoch
    if grant.nonce is None:
        return _without_nonce(store.queue, held, grant, sender=message.sender)
    if not renews and offer is not None and offer.content.get(UNFIT):
        raise MessageRefusedError("lease.unfit", f"run {message.run_id!r} was refused here before")
    ask = store.offers.ask(message.run_id, grant.nonce)
    if ask is None or ask.boot_id != this_node.boot_id:
        return outcome(Result.LATER)  # it answers nothing that this node asks now, however new it is said to be
    lease = _lease_of(grant, ask)
    if lease.until_us <= this_node.clock_us() or lease.uptime_us <= this_node.uptime_us():
        return outcome(Result.LATER)  # it is over already: the arbiter has offered the run again, or will
    if held is not None and renews:
        return _renew(store.remotes, held, lease)
    return _take_up(store, received, held, grant=grant, lease=lease, this_node=this_node)


def _without_nonce(queue: Queue, held: RemoteRun | None, grant: Grant, *, sender: str) -> Outcome:
    """Refuse a grant of a node of before. Its arbiter gives the run to another at once, so not while it runs here."""
    if held is not None:
        item = queue.get(held.run_id)
        if held.epoch == grant.epoch or (item is not None and item.status is not QueueState.SUSPENDED):
            return outcome(Result.DUPLICATE)
    raise MessageRefusedError("lease.no_nonce", f"{NO_NONCE}: upgrade node {sender!r}")


class _Lease(NamedTuple):
    until_us: int
    uptime_us: int
    lease_us: int


def _lease_of(grant: Grant, ask: LeaseAsk) -> _Lease:
    """Return the lease of a grant: from when its question was asked, which is before its arbiter could answer."""
    lease_us = grant.lease_ms * 1000
    return _Lease(ask.asked_at_us + lease_us, ask.asked_uptime_us + lease_us, lease_us)


def _renew(remotes: Remotes, held: RemoteRun, lease: _Lease) -> Outcome:
    """Prolong a lease. An answer that was overtaken by a later one shortens nothing."""
    if held.open and lease.uptime_us > (held.lease_uptime_us or 0):
        remotes.put(
            replace(held, lease_until_us=lease.until_us, lease_uptime_us=lease.uptime_us, lease_us=lease.lease_us)
        )
    return outcome(Result.DUPLICATE)  # the run is the same as before: nobody has anything to do


def _take_up(
    store: Store, received: ReceivedMessage, held: RemoteRun | None, *, grant: Grant, lease: _Lease, this_node: ThisNode
) -> Outcome:
    if held is not None:
        run = store.runs.get(held.run_id)
    elif received.requested is None:
        raise MalformedMessageError(f"a grant of run {received.message.run_id!r}, which was not offered to this node")
    else:
        run = take_on(store, received, received.requested, this_node=this_node)
    remote = store.remotes.get(received.message.run_id)
    if run is None or remote is None:
        return outcome(Result.DUPLICATE)
    store.remotes.put(
        replace(
            remote,
            epoch=grant.epoch,
            lease_until_us=lease.until_us,
            lease_uptime_us=lease.uptime_us,
            lease_us=lease.lease_us,
            boot_id=this_node.boot_id,
            open=True,
        )
    )
    # One that is over already is reported once more, under the new epoch.
    return outcome(Result.ACCEPTED, rings=tuple(_release(store, run)))


def _release(store: Store, run: RunRecord) -> list[str]:
    """Put a suspended run, and the runs that are its tasks, back into the queue; return their workers."""
    rings = [run.worker_id]
    item = store.queue.get(run.run_id)
    if item is not None and item.status is QueueState.SUSPENDED:
        store.queue.move(run.run_id, QueueState.QUEUED)
    for child in store.runs.children(run.run_id):
        if not child.status.final:
            rings += _release(store, child)
    return rings


def set_unfit(offers: Offers, run_id: str) -> None:
    """Remember that this node refused a run that was granted to it: it claims it no more."""
    offer = offers.get(run_id)
    if offer is not None:
        offers.put(replace(offer, state=OfferState.CLOSED, content={**offer.content, UNFIT: True}))


def _let_go(store: Store, held: RemoteRun | None, node_id: str, *, this_node: ThisNode) -> Outcome:
    if held is None or not held.open:
        return outcome(Result.DUPLICATE)
    log.warning("a run was granted to another node", extra={"run_id": held.run_id, "node": node_id})
    store.remotes.put(replace(held, open=False))
    try:
        run = cancel(store, held.run_id, now_us=this_node.clock_us())
    except IllegalStateError:
        return outcome(Result.DUPLICATE)
    return outcome(Result.ACCEPTED, rings=(run.worker_id,))
