"""The side of the nodes that take what is offered in the room: they see offers, and take on what is granted to them.

The protocol, and what it holds when something fails, is told in ``cis.engine.offers``, which is the arbiter's side. A
grant that names another node, or nobody, ends this node's part: a run that it held before is cancelled here. How its
worker keeps the deadline of a lease is in ``cis.engine.leases``.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace

from cis.engine.control import cancel
from cis.engine.heard import Heard, Outcome, outcome, take_on
from cis.engine.incoming import scope_of
from cis.engine.leases import margin_s
from cis.engine.site import Site
from cis.errors import IllegalStateError, MalformedMessageError, NotAllowedError
from cis.model.dag import Priority
from cis.model.message import Result
from cis.model.scope_patterns import allows
from cis.model.states import RunState
from cis.store.cluster import OfferRecord, OfferState, RemoteRole, RemoteRun
from cis.store.port import Store
from cis.store.records import QueueState, RunRecord

log = logging.getLogger(__name__)

UNFIT = "unfit"
MAX_LEASE_MS = 86_400_000


def see_offer(store: Store, heard: Heard, *, site: Site) -> Outcome:
    """Remember an offer, to be claimed when this node has room for it (``cis.transports.matrix.claims``)."""
    message = heard.message
    epoch, priority = message.fields.get("epoch"), message.fields.get("priority")
    labels = message.fields.get("labels", [])
    are_labels = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
    if not message.run_id or heard.event_id is None or not isinstance(epoch, int) or not are_labels:
        raise MalformedMessageError("an offer needs a run_id, an epoch and labels, and comes by the room")
    if heard.peer.scopes is not None and not allows(heard.peer.scopes, scope_of(message)):
        return outcome(Result.DUPLICATE)  # this node would refuse it: let the others have it
    seen = store.offer(message.run_id)
    if seen is not None and (seen.sender != message.sender or seen.epoch >= epoch or seen.content.get(UNFIT)):
        return outcome(Result.DUPLICATE)
    known = store.run(message.run_id)
    if known is not None and known.status is RunState.CANCELLED:
        return outcome(Result.DUPLICATE)  # this node had it and let it go: what is final here stays so
    now_us = site.clock_us()
    store.put_offer(
        OfferRecord(
            run_id=message.run_id,
            sender=message.sender,
            event_id=heard.event_id,
            epoch=epoch,
            priority=next((one for one in Priority if str(one) == priority), Priority.NORMAL),
            content={"labels": labels, "lease_ms": message.fields.get("lease_ms", 0)},
            state=OfferState.OPEN,
            created_at_us=message.created_at_us,
            expires_at_us=message.expires_at_us,
            claim_at_us=now_us,
        )
    )
    return outcome(Result.ACCEPTED)


def eligible(offer: OfferRecord, *, labels: Collection[str], grace_s: float) -> bool:
    """Whether a node may take an offer: it has the labels, and can end tasks well within half of the lease."""
    wanted, lease_ms = offer.content.get("labels", []), offer.content.get("lease_ms", 0)
    has_labels = isinstance(wanted, list) and all(label in labels for label in wanted)
    return has_labels and isinstance(lease_ms, int) and lease_ms >= 2000 * margin_s(grace_s)


def hear_grant(store: Store, heard: Heard, *, site: Site) -> Outcome:
    """Take on a run that is granted to this node; let go of one that is granted to another."""
    message = heard.message
    node_id, epoch, lease_ms = (message.fields.get(name) for name in ("node_id", "epoch", "lease_ms"))
    if not isinstance(node_id, str) or not isinstance(epoch, int) or not isinstance(lease_ms, int):
        raise MalformedMessageError("a grant needs node_id, epoch and lease_ms")
    held = store.remote_run(message.run_id)
    if held is not None and (held.role is not RemoteRole.RECEIVED or held.peer != message.sender):
        raise NotAllowedError(f"run {message.run_id!r} is not for node {message.sender!r} to grant")
    offer = store.offer(message.run_id)
    if offer is not None:
        if offer.sender != message.sender:
            raise NotAllowedError(f"run {message.run_id!r} was not offered by node {message.sender!r}")
        if offer.epoch < epoch:
            store.put_offer(replace(offer, epoch=epoch - 1, state=OfferState.CLOSED))
    if held is not None and held.epoch >= epoch:
        return outcome(Result.DUPLICATE)
    if node_id != site.node_id:
        return _let_go(store, held, node_id, site=site)
    if not 0 < lease_ms <= MAX_LEASE_MS:
        raise MalformedMessageError(f"lease_ms is {lease_ms}, which is no lease")
    # The grant answers what this node said before: it is no older than the homeserver says, and no younger than that.
    asked_us = held.suspended_us if held is not None and held.suspended_us is not None else None
    if asked_us is None and offer is not None and offer.epoch == epoch - 1:
        asked_us = offer.claim_at_us
    sent_us = site.clock_us() if heard.sent_at_us is None else heard.sent_at_us
    lease_until_us = min(sent_us, sent_us if asked_us is None else asked_us) + lease_ms * 1000
    if lease_until_us <= site.clock_us():
        return outcome(Result.LATER)  # its lease is over already: the arbiter has offered it again, or will
    return _take_up(store, heard, held, epoch=epoch, lease_ms=lease_ms, lease_until_us=lease_until_us, site=site)


def _take_up(
    store: Store, heard: Heard, held: RemoteRun | None, *, epoch: int, lease_ms: int, lease_until_us: int, site: Site
) -> Outcome:
    if held is not None:
        run = store.run(held.run_id)
    elif heard.wanted is None:
        raise MalformedMessageError(f"a grant of run {heard.message.run_id!r}, which was not offered to this node")
    else:
        run = take_on(store, heard, heard.wanted, site=site)
    remote = store.remote_run(heard.message.run_id)
    if run is None or remote is None:
        return outcome(Result.DUPLICATE)
    store.put_remote(
        replace(
            remote,
            epoch=epoch,
            lease_until_us=lease_until_us,
            lease_us=lease_ms * 1000,
            suspended_us=None,
            boot_id=site.boot_id,
            open=True,
        )
    )
    # One that is over already is told of once more, under the new epoch.
    return outcome(Result.ACCEPTED, rings=tuple(_release(store, run)))


def _release(store: Store, run: RunRecord) -> list[str]:
    """Put a suspended run, and the runs that are its tasks, back into the queue; return their workers."""
    rings = [run.worker_id]
    item = store.queue_item(run.run_id)
    if item is not None and item.status is QueueState.SUSPENDED:
        store.release(run.run_id)
    for child in store.child_runs(run.run_id):
        if not child.status.final:
            rings += _release(store, child)
    return rings


def set_unfit(store: Store, run_id: str) -> None:
    """Remember that this node refused a run that was granted to it: it claims it no more."""
    offer = store.offer(run_id)
    if offer is not None:
        store.put_offer(replace(offer, state=OfferState.CLOSED, content={**offer.content, UNFIT: True}))


def _let_go(store: Store, held: RemoteRun | None, node_id: str, *, site: Site) -> Outcome:
    if held is None or not held.open:
        return outcome(Result.DUPLICATE)
    log.warning("a run was granted to another node", extra={"run_id": held.run_id, "node": node_id})
    store.put_remote(replace(held, open=False))
    try:
        run = cancel(store, held.run_id, now_us=site.clock_us())
    except IllegalStateError:
        return outcome(Result.DUPLICATE)
    return outcome(Result.ACCEPTED, rings=(run.worker_id,))
