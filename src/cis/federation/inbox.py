"""What a message of another node does here: the same for those that were pushed and those that the room brought.

Whoever calls this has checked the signature; here it is asked whether that node may do that. Each function runs inside
the caller's transaction, which also holds the note that the message was dealt with, so each is acted upon once.
Messages come doubled and in any order; what each does then is told in the module of its side.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import replace

from cis.engine.logfiles import LogFiles
from cis.engine.this_node import ThisNode
from cis.errors import (
    CisError,
    MalformedMessageError,
    MessageRefusedError,
    OverloadedError,
    PoisonRecordError,
    StoreError,
)
from cis.federation.executing import accept, claiming, lease
from cis.federation.messages import (
    CONTROL,
    EXECUTE,
    MAX_DETAIL,
    READ,
    FetchBlob,
    Outcome,
    ReceivedMessage,
    blob_ref,
    check_blob,
    outcome,
    report_of,
)
from cis.federation.origin import arbiter, status
from cis.federation.requested import DAG_REF, RequestedRun, requested_run
from cis.federation.service import NodePort
from cis.model.document import dag_from_plain
from cis.model.message import Message, MessageKind, Reply, Result
from cis.store.access_records import AuditRecord
from cis.store.cluster import PeerRecord
from cis.store.cluster_port import Peers
from cis.store.port import Store
from cis.store.upkeep_port import Audit

log = logging.getLogger(__name__)

_NEEDED = {MessageKind.EXECUTE: EXECUTE, MessageKind.CONTROL: CONTROL, MessageKind.ASK: READ}
SMALL_BYTES = 8 * 2**10
MAX_CLOCK_US = 366 * 86_400_000_000


class Inbox:
    """Where messages come in once they are opened. *taken* is told of each run that was taken on."""

    def __init__(self, node: NodePort, *, taken: Callable[[str], None]) -> None:
        self._node = node
        self._taken = taken

    async def complete(self, received: ReceivedMessage, fetch: FetchBlob) -> ReceivedMessage:
        """Return a received message with its DAG or its report, which may have travelled beside it.

        Raises:
            CisError: it cannot be had, or is not what was signed for, or no DAG.
        """
        message = received.message
        if message.kind is MessageKind.EXECUTE and message.target == self._node.this_node.node_id:
            return replace(received, requested=await self.requested_run(message, fetch))
        if message.kind is MessageKind.STATUS and message.target == self._node.this_node.node_id:
            return replace(received, report=await report_of(message, fetch))
        return received

    async def requested_run(self, message: Message, fetch: FetchBlob) -> RequestedRun:
        """Return the DAG of an execute message."""
        ref = blob_ref(message, DAG_REF)
        blob = None if ref is None else check_blob(ref, await fetch(ref))
        if blob is None and len(json.dumps(message.fields)) <= SMALL_BYTES:
            return requested_run(message, blob=None, parse=dag_from_plain)  # sooner done than handed to a thread
        return await asyncio.to_thread(requested_run, message, blob=blob, parse=dag_from_plain)

    async def receive(self, received: ReceivedMessage) -> Outcome:
        """Act on a complete message in one transaction, and wake who has something to do."""
        outcome = await self._node.write(
            lambda store: receive(store, received, this_node=self._node.this_node, logfiles=self._node.logs)
        )
        self.after(received, outcome)
        return outcome

    def after(self, received: ReceivedMessage, outcome: Outcome) -> None:
        """Wake who has something to do, once the transaction has committed."""
        accepted = outcome.reply.result is Result.ACCEPTED
        if accepted and received.message.kind in (
            MessageKind.EXECUTE,
            MessageKind.GRANT,
            MessageKind.CONTROL,
            MessageKind.ASK,
        ):
            self._taken(received.message.run_id)
        if accepted or outcome.rings:
            self._node.wake(outcome.rings)


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
        status.held_run(store, received)
    if message.kind is MessageKind.EXECUTE and message.target is not None:
        known = store.runs.get(message.run_id)
        if known is not None and known.node_id == message.sender:
            return
    needed = _NEEDED.get(message.kind)
    if needed is not None and needed not in peer.may:
        raise MessageRefusedError("auth.forbidden", f"node {peer.node_id!r} may not {needed} here")
    if message.expires_at_us <= sender_now_us(peer, now_us=this_node.clock_us()):
        raise MessageRefusedError("message.expired", "expired: it came too late to be acted upon")


def _act(store: Store, received: ReceivedMessage, *, this_node: ThisNode, logfiles: LogFiles) -> Outcome:
    match received.message.kind:
        case MessageKind.EXECUTE if received.message.target is None:
            return claiming.receive_offer(store, received, this_node=this_node)
        case MessageKind.EXECUTE:
            return accept.receive_execute(store, received, this_node=this_node)
        case MessageKind.CONTROL:
            return accept.receive_control(store, received, this_node=this_node)
        case MessageKind.STATUS:
            return status.receive_status(store, received, this_node=this_node, logfiles=logfiles)
        case MessageKind.CLAIM:
            return arbiter.receive_claim(store, received, this_node=this_node)
        case MessageKind.GRANT:
            return lease.receive_grant(store, received, this_node=this_node)
        case MessageKind.ASK:
            return accept.receive_ask(store.remotes, received)
        case MessageKind.PING:
            return outcome(Result.ACCEPTED)
        case _:
            raise MalformedMessageError(f"{received.message.kind} is not a message to a node")
