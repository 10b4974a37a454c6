"""An unaddressed DAG in the room has one arbiter, the node that offered it. This is the arbiter's side.

    offering node            room                       any node
    execute, no target  ───────────────────────────────>  eligible, a slot free, a short random wait
                        <───────────────────────────────  claim
    choice stored, then
    grant {node, epoch, lease}  ───────────────────────>  that node, and no other, executes it
                        <───────────────────────────────  status …: each one that the homeserver took renews the lease

**The lease** lets the arbiter give a run to somebody else when its holder is gone, and never to two at once. The holder
counts from the moment before it sent the last status that the homeserver took, less the time that it needs to end
tasks (its *margin*); its worker looks at that deadline itself and stops the run there, with or without a node
(``cis.engine.decide``). The arbiter counts from the moment at which that status came, which is later. It takes the run
back only when a sync that began after its deadline has come back, and all that it brought was dealt with: a status
that the homeserver took before is then known here. The room is one log on one homeserver (it is not federated), so
both see the same order.

What goes wrong, and what then holds:

- A claim or a grant is lost or late: claims are repeated while the offer is open; a grant is sent until the homeserver
  has it, and one that is older than its lease is not acted upon.
- The holder crashes: when it is back within the lease it goes on; else its run stays suspended until a new grant.
- The homeserver is gone for longer than a lease: every holder stops; the arbiter, once it has read up, grants anew,
  to the same node if that one is first to say that it is suspended.
- The arbiter dies: nothing new is granted; holders go on while the homeserver takes their status events.

A grant has an *epoch*; reports under an older one are refused. What the old holder completed and told is kept: the
next execute event says which tasks are done.

What the node on the right does is in ``cis.engine.grants``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace

from cis.engine import submit as submitting
from cis.engine.control import end_cancelled
from cis.engine.dispatch import EVERYONE, post_grant
from cis.engine.heard import EXECUTE, Heard, Outcome, outcome
from cis.engine.notices import run_event
from cis.engine.site import Site
from cis.errors import NotAllowedError
from cis.model.message import MessageKind, Result
from cis.model.states import RunState
from cis.store.cluster import OfferState, OutboxItem, RemoteRole, RemoteRun, Route
from cis.store.port import Store, stored_spec
from cis.store.records import RunChange, RunRecord

log = logging.getLogger(__name__)


def hear_claim(store: Store, heard: Heard, *, site: Site) -> Outcome:
    """Grant the run to who claims it, if it is still on offer; the first claim in the room's order has it."""
    run_id = heard.message.run_id
    remote = store.remote_run(run_id)
    if remote is None or remote.role is RemoteRole.RECEIVED:
        raise NotAllowedError(f"run {run_id!r} is not on offer by this node")
    if heard.message.sender != site.node_id and EXECUTE not in heard.peer.may:
        raise NotAllowedError(f"node {heard.message.sender!r} may not {EXECUTE} here, and so takes nothing from here")
    if heard.message.fields.get("epoch") != remote.epoch:
        return outcome(Result.DUPLICATE)  # it is about an offer that is past
    return grant_to(store, remote, heard.message.sender, site=site)


def grant_to(store: Store, remote: RemoteRun, node_id: str, *, site: Site) -> Outcome:
    """Store the choice of *node_id*, and post the grant; nothing happens when the run is not on offer any more."""
    run = store.run(remote.run_id)
    if run is None or remote.role is not RemoteRole.OFFERED or not remote.open:
        return outcome(Result.DUPLICATE)
    if run.status is not RunState.PENDING and run.status is not RunState.RUNNING:
        return outcome(Result.LATER)  # paused: it is claimed again once it is resumed
    now_us = site.clock_us()
    if run.cancel_requested:
        _end_cancelled(store, run, remote, now_us=now_us)
        return outcome(Result.DUPLICATE)
    mine = node_id == site.node_id
    epoch = remote.epoch + 1
    granted = replace(
        remote,
        role=RemoteRole.SENT,
        peer=node_id,
        epoch=epoch,
        lease_until_us=None,
        lease_us=round(site.lease_s * 1e6),
        heard_version=0,
    )
    store.put_remote(replace(granted, open=not mine))
    run = store.change_run(run, RunChange(owner_node=node_id))
    store.append_events([run_event(run, at_us=now_us)])
    store.unpost_run(run.run_id, MessageKind.EXECUTE)
    store.set_offer_state(run.run_id, OfferState.CLOSED)  # this node's own view of it, as the grant is for others
    post_grant(store, run, node_id=node_id, epoch=epoch, lease_us=granted.lease_us, now_us=now_us)
    if not mine:
        return outcome(Result.ACCEPTED)
    document = submitting.canonical_json(stored_spec(store, run.definition_id))
    submitting.enqueue(store, run, document=document, node_id=site.node_id, now_us=now_us)
    return outcome(Result.ACCEPTED, rings=(run.worker_id,))


def grant_sent(store: Store, run_id: str, *, epoch: int, now_us: int) -> None:
    """Begin the lease of a grant: the homeserver has it now."""
    remote = store.remote_run(run_id)
    if remote is not None and remote.epoch == epoch and remote.role is RemoteRole.SENT and remote.open:
        store.put_remote(replace(remote, lease_until_us=now_us + remote.lease_us))


def hear_from_holder(store: Store, remote: RemoteRun, *, suspended: bool, site: Site) -> None:
    """Renew the lease of a run's holder; grant it anew to one that had to suspend it."""
    if remote.epoch == 0 or not remote.open:
        return
    now_us = site.clock_us()
    if not suspended:
        store.put_remote(replace(remote, lease_until_us=now_us + remote.lease_us))
        return
    run = store.run(remote.run_id)
    if run is None or run.status.final:
        return
    if run.cancel_requested:
        _end_cancelled(store, run, remote, now_us=now_us)
        return
    if remote.suspended_us is not None and now_us - remote.suspended_us < remote.lease_us // 4:
        return  # it was granted anew a moment ago, in vain: let the lease end, and somebody else have it
    epoch = remote.epoch + 1
    store.put_remote(replace(remote, epoch=epoch, lease_until_us=None, suspended_us=now_us))
    post_grant(store, run, node_id=remote.peer, epoch=epoch, lease_us=remote.lease_us, now_us=now_us)


def _end_cancelled(store: Store, run: RunRecord, remote: RemoteRun, *, now_us: int) -> None:
    """End a run that was to be cancelled and that no node executes any more; who has it still is told when it is back."""
    store.put_remote(replace(remote, open=False))
    store.unpost_run(run.run_id, MessageKind.GRANT)
    end_cancelled(store, run, now_us=now_us)


class LeaseWatch:
    """The arbiter's deadlines. They are monotonic, so a clock that is set does not end a lease; a restart prolongs them."""

    def __init__(self) -> None:
        self._deadlines: dict[str, tuple[int, float]] = {}

    def over(self, remotes: Iterable[RemoteRun], *, now_s: float, synced_s: float) -> list[RemoteRun]:
        """Return those whose lease was over when the last sync began (*synced_s*) of which everything was dealt with."""
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


def take_back(store: Store, seen: RemoteRun, *, site: Site, why: str = "its lease is over") -> bool:
    """Put a run back on offer, unless its grant is another one than *seen* by now; return whether it was."""
    remote, run = store.remote_run(seen.run_id), store.run(seen.run_id)
    if remote is None or run is None or run.status.final or remote.role is not RemoteRole.SENT or not remote.open:
        return False
    if (remote.epoch, remote.lease_until_us) != (seen.epoch, seen.lease_until_us):
        return False  # it was renewed, or granted anew
    facts = {"run_id": run.run_id, "node": remote.peer, "epoch": remote.epoch, "reason": why}
    log.warning("a run is taken back", extra=facts)
    store.unpost_run(run.run_id, MessageKind.GRANT)
    if run.cancel_requested:
        _end_cancelled(store, run, remote, now_us=site.clock_us())
        return True
    store.put_remote(replace(remote, role=RemoteRole.OFFERED, peer=EVERYONE, lease_until_us=None))
    store.change_run(run, RunChange(owner_node=site.node_id))
    _offer_again(store, run, epoch=remote.epoch, site=site)
    return True


def _offer_again(store: Store, run: RunRecord, *, epoch: int, site: Site) -> None:
    now_us = site.clock_us()
    store.post(
        OutboxItem(
            message_id=f"{run.run_id}.execute.{epoch}",
            kind=MessageKind.EXECUTE,
            run_id=run.run_id,
            node_id=EVERYONE,
            route=Route.ROOM,
            priority=run.priority,
            created_at_us=run.created_at_us,
            expires_at_us=now_us + round(site.deliver_within_s * 1e6),
            due_at_us=now_us,
        )
    )
