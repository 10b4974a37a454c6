"""Where a run goes: this node's queue, a peer's, or the room; and what becomes of one that is on its way.

    target_node is this node, or there is no room   worker_queue of this node
    target_node is a peer with an address           outbox, by push; after a while by the room as well
    target_node is a peer without one               outbox, by the room
    none, and there is a room                       outbox, as an offer to everyone (``cis.federation.origin.arbiter``)

The outbox row is written in the transaction of the run itself: what was accepted is sent, whatever crashes. A run that
another node executes has a row in ``remote_runs``; its tasks are a mirror (``cis.federation.origin.mirror``). A message
may arrive twice, by two ways, or when its answer was lost: the receiver knows a run by its id.

An item whose time is over fails its run when it cannot have arrived. When it may have, the peer is asked, for as long
as it takes: only that node knows whether the run is being executed (``cis.federation.origin.status``).

A cancel goes before its run: a node that hears it first refuses the run, which then never begins. A pause comes after
it, or there would be nothing to pause.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cis.engine.this_node import ThisNode
from cis.engine.transitions import cancel_unfinished, move_run
from cis.errors import NodeUnreachableError, UnknownNodeError
from cis.model.dag import DagSpec, Json
from cis.model.lease_terms import Grant
from cis.model.message import CANCEL_TASKS, TASKS, MessageKind
from cis.model.states import Priority, RunState
from cis.store.cluster import EVERYONE, OfferState, OutboxItem, PeerRecord, RemoteRole, RemoteRun, Route, room_item
from cis.store.cluster_port import Outbox, Peers
from cis.store.port import Store
from cis.store.records import Delivery, RunChange, RunRecord

SENDING_S = 60.0  # an item whose sender vanished is due again after so long; a sender that is there knows what it sends
CONTROL_FOR_S = 30 * 86400.0  # a cancel has no hurry to be forgotten: the run may come back with its node


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a run goes; no peer and no room: here."""

    peer: PeerRecord | None = None
    to_room: bool = False

    @property
    def here(self) -> bool:
        """Whether this node executes it."""
        return self.peer is None and not self.to_room

    @property
    def delivery(self) -> Delivery:
        """How a run is marked when it sets out."""
        if self.here:
            return Delivery.LOCAL
        return Delivery.BROADCAST if self.to_room else Delivery.QUEUED


HERE = Destination()


def choose(peers: Peers, spec: DagSpec, *, this_node: ThisNode, nested: bool) -> Destination:
    """Return where a DAG goes. A nested one that names no node stays with its parent.

    Raises:
        UnknownNodeError: ``target_node`` is neither this node nor one that is trusted.
        NodeUnreachableError: there is no way to it.
    """
    wanted = spec.target_node
    if wanted is None:
        return Destination(to_room=True) if this_node.offers and not nested else HERE
    if wanted == this_node.node_id:
        return HERE
    peer = peers.get(wanted)
    if peer is None:
        known = [this_node.node_id, *(each.node_id for each in peers.all())]
        raise UnknownNodeError(wanted, known=known)
    if _route(peer, this_node) is None:
        raise NodeUnreachableError(
            f"there is no way to node {wanted!r}: give it an address ('cis node trust … --url'), or a room"
        )
    return Destination(peer)


def post_run(store: Store, run: RunRecord, destination: Destination, *, spec: DagSpec, this_node: ThisNode) -> None:
    """Put a run that another node executes into the outbox, in the transaction that stores it."""
    within_s = this_node.deliver_within_s if spec.expires_s is None else spec.expires_s
    peer = destination.peer
    route = Route.ROOM if peer is None else _route(peer, this_node) or Route.PUSH
    role = RemoteRole.OFFERED if peer is None else RemoteRole.SENT
    store.remotes.put(RemoteRun(run_id=run.run_id, role=role, peer_id=peer.node_id if peer else EVERYONE))
    store.outbox.add(
        OutboxItem(
            message_id=this_node.new_id(),
            kind=MessageKind.EXECUTE,
            run_id=run.run_id,
            node_id=peer.node_id if peer else EVERYONE,
            route=route,
            priority=run.priority,
            created_at_us=run.created_at_us,
            expires_at_us=run.created_at_us + round(within_s * 1e6),
            due_at_us=run.created_at_us,
        )
    )


def close_offer(store: Store, run: RunRecord, remote: RemoteRun, *, now_us: int) -> None:
    """Tell the room that a run is on offer no more: a grant to nobody, under an epoch of its own."""
    store.offers.set_state(run.run_id, OfferState.CLOSED)
    if remote.role is RemoteRole.OFFERED and remote.event_id is not None:
        post_grant(
            store.outbox, run, Grant(node_id=EVERYONE, epoch=remote.epoch + 1, lease_ms=0, nonce=None), now_us=now_us
        )


def post_grant(outbox: Outbox, run: RunRecord, grant: Grant, *, now_us: int) -> None:
    """Post who may execute a run, under which epoch, and for how long; what was to be said before is said no more."""
    outbox.remove_of_run(run.run_id, MessageKind.GRANT)
    answers = f".{grant.nonce}" if grant.nonce else ""
    outbox.add(
        room_item(
            kind=MessageKind.GRANT,
            message_id=f"{run.run_id}.grant.{grant.epoch}{answers}",
            run_id=run.run_id,
            priority=Priority.CRITICAL,
            now_us=now_us,
            within_us=round(CONTROL_FOR_S * 1e6),
            fields=grant.fields(),
        )
    )


def mark_sending(store: Store, run: RunRecord, *, now_us: int) -> None:
    """Mark the messages of a new run as being sent: whoever stored it sends them itself, at once.

    Not where the peer did not answer last time: then they wait for their turn.
    """
    peer = store.peers.get(run.owner_node) if run.delivery is Delivery.QUEUED else None
    if peer is not None and peer.fault is None:
        items = [item for item in store.outbox.of_run(run.run_id) if item.route is Route.PUSH]
        store.outbox.begin_sending([item.message_id for item in items], due_at_us=now_us + round(SENDING_S * 1e6))


def _route(peer: PeerRecord, this_node: ThisNode) -> Route | None:
    if peer.url is not None:
        return Route.PUSH
    return Route.ROOM if this_node.has_room and peer.matrix_user is not None else None


def also_by_room(store: Store, item: OutboxItem, *, message_id: str, now_us: int) -> bool:
    """Send what a push has not delivered for long through the room as well; return whether that is new."""
    others = store.outbox.of_run(item.run_id)
    if any(other.route is Route.ROOM and other.kind == item.kind for other in others):
        return False
    remote = store.remotes.get(item.run_id)
    if item.kind == MessageKind.EXECUTE and remote is not None and remote.event_id is not None:
        return False  # the room has it already
    store.outbox.add(replace(item, message_id=message_id, route=Route.ROOM, attempts=0, due_at_us=now_us, fault=None))
    return True


def delivered(store: Store, run_id: str, *, now_us: int, errexit: bool = True) -> RunRecord | None:
    """Record that the peer has taken a run on, and whether with *errexit*; return the run unless it is gone."""
    store.outbox.remove_of_run(run_id, MessageKind.EXECUTE)
    run = store.runs.get(run_id)
    if run is not None and run.errexit and not errexit:
        remote = store.remotes.get(run_id)
        if remote is not None:
            store.remotes.put(replace(remote, ignores_errexit=True))
    if run is None or run.status.final or run.delivery is not Delivery.QUEUED:
        return run
    return move_run(store, run, RunChange(delivery=Delivery.PUSHED), at_us=now_us)


def undeliverable(store: Store, run_id: str, *, error: str, now_us: int) -> RunRecord | None:
    """End a run that no node will execute: failed, or cancelled when that was asked for.

    Return the run unless it is gone. Harmless for one that is over.
    """
    for kind in (MessageKind.EXECUTE, MessageKind.CONTROL, MessageKind.ASK):
        store.outbox.remove_of_run(run_id, kind)
    run = store.runs.get(run_id)
    if run is None or run.status.final:
        return run
    cancel_unfinished(store.tasks, run_id, at_us=now_us)
    status = RunState.CANCELLED if run.cancel_requested else RunState.FAILED
    change = RunChange(status=status, finished_at_us=max(now_us, run.started_at_us or 0), error=error)
    run = move_run(store, run, change, at_us=now_us)
    remote = store.remotes.get(run_id)
    if remote is not None:
        close_offer(store, run, remote, now_us=now_us)
        store.remotes.put(replace(remote, open=False))
    return run


def on_its_way(store: Store, run_id: str) -> str | None:
    """Return what keeps a run from the node that is to execute it; empty once it is there, None if it is this one."""
    remote = store.remotes.get(run_id)
    if remote is None or not remote.open or remote.role is RemoteRole.RECEIVED:
        return None
    items = [item for item in store.outbox.of_run(run_id) if item.kind == MessageKind.EXECUTE]
    if remote.role is RemoteRole.OFFERED:
        return "is on offer in the room" if remote.event_id else f"waits to be offered in the room{_tries(items)}"
    if items:
        return f"is on its way to node {remote.peer_id}{_tries(items)}"
    return "" if remote.applied_version else f"waits for word of node {remote.peer_id}"


def _tries(items: Sequence[OutboxItem]) -> str:
    attempts, faults = sum(item.attempts for item in items), [item.fault for item in items if item.fault]
    return f" ({_counted(attempts)}; the last time: {faults[-1]})" if faults else ""


def _counted(attempts: int) -> str:
    return "1 try" if attempts == 1 else f"{attempts} tries"


def expire(store: Store, items: Sequence[OutboxItem], *, now_us: int) -> list[RunRecord]:
    """Give up *items*, whose time is over; return the runs that failed with them."""
    ended = []
    for item in items:
        store.outbox.remove(item.message_id)
        others = store.outbox.of_run(item.run_id)
        if item.kind != MessageKind.EXECUTE or any(other.kind == MessageKind.EXECUTE for other in others):
            continue
        if item.uncertain:
            _await_word(store, item.run_id, now_us=now_us)
            continue
        run = undeliverable(store, item.run_id, error=_too_late(item), now_us=now_us)
        if run is not None:
            ended.append(run)
    return ended


def not_cancelled(store: Store, run_id: str, *, now_us: int) -> None:
    """Record that the node that executes a run refused to cancel it: it goes on."""
    run = store.runs.get(run_id)
    if run is not None and run.cancel_requested and not run.status.final:
        move_run(store, run, RunChange(cancel_requested=False), at_us=now_us)


def _await_word(store: Store, run_id: str, *, now_us: int) -> None:
    """Take a run that may have arrived for one that has: its node is asked from now on."""
    run = store.runs.get(run_id)
    if run is not None and not run.status.final and run.delivery is Delivery.QUEUED:
        move_run(store, run, RunChange(delivery=Delivery.PUSHED), at_us=now_us)


def _too_late(item: OutboxItem) -> str:
    whom = f"node {item.node_id}" if item.node_id else "a node that takes it"
    last = f"; the last time: {item.fault}" if item.fault else ""
    return f"expired: {whom} was not reached in time ({_counted(item.attempts)}{last})"


def goes_before(outbox: Outbox, item: OutboxItem) -> OutboxItem | None:
    """Return the message about the same run that has to arrive before *item*, if it is still in the outbox."""
    if item.kind not in (MessageKind.EXECUTE, MessageKind.CONTROL):
        return None
    cancels = item.fields.get("action") == "cancel"
    for other in outbox.of_run(item.run_id):
        if other.route is not item.route or other.node_id != item.node_id:
            continue
        if item.kind == MessageKind.EXECUTE and other.fields.get("action") == "cancel":
            return other
        if item.kind == MessageKind.CONTROL and other.kind == MessageKind.EXECUTE and not cancels:
            return other
    return None


def post_control(store: Store, run: RunRecord, action: str | None, *, now_us: int) -> None:
    """Ask the node that executes a run to *action*: cancel, pause or resume it; the last asked is what counts.

    None: only to cancel the tasks for which that was asked, which every such message names.
    """
    remote = store.remotes.get(run.run_id)
    if remote is None:
        return
    remote = replace(remote, control_seq=remote.control_seq + 1)
    store.remotes.put(remote)
    waiting = [item for item in store.outbox.of_run(run.run_id) if item.kind == MessageKind.CONTROL]
    store.outbox.remove_of_run(run.run_id, MessageKind.CONTROL)
    if action is None:
        action = str(waiting[-1].fields["action"]) if waiting else CANCEL_TASKS
    fields: dict[str, Json] = {"action": action, "seq": remote.control_seq}
    asked = store.tasks.asked_to_cancel(run.run_id)
    if asked:
        fields[TASKS] = list(asked)
    peer = store.peers.get(remote.peer_id)
    store.outbox.add(
        OutboxItem(
            message_id=f"{run.run_id}.control.{remote.control_seq}",
            kind=MessageKind.CONTROL,
            run_id=run.run_id,
            node_id=remote.peer_id,
            route=Route.PUSH if peer is not None and peer.url is not None else Route.ROOM,
            priority=run.priority,
            created_at_us=now_us,
            expires_at_us=now_us + round(CONTROL_FOR_S * 1e6),
            due_at_us=now_us,
            fields=fields,
        )
    )
