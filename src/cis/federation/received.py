"""A verified message, its outcome, and what all readers of messages share: taking a run on, and noting what was asked.

A node asks others with a new nonce each time; an answer counts only when it names a nonce that is remembered.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cis.engine.accept.admission import Asker
from cis.engine.accept.submit import Origin, SubmitRequest, submit
from cis.engine.this_node import ThisNode
from cis.errors import MessageRefusedError
from cis.federation.messages import RequestedRun
from cis.model.dag import Json
from cis.model.message import Message, Reply, Result
from cis.model.scope_rules import in_common
from cis.store.cluster import LeaseAsk, PeerRecord, RemoteRole, RemoteRun
from cis.store.cluster_port import Offers
from cis.store.port import Store
from cis.store.records import AuditRecord, RunRecord

EXECUTE, CONTROL, READ = "execute", "control", "read"
RIGHTS = (EXECUTE, CONTROL, READ)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedMessage:
    """A message whose signature holds, from whom, and how it came.

    ``source`` is written into the audit log: an address, or the room. ``requested`` is the DAG of an execute message,
    or of the one that a grant is about; ``report`` is that of a status message. ``event_id`` is that
    of the room.
    """

    message: Message
    peer: PeerRecord
    source: str
    requested: RequestedRun | None = None
    report: Json = None
    event_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a message: the answer, and the workers that have something to do now."""

    reply: Reply
    rings: frozenset[str] = field(default_factory=frozenset)


def outcome(result: Result, *, rings: tuple[str, ...] = (), **fields: Json) -> Outcome:
    """Return what came of a message that was not refused."""
    return Outcome(reply=Reply(result=result, fields=fields), rings=frozenset(rings))


def take_on(store: Store, received: ReceivedMessage, requested: RequestedRun, *, this_node: ThisNode) -> RunRecord:
    """Put the run of an execute message into this node's queue, and remember whom to tell of it."""
    message = received.message
    if EXECUTE not in received.peer.may:
        raise MessageRefusedError("auth.forbidden", f"node {message.sender!r} may not {EXECUTE} here")
    origin = Origin(
        node_id=message.sender,
        run_id=message.run_id,
        created_at_us=message.created_at_us,
        depth=requested.depth,
        tree=None if requested.root is None else f"{message.sender}:{requested.root}",
        above=requested.above,
    )
    asker = Asker(
        name=f"node {message.sender!r}", scopes=in_common(received.peer.scopes, requested.scopes), shares=True
    )
    request = SubmitRequest(spec=requested.spec, kept=requested.kept, origin=origin, asker=asker)
    run = submit(store, request, this_node=this_node).run
    store.remotes.put(
        RemoteRun(run_id=run.run_id, role=RemoteRole.RECEIVED, peer=message.sender, event_id=received.event_id)
    )
    # The run itself may be forgotten while this message could still be sent again; this note outlives it.
    store.remotes.withdraw(run.run_id, sender=message.sender, expires_at_us=message.expires_at_us)
    store.audit.append(
        AuditRecord(
            at_us=this_node.clock_us(),
            actor=f"node:{message.sender}",
            action="dag.execute",
            subject=run.run_id,
            source=received.source,
        )
    )
    return run


def remember_ask(offers: Offers, run_id: str, *, keep: int, this_node: ThisNode) -> LeaseAsk:
    """Remember a new question about a run, and when it was asked; of those about it, the newest *keep* are known."""
    ask = LeaseAsk(
        run_id=run_id,
        nonce=this_node.new_id(),
        asked_at_us=this_node.clock_us(),
        asked_uptime_us=this_node.uptime_us(),
        boot_id=this_node.boot_id,
    )
    offers.put_ask(ask, keep=keep)
    return ask
