"""A node or home that comes back from a copy does not do again what was done since the copy was made.

**A backup.** What the database has forgotten, others may know. So when a backup is put in place (``mark_restored``),
before the node starts:

    a run accepted and executed here           is held: paused, until somebody resumes or cancels it
    one that another node handed in            is held, and that node is asked; it says resume, or cancel
    one that the room granted to this node     is let go: its arbiter grants it anew when the lease is over
    one that this node offered in the room     is neither granted nor taken back for a lease; by then the room was read
                                               up, and whoever says that it holds the run is believed; else a new offer
    one that this node handed to another       is told of by that node, which knows it by its id

An execute message that was made before the restore, of a run that is not known here, may be one that was acted upon:
read again in the room, or repeated by somebody on the network. It is answered with a *question*, a nonce; the origin
sends the run once more, with that nonce, if it has heard nothing of the run's having begun. What is typed in the room
(``!dag``) is passed over when it is older than the restore.

What no other node knows, nobody can find out: a run that began here after the backup, for an origin that never heard of
it, is done again.

**The copy of a home** (``disown``) is another node, and the queue that came along is not its own: it does nothing of
it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from cis.engine.accept.dispatch import post_control, undeliverable
from cis.engine.lookup import look_up_run
from cis.engine.this_node import ThisNode
from cis.engine.transitions import move_run, set_aside
from cis.errors import MalformedMessageError
from cis.federation.messages import Outcome, ReceivedMessage, outcome, remember_ask
from cis.model.dag import Json
from cis.model.ids import id_fault
from cis.model.message import CONFIRMS, Fields, Message, MessageKind, Reply, Result
from cis.model.states import Priority, RunState
from cis.store.cluster import EVERYONE, OutboxItem, PeerRecord, RemoteRole, RemoteRun, Route
from cis.store.cluster_port import Offers, Outbox
from cis.store.port import Store
from cis.store.records import RunChange, RunFilter, RunRecord
from cis.store.upkeep_port import RestoreRecord, Restores

UNCONFIRMED = "run.unconfirmed"
CONFIRM, RESTORED = "confirm", "restored"
LEAP = 1_000_000  # numbers that were given out since the backup are passed over: epochs of grants, controls of a run
SLACK_US = 120_000_000
QUESTIONS_KEPT = 4
AT_ONCE = 200
_ASK_FOR_US = 30 * 86_400_000_000
_UNFINISHED = (RunState.PENDING, RunState.RUNNING, RunState.PAUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What became of the runs that were not over in a backup: how many are held, asked about, let go, or offers."""

    known_until_us: int
    held: int
    asked: int
    let_go: int
    offers: int


class _Had(NamedTuple):
    """What a backup has of a run: the row's version, those of its tasks together, and whether it was paused."""

    version: int
    steps: int
    paused: bool

    @classmethod
    def read(cls, told: Json) -> _Had:
        said = Fields(told, RESTORED)
        return cls(said.number("version"), said.number("steps"), said.flag("paused"))


def mark_restored(store: Store, *, node_id: str, lease_s: float, now_us: int) -> Restored:
    """Note in a backup that it is put in place now, and hold what may be over. Nothing uses it yet."""
    record = store.restores.begin(now_us=now_us)
    count: Counter[str] = Counter()
    for status in _UNFINISHED:
        cursor = None
        while True:
            page = store.runs.page(RunFilter(status=status), limit=AT_ONCE, cursor=cursor)
            for run in page.items:
                if not store.restores.doubts(run.run_id):
                    count[_mark(store, run, node_id=node_id, lease_s=lease_s, now_us=now_us)] += 1
            cursor = page.next_cursor
            if cursor is None:
                break
    return Restored(
        known_until_us=record.known_until_us,
        held=count["held"],
        asked=count["asked"],
        let_go=count["let go"],
        offers=count["offer"],
    )


def _mark(store: Store, run: RunRecord, *, node_id: str, lease_s: float, now_us: int) -> str:
    remote = store.remotes.get(run.run_id)
    if remote is not None and remote.role is RemoteRole.RECEIVED and remote.epoch:
        _let_go(store, run, remote, now_us=now_us)
        return "let go"
    if remote is not None and remote.role is not RemoteRole.RECEIVED and remote.open:
        remote = replace(remote, control_seq=remote.control_seq + LEAP)
        store.remotes.put(remote)
        if remote.role is RemoteRole.SENT and not remote.epoch:
            return "sent"
        _hold_offer(store, remote, lease_s=lease_s, now_us=now_us)
        return "offer"
    store.restores.doubt(run.run_id)
    paused = run.status is RunState.PAUSED
    if not paused:
        move_run(store, run, RunChange(status=RunState.PAUSED), at_us=now_us)
    if remote is None or run.node_id == node_id:
        return "held"
    steps = sum(task.version for task in store.tasks.of_run(run.run_id))
    told: dict[str, Json] = {"version": run.version, "steps": steps, "paused": paused}
    fields: dict[str, Json] = {"state": "paused", "epoch": 0, RESTORED: told}
    _post_question(
        store.outbox,
        run.run_id,
        store.peers.get(remote.peer_id),
        fields,
        message_id=f"{run.run_id}.restored",
        now_us=now_us,
    )
    return "asked"


def _let_go(store: Store, run: RunRecord, remote: RemoteRun, *, now_us: int) -> None:
    """End a leased run here, without a word: its arbiter gives it to somebody when the lease is over."""
    error = "this node was restored from a backup; the run is its arbiter's to grant anew"
    store.remotes.put(replace(remote, open=False))
    for one in (run, *store.runs.children(run.run_id)):
        if not one.status.final:
            _cancel(store, one, error=error, now_us=now_us)


def _cancel(store: Store, run: RunRecord, *, error: str, now_us: int) -> None:
    set_aside(store, run.run_id, error=error, at_us=now_us, worker_id=run.worker_id, status=RunState.CANCELLED)


def _hold_offer(store: Store, remote: RemoteRun, *, lease_s: float, now_us: int) -> None:
    lease_us = remote.lease_us or round(lease_s * 1e6)
    for kind in (MessageKind.EXECUTE, MessageKind.GRANT):
        store.outbox.remove_of_run(remote.run_id, kind)
    store.restores.doubt(remote.run_id)
    store.remotes.put(replace(remote, role=RemoteRole.SENT, lease_us=lease_us, lease_until_us=now_us + lease_us))


# The restored node's side: what comes to it.


def ask_for(store: Store, received: ReceivedMessage, *, this_node: ThisNode) -> Outcome | None:
    """Return the answer to an execute message that may have been acted upon before the restore; None: act on it."""
    message, record = received.message, store.restores.last()
    if (
        record is None
        or _is_confirmed(store.offers, message, this_node=this_node)
        or _is_newer(received.peer, message, record)
    ):
        return None
    nonce = remember_ask(store.offers, message.run_id, keep=QUESTIONS_KEPT, this_node=this_node).nonce
    if received.event_id is not None:
        fields: dict[str, Json] = {"state": "unconfirmed", "epoch": 0, CONFIRM: nonce}
        peer, now_us = received.peer, this_node.clock_us()
        _post_question(store.outbox, message.run_id, peer, fields, message_id=this_node.new_id(), now_us=now_us)
        return outcome(Result.DUPLICATE)
    detail = f"node {this_node.node_id} was restored from a backup since: it asks whether this run is still to be done"
    return Outcome(reply=Reply(result=Result.LATER, code=UNCONFIRMED, detail=detail, fields={CONFIRM: nonce}))


def is_past(restores: Restores, sent_at_us: int) -> bool:
    """Whether what was typed in the room at a time may have been acted upon before the restore."""
    record = restores.last()
    return record is not None and sent_at_us <= record.restored_at_us


def _is_confirmed(offers: Offers, message: Message, *, this_node: ThisNode) -> bool:
    nonce = message.fields.get(CONFIRMS)
    ask = offers.ask(message.run_id, nonce) if isinstance(nonce, str) else None
    return ask is not None and ask.boot_id == this_node.boot_id


def _is_newer(peer: PeerRecord, message: Message, record: RestoreRecord) -> bool:
    """Whether a message was made after the restore, by the clock of its sender as far as that is known."""
    if peer.clock_ahead_us is None:
        return False
    return message.created_at_us - peer.clock_ahead_us > record.restored_at_us + SLACK_US


def _post_question(
    outbox: Outbox, run_id: str, peer: PeerRecord | None, fields: Mapping[str, Json], *, message_id: str, now_us: int
) -> None:
    if peer is None:
        return  # not trusted any more: nobody is asked, and the run waits for a person
    outbox.add(
        OutboxItem(
            message_id=message_id,
            kind=MessageKind.STATUS,
            run_id=run_id,
            node_id=peer.node_id or EVERYONE,
            route=Route.PUSH if peer.url is not None else Route.ROOM,
            priority=Priority.NORMAL,
            created_at_us=now_us,
            expires_at_us=now_us + _ASK_FOR_US,
            due_at_us=now_us,
            fields=fields,
        )
    )


# The side of the node that accepted the run.


def receive_question(
    store: Store, received: ReceivedMessage, remote: RemoteRun, *, this_node: ThisNode
) -> Outcome | None:
    """Answer what a restored node asks about a run that it was sent; None when a status message asks nothing."""
    fields, now_us = received.message.fields, this_node.clock_us()
    if CONFIRM in fields:
        confirm(store, remote.run_id, fields[CONFIRM], message_id=this_node.new_id(), this_node=this_node)
        return outcome(Result.ACCEPTED)
    told = fields.get(RESTORED)
    if told is None:
        return None
    had = _Had.read(told)
    run = look_up_run(store.runs, remote.run_id)
    # One version more than what it had: that it holds the run since.
    went_on = remote.applied_version > had.version + 1
    went_on = went_on or sum(task.version for task in store.tasks.of_run(run.run_id)) > had.steps
    if run.status.final or went_on:
        error = f"node {remote.peer_id} was restored from a backup of before it did this: 'cis dag rerun --from-failed' goes on"
        undeliverable(store, run.run_id, error=error, now_us=now_us)
        post_control(store, run, "cancel", now_us=now_us)
    elif not had.paused and not _is_to_be_paused(store.outbox, run.run_id):
        post_control(store, run, "resume", now_us=now_us)
    return outcome(Result.ACCEPTED)


def confirm(store: Store, run_id: str, nonce: Json, *, message_id: str, this_node: ThisNode) -> None:
    """Send a run once more, in answer to a restored node, unless something was heard of its having begun there."""
    if not isinstance(nonce, str) or id_fault(nonce):
        raise MalformedMessageError(f"{CONFIRM} is not an id")
    run, remote = store.runs.get(run_id), store.remotes.get(run_id)
    is_sent = remote is not None and remote.role is RemoteRole.SENT and remote.open and not remote.epoch
    if run is None or run.status.final or remote is None or not is_sent or remote.applied_version:
        return
    now_us = this_node.clock_us()
    for item in store.outbox.of_run(run_id):
        if item.kind == MessageKind.EXECUTE:
            store.outbox.remove(item.message_id)
            again = replace(item, message_id=message_id, due_at_us=now_us, fields={**item.fields, CONFIRMS: nonce})
            store.outbox.add(again)
            return


def _is_to_be_paused(outbox: Outbox, run_id: str) -> bool:
    return any(
        item.kind == MessageKind.CONTROL and item.fields.get("action") in ("pause", "cancel")
        for item in outbox.of_run(run_id)
    )


def adopted(restores: Restores, received: ReceivedMessage, remote: RemoteRun) -> RemoteRun | None:
    """Return a run's holder as a trusted node says it is, where this node has forgotten to whom it granted what.

    Whoever was granted it last has the highest epoch; the room is read in its order, so that one counts in the end.
    """
    message, epoch = received.message, received.message.fields.get("epoch")
    if remote.role is not RemoteRole.SENT or not remote.open or "execute" not in received.peer.may:
        return None
    if not isinstance(epoch, int) or isinstance(epoch, bool) or not max(1, remote.epoch) <= epoch < 2**31 - LEAP:
        return None
    if not restores.doubts(message.run_id):
        return None
    same = (remote.peer_id, remote.epoch) == (message.sender, epoch)
    return remote if same else replace(remote, peer_id=message.sender, epoch=epoch, applied_version=0)


def disown(store: Store, *, reason: str, now_us: int) -> int:
    """Close every run that is not over, without a word to anybody, and forget what waits to be sent; return how many.

    Runs, tasks and attempts become ``cancelled``, ``cancelled`` and ``lost``; a few hundred runs in each transaction.
    """
    closed = 0
    for status in _UNFINISHED:
        while runs := store.runs.page(RunFilter(status=status), limit=AT_ONCE).items:
            with store.transaction():
                for run in runs:
                    _cancel(store, run, error=reason, now_us=now_us)
            closed += len(runs)
    with store.transaction():
        store.restores.forget_queue()
    return closed
