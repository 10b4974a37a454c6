"""What a message of another node does here: the same for those that were pushed and those that the room brought.

Whoever calls this has checked the signature; here it is asked whether that node may do that. Each function runs inside
the caller's transaction, which also holds the note that the message was dealt with, so each is acted upon once.
Messages come doubled and in any order:

- A run is known by its id. One that comes again is answered with how it stands, whatever became of it; one that was
  pruned meanwhile is refused for as long as the message that brought it is not expired, and that long after.
- Controls of a run are numbered by its origin; one that is older than the last that was acted upon does nothing. A
  cancel that overtakes its run is remembered, and the run refused when it comes.
- A report is only taken from the node that holds the run, under the grant that it holds it by, and merges row by row
  (``cis.federation.mirror``).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace

from cis.engine.accept import control
from cis.engine.accept.dispatch import delivered, undeliverable
from cis.engine.accept.submit import canonical_json
from cis.engine.logfiles import LogFiles
from cis.engine.this_node import ThisNode
from cis.errors import (
    CisError,
    IllegalStateError,
    MalformedMessageError,
    MessageRefusedError,
    OverloadedError,
    PoisonRecordError,
    StoreError,
)
from cis.federation import grants, offers, restored
from cis.federation.messages import RequestedRun
from cis.federation.mirror import apply_report
from cis.federation.received import CONTROL, EXECUTE, READ, Outcome, ReceivedMessage, outcome, take_on
from cis.model.dag import Json
from cis.model.message import MessageKind, Reply, Result, Standing
from cis.store.cluster import OutboxItem, PeerRecord, RemoteRole, RemoteRun, Route
from cis.store.cluster_port import Peers, Remotes
from cis.store.port import Store
from cis.store.records import AuditRecord, RunRecord
from cis.store.run_port import Definitions, Runs
from cis.store.upkeep_port import Audit

log = logging.getLogger(__name__)

_NEEDED = {MessageKind.EXECUTE: EXECUTE, MessageKind.CONTROL: CONTROL, MessageKind.ASK: READ}
_ACTIONS: dict[str, Callable[..., RunRecord]] = {
    "cancel": control.cancel,
    "pause": control.pause,
    "resume": control.resume,
}
MAX_DETAIL = 2000
MAX_WITHDRAWN = 10_000
INCOMPLETE = "report.incomplete"
ASK_FOR_US = 3_600_000_000
MAX_CLOCK_US = 366 * 86_400_000_000


def receive(store: Store, received: ReceivedMessage, *, this_node: ThisNode, logfiles: LogFiles) -> Outcome:
    """Act on a message, and say what came of it. A refusal is written into the audit log.

    Raises:
        StoreError: the database failed; the message is to come again.
    """
    try:
        received = _as_trusted_now(store.peers, received, this_node=this_node)
        check_allowed(store, received, this_node=this_node)
        with store.savepoint():
            return _act(store, received, this_node=this_node, logfiles=logfiles)
    except OverloadedError as error:
        return Outcome(reply=Reply(result=Result.LATER, code=error.code, detail=str(error)))
    except CisError as error:
        if isinstance(error, StoreError) and not isinstance(error, PoisonRecordError):
            raise
        return refuse(store.audit, received, error, now_us=this_node.clock_us())


def refuse(audit: Audit, received: ReceivedMessage, error: CisError, *, now_us: int) -> Outcome:
    """Refuse a message for good: say so in the log and in the audit log, and return the answer."""
    message, detail = received.message, str(error)[:MAX_DETAIL]
    kind = message.kind.rpartition(".")[2]
    log.warning("a message was refused", extra={"kind": kind, "sender": message.sender, "reason": detail})
    audit.append(
        AuditRecord(
            at_us=now_us,
            actor=f"node:{received.peer.node_id}",
            action=f"refused.{kind}",
            subject=f"{message.run_id or message.message_id} ({error.code})",
            source=received.source,
        )
    )
    return Outcome(reply=Reply(result=Result.REFUSED, code=error.code, detail=detail))


def sender_now_us(peer: PeerRecord, *, now_us: int) -> int:
    """Return the time by a peer's clock, as far as its difference is known."""
    ahead_us = peer.clock_ahead_us or 0
    return now_us + max(-MAX_CLOCK_US, min(MAX_CLOCK_US, ahead_us))


def _as_trusted_now(peers: Peers, received: ReceivedMessage, *, this_node: ThisNode) -> ReceivedMessage:
    """Return a message with what its sender may do now: what travels beside it may have taken minutes to come."""
    if received.peer.node_id == this_node.node_id:
        return received
    peer = peers.get(received.peer.node_id)
    if peer is None:
        raise MessageRefusedError("message.untrusted", f"node {received.peer.node_id!r} is not trusted any more")
    return replace(received, peer=peer)


def check_allowed(store: Store, received: ReceivedMessage, *, this_node: ThisNode) -> None:
    """Raise MessageRefusedError unless its sender may say this here, now; it is cheap, and comes before all else.

    A run that was taken on before is known whatever has become of its time and its sender's rights since.
    """
    message, peer = received.message, received.peer
    if message.target is not None and message.target != this_node.node_id:
        raise MessageRefusedError("message.misaddressed", f"this is node {this_node.node_id!r}, not {message.target!r}")
    if message.kind is MessageKind.STATUS:
        _held_run(store, received)
    if message.kind is MessageKind.EXECUTE and message.target is not None:
        known = store.runs.get(message.run_id)
        if known is not None and known.node_id == message.sender:
            return
    needed = _NEEDED.get(message.kind)
    if needed is not None and needed not in peer.may:
        raise MessageRefusedError("auth.forbidden", f"node {peer.node_id!r} may not {needed} here")
    if message.expires_at_us <= sender_now_us(peer, now_us=this_node.clock_us()):
        raise MessageRefusedError("message.expired", "expired: it came too late to be acted upon")


def _held_run(store: Store, received: ReceivedMessage) -> RemoteRun:
    """Return the other node's part in the run that a status message is about, which has to be its sender's."""
    message = received.message
    remote = store.remotes.get(message.run_id)
    known = restored.adopted(store.restores, received, remote) if remote is not None else None
    if known is not None:
        return known
    held = remote is not None and remote.role is RemoteRole.SENT and remote.peer == message.sender
    if remote is None or not held or message.fields.get("epoch") != remote.epoch:
        raise MessageRefusedError("auth.forbidden", f"node {message.sender!r} does not hold run {message.run_id!r}")
    return remote


def _act(store: Store, received: ReceivedMessage, *, this_node: ThisNode, logfiles: LogFiles) -> Outcome:
    match received.message.kind:
        case MessageKind.EXECUTE if received.message.target is None:
            return grants.see_offer(store, received, this_node=this_node)
        case MessageKind.EXECUTE:
            return _execute(store, received, this_node=this_node)
        case MessageKind.CONTROL:
            return _control(store, received, this_node=this_node)
        case MessageKind.STATUS:
            return _status(store, received, this_node=this_node, logfiles=logfiles)
        case MessageKind.CLAIM:
            return offers.receive_claim(store, received, this_node=this_node)
        case MessageKind.GRANT:
            return grants.receive_grant(store, received, this_node=this_node)
        case MessageKind.ASK:
            return _ask(store.remotes, received)
        case MessageKind.PING:
            return outcome(Result.ACCEPTED)
        case _:
            raise MalformedMessageError(f"{received.message.kind} is no message to this node")


def _execute(store: Store, received: ReceivedMessage, *, this_node: ThisNode) -> Outcome:
    message = received.message
    if received.requested is None or not message.run_id:
        raise MalformedMessageError("an execute message needs a run_id and a DAG")
    known = store.runs.get(message.run_id)
    if known is not None:
        return _known(store.definitions, known, received.requested, sender=message.sender)
    if store.remotes.withdrawn(message.run_id, sender=message.sender):
        raise MessageRefusedError("run.withdrawn", "it was cancelled before it came, or is forgotten")
    question = restored.ask_for(store, received, this_node=this_node)
    if question is not None:
        return question
    run = take_on(store, received, received.requested, this_node=this_node)
    return outcome(Result.ACCEPTED, rings=(run.worker_id,), status=str(run.status))


def _known(definitions: Definitions, run: RunRecord, requested: RequestedRun, *, sender: str) -> Outcome:
    definition = definitions.get(run.definition_id)
    digest = hashlib.sha256(canonical_json(requested.spec).encode()).hexdigest()
    if run.node_id != sender or definition is None or definition.sha256 != digest:
        raise MessageRefusedError("run.known", f"run {run.run_id} is known here as another one; run ids are used once")
    detail = f"run {run.run_id} came before; it is {run.status}"
    return Outcome(reply=Reply(result=Result.DUPLICATE, detail=detail, fields={"status": str(run.status)}))


def _control(store: Store, received: ReceivedMessage, *, this_node: ThisNode) -> Outcome:
    message = received.message
    action, seq = message.fields.get("action"), message.fields.get("seq")
    if not isinstance(action, str) or action not in _ACTIONS or not isinstance(seq, int) or isinstance(seq, bool):
        raise MalformedMessageError(f"a control message needs a number seq and an action: {', '.join(_ACTIONS)}")
    remote = store.remotes.get(message.run_id)
    if remote is None:
        if action == "cancel" and store.runs.get(message.run_id) is None:
            known = store.remotes.withdrawn(message.run_id, sender=message.sender)
            if not known and store.remotes.withdrawal_count(message.sender, at_most=MAX_WITHDRAWN) >= MAX_WITHDRAWN:
                what = f"{MAX_WITHDRAWN:,} runs of node {message.sender!r} are remembered as gone or withdrawn"
                raise OverloadedError(what, retry_after_s=60)
            store.remotes.withdraw(message.run_id, sender=message.sender, expires_at_us=message.expires_at_us)
            return outcome(Result.ACCEPTED, withdrawn=True)
        raise MessageRefusedError("not_found", f"no run {message.run_id!r} of node {message.sender!r}")
    if remote.role is not RemoteRole.RECEIVED or remote.peer != message.sender:
        raise MessageRefusedError("auth.forbidden", f"run {message.run_id} is not node {message.sender!r}'s")
    if seq <= remote.control_seq:
        return outcome(Result.DUPLICATE)
    store.remotes.put(replace(remote, control_seq=seq))
    try:
        run = _ACTIONS[action](store, message.run_id, now_us=this_node.clock_us())
    except IllegalStateError as error:
        return Outcome(reply=Reply(result=Result.DUPLICATE, code=error.code, detail=str(error)))
    rings = [run.worker_id, *(child.worker_id for child in store.runs.children(run.run_id))]
    return outcome(Result.ACCEPTED, rings=tuple(rings))


def _status(store: Store, received: ReceivedMessage, *, this_node: ThisNode, logfiles: LogFiles) -> Outcome:
    message, remote = received.message, _held_run(store, received)
    now_us = this_node.clock_us()
    answer = restored.receive_question(store, received, remote, this_node=this_node)
    if answer is not None:
        return answer
    refusal = message.fields.get("refused")
    is_restored = remote.epoch > 0 and store.restores.doubts(message.run_id)
    if is_restored and refusal is not None:
        return outcome(Result.DUPLICATE)  # of long ago perhaps: it is offered again in any case
    if is_restored:
        store.remotes.put(remote)
    if refusal is not None and remote.epoch:
        offers.take_back(store, remote, this_node=this_node, why=refusal_text(message.sender, refusal))
        return outcome(Result.ACCEPTED)
    if refusal is not None:
        undeliverable(store, message.run_id, error=refusal_text(message.sender, refusal), now_us=now_us)
        return outcome(Result.ACCEPTED)
    delivered(store, message.run_id, now_us=now_us)
    offers.hear_from_holder(store, remote, Standing.read(message.fields), this_node=this_node)
    fresh = store.remotes.get(message.run_id)
    if fresh is None or fresh.role is not RemoteRole.SENT or not fresh.open:
        return outcome(Result.DUPLICATE)
    applied = apply_report(store, logfiles, fresh, received.report, now_us=now_us)
    if applied.run.status.final:
        store.outbox.remove_of_run(message.run_id, MessageKind.CONTROL)
    if applied.incomplete:
        if received.event_id is not None:
            ask_in_room(store, fresh, message_id=this_node.new_id(), now_us=now_us)
        return Outcome(reply=Reply(result=Result.LATER, code=INCOMPLETE, detail="tell all of it again"))
    return Outcome(reply=Reply(result=Result.ACCEPTED), rings=parent_ring(store.runs, applied.parent_run_id))


def _ask(remotes: Remotes, received: ReceivedMessage) -> Outcome:
    """Open a run again that is asked for in the room: it is told from its beginning. Over HTTP the answer tells."""
    if received.event_id is not None:
        remote, sender = remotes.get(received.message.run_id), received.message.sender
        if remote is None or remote.role is not RemoteRole.RECEIVED or remote.peer != sender:
            raise MessageRefusedError(
                "not_found", f"no run {received.message.run_id!r} of node {sender!r} ever came here"
            )
        remotes.put(replace(remote, open=True))
    return outcome(Result.ACCEPTED)


def ask_in_room(store: Store, remote: RemoteRun, *, message_id: str, now_us: int) -> None:
    """Ask the node that has a run how it goes, unless that was asked and is not answered yet."""
    run = store.runs.get(remote.run_id)
    if run is None or any(item.kind == MessageKind.ASK for item in store.outbox.of_run(remote.run_id)):
        return
    store.outbox.add(
        OutboxItem(
            message_id=message_id,
            kind=MessageKind.ASK,
            run_id=remote.run_id,
            node_id=remote.peer,
            route=Route.ROOM,
            priority=run.priority,
            created_at_us=now_us,
            expires_at_us=now_us + ASK_FOR_US,
            due_at_us=now_us,
        )
    )


def parent_ring(runs: Runs, parent_run_id: str | None) -> frozenset[str]:
    """Return the worker that waits for a run as its task, if there is one."""
    parent = runs.get(parent_run_id) if parent_run_id is not None else None
    return frozenset() if parent is None else frozenset({parent.worker_id})


def refusal_text(node_id: str, refusal: Json) -> str:
    """Return the error of a run that its executor refused, in bounded words of that node's."""
    detail = refusal.get("detail") if isinstance(refusal, dict) else refusal
    return f"node {node_id} refused it: {str(detail)[:MAX_DETAIL]}"
