"""The messages that cross between nodes, written and read in one place, and what came of one that was received.

What an execute message asks for is checked as strictly as any document from outside. What is large travels beside a
message as a blob: JSON text, held to the SHA-256 that was signed for. The rows in messages are in
``cis.federation.records``; what an offer, a claim and a grant say of a lease is in ``cis.model.lease_terms``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from cis.engine.this_node import ThisNode
from cis.errors import MalformedMessageError, UntrustedError
from cis.federation.requested import RequestedRun
from cis.model.dag import DagSpec, Json
from cis.model.lease_terms import OfferTerms, Standing
from cis.model.message import (
    ERREXIT,
    INLINE_BYTES,
    MAX_BLOB_BYTES,
    SCOPES,
    TRIGGER,
    BlobRef,
    Message,
    MessageKind,
    Reply,
    Result,
)
from cis.store.cluster import LeaseAsk, PeerRecord
from cis.store.cluster_port import Offers
from cis.store.records import RunRecord

FetchBlob = Callable[[BlobRef], Awaitable[bytes]]

EXECUTE, CONTROL, READ = "execute", "control", "read"
RIGHTS = (EXECUTE, CONTROL, READ)

INCOMPLETE = "report.incomplete"
CONTROL_ASKED = "control"  # in the answer to a report: what the origin still has to tell, as in a control message
MAX_DETAIL = 2000
_SHA256 = 64
_ANSWER_FOR_US = _PING_FOR_US = 300_000_000
REPORT_REF = "report_ref"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedMessage:
    """A message whose signature holds, from whom, and how it came.

    ``source`` is written into the audit log: an address, or the room. ``requested`` is the DAG of an execute message,
    or of the one that a grant is about; ``report`` is that of a status message. ``event_id`` is that of the room.
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


Receive = Callable[[ReceivedMessage], Awaitable[Outcome]]
"""Acts on a message as if it had been brought (``cis.federation.inbox``)."""


def outcome(result: Result, *, rings: tuple[str, ...] = (), **fields: Json) -> Outcome:
    """Return what came of a message that was not refused."""
    return Outcome(reply=Reply(result=result, fields=fields), rings=frozenset(rings))


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


def offer_terms(spec: DagSpec, *, epoch: int, lease_s: float) -> OfferTerms:
    """Return whom a DAG that is on offer here wants, and for how long it is granted."""
    return OfferTerms(epoch=epoch, labels=spec.labels, lease_ms=round(lease_s * 1000), nonces=True)


def report_message(
    run_id: str,
    report: Mapping[str, Json],
    *,
    sender: str,
    origin: str,
    message_id: str,
    now_us: int,
    standing: Standing,
) -> Message:
    """Return the status message that carries a report; ``state`` says the run's, for who reads along in the room."""
    run = report["run"]
    fields: dict[str, Json] = {"state": run["status"], "seq": run["version"], **standing.fields()}
    inline, blob = report_parts(report)
    return Message(
        kind=MessageKind.STATUS,
        message_id=message_id,
        sender=sender,
        created_at_us=now_us,
        expires_at_us=now_us + 7 * 86_400_000_000,
        run_id=run_id,
        target=origin,
        fields={**fields, **inline},
        blob_name=None if blob is None else REPORT_REF,
        blob=blob,
    )


def report_parts(report: Mapping[str, Json]) -> tuple[dict[str, Json], str | None]:
    """Return the field that holds a small report, or the blob that is a large one."""
    text = json.dumps(report, ensure_ascii=False, separators=(",", ":"))
    return ({"report": report}, None) if len(text.encode()) <= INLINE_BYTES else ({}, text)


def head_fields(run: RunRecord) -> dict[str, Json]:
    """Return what an execute message says of every DAG."""
    limits = {} if run.scopes is None else {SCOPES: list(run.scopes)}
    return {
        **limits,
        **({ERREXIT: True} if run.errexit else {}),
        **({} if run.trigger is None else {TRIGGER: {"kind": str(run.trigger.kind), "id": run.trigger.id}}),
        "dag_id": run.dag_id,
        "scope": run.scope.to_dict(),
        "scope_source": str(run.scope_source),
        "priority": str(run.priority),
        "depth": run.depth,
    }


def refusal_text(node_id: str, refusal: Json) -> str:
    """Return the error of a run that its executing node refused, in bounded words of that node's."""
    detail = refusal.get("detail") if isinstance(refusal, dict) else refusal
    return f"node {node_id} refused it: {str(detail)[:MAX_DETAIL]}"


def make_ping(this_node: ThisNode, *, target: str | None) -> Message:
    """Return a ping, which says what time this node has now; *target* None: to everyone in the room."""
    now_us = this_node.clock_us()
    return Message(
        kind=MessageKind.PING,
        message_id=this_node.new_id(),
        sender=this_node.node_id,
        target=target,
        created_at_us=now_us,
        expires_at_us=now_us + _PING_FOR_US,
    )


def answer_message(
    asked: Message,
    reply: Reply,
    *,
    message_id: str,
    this_node: ThisNode,
    fields: Mapping[str, Json],
    blob: str | None,
) -> Message:
    """Return the answer to a message, with *fields*, and the report that is its *blob*."""
    now_us = this_node.clock_us()
    return Message(
        kind=MessageKind.ANSWER,
        message_id=message_id,
        sender=this_node.node_id,
        target=asked.sender,
        run_id=asked.run_id,
        created_at_us=now_us,
        expires_at_us=now_us + _ANSWER_FOR_US,
        fields={
            **fields,
            "reply_to": asked.message_id,
            "result": str(reply.result),
            "code": reply.code,
            "detail": reply.detail,
        },
        blob_name=None if blob is None else REPORT_REF,
        blob=blob,
    )


def read_reply(answer: Message, asked: Message) -> Reply:
    """Return what an answer says came of a message. Raises MalformedMessageError when it is the answer to another."""
    fields = answer.fields
    if (
        answer.kind is not MessageKind.ANSWER
        or answer.target != asked.sender
        or fields.get("reply_to") != asked.message_id
        or fields.get("result") not in list(Result)  # it may be something that no set can be asked for
    ):
        raise MalformedMessageError("it is the answer to something else")
    return Reply(
        result=Result(fields["result"]),
        code=_short(fields.get("code")),
        detail=_short(fields.get("detail")),
        fields=fields,
    )


def _short(value: Json) -> str:
    return value[:MAX_DETAIL] if isinstance(value, str) else ""


def blob_ref(message: Message, name: str) -> BlobRef | None:
    """Return the reference to a blob in a message's fields, if it has one.

    Raises:
        MalformedMessageError: it is no reference, or to more than a blob may hold.
    """
    ref = message.fields.get(name)
    if ref is None:
        return None
    size, sha256 = (ref.get("size"), ref.get("sha256")) if isinstance(ref, Mapping) else (None, None)
    if not isinstance(size, int) or isinstance(size, bool) or not isinstance(sha256, str) or len(sha256) != _SHA256:
        raise MalformedMessageError(f"{name} needs sha256 and size")
    if not isinstance(ref.get("mxc", ""), str):
        raise MalformedMessageError(f"{name}.mxc is not an address")
    if not 0 <= size <= MAX_BLOB_BYTES:
        raise MalformedMessageError(f"{name} is of {size} bytes; {MAX_BLOB_BYTES} at most")
    return BlobRef(sha256=sha256, size=size, mxc=ref.get("mxc"))


def check_blob(ref: BlobRef, data: bytes) -> str:
    """Return the text of a blob that is the one which was signed for. Raises UntrustedError when it is not."""
    if len(data) != ref.size or hashlib.sha256(data).hexdigest() != ref.sha256:
        raise UntrustedError("what came with a message is not what its sender signed")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise MalformedMessageError("what came with a message is not text") from error


async def report_of(message: Message, fetch: FetchBlob) -> Json:
    """Return the report of a status message or of an answer.

    Raises:
        MalformedMessageError: it has none.
    """
    ref = blob_ref(message, REPORT_REF)
    if ref is None:
        return message.fields.get("report")
    try:
        return json.loads(check_blob(ref, await fetch(ref)))
    except (ValueError, RecursionError) as error:
        raise MalformedMessageError("the report that came with a message is not JSON") from error
