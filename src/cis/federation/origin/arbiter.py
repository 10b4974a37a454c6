"""An unaddressed DAG in the room has one arbiter, the node that offered it. This is the arbiter's side.

    offering node            room                       any node
    execute, no target  ───────────────────────────────>  eligible, a slot free, a short random wait
                        <───────────────────────────────  claim
    choice stored, then
    grant {node, epoch, lease}  ───────────────────────>  that node, and no other, executes it
                        <───────────────────────────────  status, four times in a lease with a nonce
    grant, the same epoch  ─────────────────────────────>  its answer: the lease is renewed

**The lease** lets the arbiter give a run to somebody else when its holder is gone, and never to two at once. A claim,
and a status that asks for the lease to be renewed, carries a *nonce*; the grant that answers it names that nonce. The
holder counts its lease from the moment before it sent what was answered, less the time that it needs to end tasks (its
*margin*); its worker looks at that deadline itself and stops the run there, with or without a node
(``cis.engine.run.decide``). The arbiter counts from the moment at which it answered, which is later. Both compare
durations on their own machine, by clocks that nobody sets. So nothing depends on what the homeserver says of order, age
or delivery: what it withholds is worth nothing when it comes, and what it repeats was counted before. That the arbiter
takes a run back only after a sync that began after the deadline spares a holder whose word is on its way.

Nodes of before name no nonce. Their claims are not granted: such a node would take the homeserver's answer to a status
for a renewal. One that had been granted a run before this node was upgraded keeps it by the rules of then: whatever
it says prolongs its lease here, as it does there.

What goes wrong, and what then holds:

- A claim or a grant is lost or late: claims are repeated while the offer is open, each with a new nonce; a grant is
  sent until the homeserver has it, and again for a newer claim of the same node that comes before any status of it.
- The holder crashes: when it is back within the lease it goes on; else its run stays suspended until a new grant.
- The homeserver is gone for longer than a lease: every holder stops; the arbiter, once it has read up, grants anew,
  to the same node if that one is first to say that it is suspended.
- The arbiter dies: nothing new is granted, and no lease is renewed; every holder stops when its own is over.

A grant has an *epoch*; reports under an older one are refused. What the old holder completed and reported is kept: the
next execute event says which tasks are done.

What the node on the right does is in ``cis.federation.executing.lease``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace

from cis.engine.accept import submit as submitting
from cis.engine.accept.control import end_cancelled
from cis.engine.accept.dispatch import post_grant
from cis.engine.this_node import ThisNode
from cis.engine.transitions import move_run
from cis.errors import NotAllowedError
from cis.federation.messages import EXECUTE, Outcome, ReceivedMessage, outcome
from cis.federation.restored import LEAP
from cis.model.lease_terms import Claim, Grant, Standing
from cis.model.message import MessageKind, Result
from cis.model.states import RunState
from cis.store.cluster import EVERYONE, OfferState, RemoteRole, RemoteRun, room_item
from cis.store.cluster_port import Outbox, Remotes
from cis.store.port import Store, stored_spec
from cis.store.records import RunChange, RunRecord

log = logging.getLogger(__name__)


def receive_claim(store: Store, received: ReceivedMessage, *, this_node: ThisNode) -> Outcome:
    """Grant the run to who claims it, if it is still on offer; the first claim in the room's order has it."""
    run_id, sender, claim = (
        received.message.run_id,
        received.message.sender,
        Claim.read(received.message.fields, sender=received.message.sender),
    )
    remote = store.remotes.get(run_id)
    if remote is None or remote.role is RemoteRole.RECEIVED:
        raise NotAllowedError(f"run {run_id!r} is not on offer by this node")
    if sender != this_node.node_id and EXECUTE not in received.peer.may:
        raise NotAllowedError(f"node {sender!r} may not {EXECUTE} here, and so takes nothing from here")
    if claim.nonce is None:
        log.warning("a claim has no nonce: its node has to be upgraded", extra={"run_id": run_id, "node": sender})
        return outcome(Result.LATER)
    if _was_granted(remote, claim, sender):
        _answer(store, remote, claim.nonce, this_node=this_node)
        return outcome(Result.ACCEPTED)
    if claim.epoch != remote.epoch:
        return outcome(Result.DUPLICATE)  # it is about an offer that is past
    return grant_to(store, remote, sender, nonce=claim.nonce, this_node=this_node)


def _was_granted(remote: RemoteRun, claim: Claim, sender: str) -> bool:
    """Whether a claim is a newer one of the node that was granted an older one, and has not sent a status since."""
    granted = remote.role is RemoteRole.SENT and remote.open and remote.peer_id == sender
    return granted and remote.epoch == claim.epoch + 1 and remote.applied_version == 0


def _answer(store: Store, remote: RemoteRun, nonce: str, *, this_node: ThisNode) -> None:
    """Say once more that a run is its holder's, in answer to its question, and count its lease from now."""
    run, now_us = store.runs.get(remote.run_id), this_node.clock_us()
    if run is None or run.status.final:
        return
    store.remotes.put(replace(remote, lease_until_us=now_us + remote.lease_us))
    grant = Grant(node_id=remote.peer_id, epoch=remote.epoch, lease_ms=remote.lease_us // 1000, nonce=nonce)
    post_grant(store.outbox, run, grant, now_us=now_us)


def grant_to(store: Store, remote: RemoteRun, node_id: str, *, nonce: str, this_node: ThisNode) -> Outcome:
    """Store the choice of *node_id*, and post the grant; nothing happens when the run is not on offer any more."""
    run = store.runs.get(remote.run_id)
    if run is None or remote.role is not RemoteRole.OFFERED or not remote.open:
        return outcome(Result.DUPLICATE)
    if run.status is not RunState.PENDING and run.status is not RunState.RUNNING:
        return outcome(Result.LATER)  # paused: it is claimed again once it is resumed
    now_us = this_node.clock_us()
    if run.cancel_requested:
        _end_cancelled(store, run, remote, now_us=now_us)
        return outcome(Result.DUPLICATE)
    mine = node_id == this_node.node_id
    epoch = remote.epoch + 1
    granted = replace(
        remote,
        role=RemoteRole.SENT,
        peer_id=node_id,
        epoch=epoch,
        lease_until_us=None,
        lease_us=round(this_node.lease_s * 1e6),
        applied_version=0,
    )
    store.remotes.put(replace(granted, open=not mine))
    run = move_run(store, run, RunChange(owner_node=node_id), at_us=now_us)
    store.outbox.remove_of_run(run.run_id, MessageKind.EXECUTE)
    store.offers.set_state(run.run_id, OfferState.CLOSED)  # this node's own view of it, as the grant is for others
    grant = Grant(node_id=node_id, epoch=epoch, lease_ms=granted.lease_us // 1000, nonce=nonce)
    post_grant(store.outbox, run, grant, now_us=now_us)
    if not mine:
        return outcome(Result.ACCEPTED)
    document = submitting.canonical_json(stored_spec(store.definitions, run.definition_id))
    submitting.enqueue(store.queue, run, document=document, this_node=this_node, now_us=now_us)
    return outcome(Result.ACCEPTED, rings=(run.worker_id,))


def grant_sent(remotes: Remotes, run_id: str, *, epoch: int, now_us: int) -> None:
    """Begin the lease of a grant: the homeserver has it now."""
    remote = remotes.get(run_id)
    if remote is not None and remote.epoch == epoch and remote.role is RemoteRole.SENT and remote.open:
        remotes.put(replace(remote, lease_until_us=now_us + remote.lease_us))


def receive_standing(store: Store, remote: RemoteRun, standing: Standing, *, this_node: ThisNode) -> None:
    """Renew the lease of a run's holder that asks for it; grant it anew to one that had to suspend it."""
    if remote.epoch == 0 or not remote.open:
        return
    now_us = this_node.clock_us()
    if not standing.suspended:
        if standing.nonce is not None:
            _answer(store, remote, standing.nonce, this_node=this_node)
        else:  # a node of before renews its lease by itself: what it says has to count here as well
            store.remotes.put(replace(remote, lease_until_us=now_us + remote.lease_us))
        return
    run = store.runs.get(remote.run_id)
    if run is None or run.status.final or store.restores.doubts(remote.run_id):
        return
    if run.cancel_requested:
        _end_cancelled(store, run, remote, now_us=now_us)
        return
    if standing.nonce is None:
        return  # its node was not upgraded, or did not ask this time
    if remote.suspended_us is not None and now_us - remote.suspended_us < remote.lease_us // 4:
        return  # it was granted anew a moment ago, in vain: let the lease end, and somebody else have it
    epoch = remote.epoch + 1
    store.remotes.put(replace(remote, epoch=epoch, lease_until_us=None, suspended_us=now_us))
    grant = Grant(node_id=remote.peer_id, epoch=epoch, lease_ms=remote.lease_us // 1000, nonce=standing.nonce)
    post_grant(store.outbox, run, grant, now_us=now_us)


def _end_cancelled(store: Store, run: RunRecord, remote: RemoteRun, *, now_us: int) -> None:
    """End a run that was to be cancelled and that no node executes any more; whoever still has it is told later."""
    store.remotes.put(replace(remote, open=False))
    store.outbox.remove_of_run(run.run_id, MessageKind.GRANT)
    end_cancelled(store, run, now_us=now_us)


class LeaseWatch:
    """The arbiter's deadlines. They are monotonic: setting a clock ends no lease, and a restart prolongs them."""

    def __init__(self) -> None:
        self._deadlines: dict[str, tuple[int, float]] = {}

    def over(self, remotes: Iterable[RemoteRun], *, now_s: float, synced_s: float) -> list[RemoteRun]:
        """Return those whose lease was over when the last sync that is dealt with began (*synced_s*)."""
        found, seen = [], {}
        for remote in remotes:
            if remote.lease_until_us is None:
                continue  # the homeserver does not have the grant yet
            known = self._deadlines.get(remote.run_id)
            if known is None or known[0] != remote.lease_until_us:
                known = (remote.lease_until_us, now_s + remote.lease_us / 1e6)
            seen[remote.run_id] = known
            if known[1] <= synced_s:
                found.append(remote)
        self._deadlines = seen
        return found


def take_back(store: Store, seen: RemoteRun, *, this_node: ThisNode, why: str = "its lease is over") -> bool:
    """Put a run back on offer, unless its grant is another one than *seen* by now; return whether it was."""
    remote, run = store.remotes.get(seen.run_id), store.runs.get(seen.run_id)
    if remote is None or run is None or run.status.final or remote.role is not RemoteRole.SENT or not remote.open:
        return False
    if (remote.epoch, remote.lease_until_us) != (seen.epoch, seen.lease_until_us):
        return False  # it was renewed, or granted anew
    facts = {"run_id": run.run_id, "node": remote.peer_id, "epoch": remote.epoch, "reason": why}
    log.warning("a run is taken back", extra=facts)
    store.outbox.remove_of_run(run.run_id, MessageKind.GRANT)
    if run.cancel_requested:
        _end_cancelled(store, run, remote, now_us=this_node.clock_us())
        return True
    # After a restore this node does not know which epochs it has given out since the backup.
    epoch = remote.epoch + (LEAP if store.restores.settle(run.run_id) else 0)
    store.remotes.put(replace(remote, role=RemoteRole.OFFERED, peer_id=EVERYONE, epoch=epoch, lease_until_us=None))
    move_run(store, run, RunChange(owner_node=this_node.node_id), at_us=this_node.clock_us())
    _post_offer(store.outbox, run, epoch=epoch, this_node=this_node)
    return True


def _post_offer(outbox: Outbox, run: RunRecord, *, epoch: int, this_node: ThisNode) -> None:
    now_us = this_node.clock_us()
    offer = room_item(
        kind=MessageKind.EXECUTE,
        message_id=f"{run.run_id}.execute.{epoch}",
        run_id=run.run_id,
        priority=run.priority,
        now_us=now_us,
        within_us=round(this_node.deliver_within_s * 1e6),
    )
    outbox.add(replace(offer, created_at_us=run.created_at_us))
