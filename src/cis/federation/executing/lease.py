"""Leases of runs that the room offered: taken on when granted to this node, renewed, let go.

``cis.federation.origin.arbiter``, the arbiter's side, tells the protocol, and what it holds when something fails.
A grant to this node counts as the answer to its own newest claim, or to a status message that asked for the lease to be
renewed, and from when that was asked: what the homeserver says of order and age decides nothing. One that names another
node, or nobody, ends this node's part: a run that it held before is cancelled here. How its worker keeps the deadline
of a lease is in ``cis.engine.leases``.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import NamedTuple

from cis.engine.accept.control import cancel
from cis.engine.this_node import ThisNode
from cis.errors import (
    IllegalStateError,
    MalformedMessageError,
    MessageRefusedError,
    NotAllowedError,
)
from cis.federation.executing.accept import take_on
from cis.federation.executing.claiming import UNFIT
from cis.federation.messages import Outcome, ReceivedMessage, outcome, remember_ask
from cis.model.lease_terms import Grant
from cis.model.message import Result
from cis.store.cluster import LeaseAsk, OfferState, RemoteRole, RemoteRun
from cis.store.cluster_port import Offers, Remotes
from cis.store.port import Store
from cis.store.queue_port import Queue
from cis.store.records import QueueState, RunRecord

log = logging.getLogger(__name__)

ASKS_KEPT = 4  # of renewals: four are asked for in the time of a lease
NO_NONCE = "the grant does not say which claim it answers, so it may be of any age"


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
