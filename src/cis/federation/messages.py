"""Messages from rows of the outbox, and DAGs from messages: both directions of what an execute message says.

What a message says is read from the run when it is sent. What a message of another node asks for is checked as strictly
as any document from outside.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cis.engine.accept.admission import names_above
from cis.engine.this_node import ThisNode
from cis.errors import MalformedMessageError, NotFoundError, PoisonRecordError
from cis.federation.records import read_task, task_fields
from cis.model.dag import DagSpec, Json
from cis.model.ids import id_fault
from cis.model.inference import infer_scope
from cis.model.message import (
    ABOVE,
    INLINE_BYTES,
    MAX_BLOB_BYTES,
    ROOT,
    SCOPES,
    Fields,
    Message,
    MessageKind,
    OfferTerms,
    Reply,
    Result,
    Standing,
    document_of,
    wire_fields,
)
from cis.model.scope import Scope, ScopeType
from cis.model.scope_rules import Patterns, pattern_fault
from cis.model.states import TaskState
from cis.store.cluster import LeaseAsk, OutboxItem, PeerRecord
from cis.store.cluster_port import Offers
from cis.store.port import Store, read_spec
from cis.store.records import RunRecord, TaskRecord
from cis.store.run_port import Runs

ParseDag = Callable[[Mapping[str, Json]], DagSpec]
MAX_DEPTH_TOLD = 1000
MAX_SCOPES = 1000
MAX_ABOVE = 64

EXECUTE, CONTROL, READ = "execute", "control", "read"
RIGHTS = (EXECUTE, CONTROL, READ)

INCOMPLETE = "report.incomplete"
MAX_DETAIL = 2000
DAG_REF = "dag_ref"
REPORT_REF = "report_ref"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedRun:
    """The DAG of an execute message, what of it was done before, by task id, and how deep it is nested.

    ``scopes`` are those that its origin allows it and all that it starts to run in (None: all). Of one that is a task
    of another, ``root`` is the run at the top, ``above`` are the DAGs over it.
    """

    spec: DagSpec
    kept: Mapping[str, TaskRecord] = field(default_factory=dict)
    depth: int = 0
    scopes: Patterns | None = None
    root: str | None = None
    above: tuple[str, ...] = ()


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


def requested_run(message: Message, *, blob: str | None, parse: ParseDag) -> RequestedRun:
    """Return what an execute message wants run; *blob* is the text that its ``dag_ref`` names, if it has one.

    Raises:
        MalformedMessageError: it contradicts itself.
        DocumentError, AmbiguousScopeError: its DAG is none.
    """
    if DAG_REF in message.fields:
        plain, progress = _blob(blob)
        document = {**plain, "target_node": message.target} if message.target else dict(plain)
    else:
        document, progress = document_of(message.fields), message.fields.get("progress", [])
        if message.target is not None:
            document["target_node"] = message.target
    spec = parse({name: value for name, value in document.items() if value is not None})
    spec = replace(spec, target_node=message.target)
    scope, _ = infer_scope(spec)
    if spec.dag_id != message.fields.get("dag_id") or scope.to_dict() != _scope(message.fields.get("scope")).to_dict():
        raise MalformedMessageError("what a message says of its DAG is not what its document says")
    said = Fields(message.fields)
    return RequestedRun(
        spec=spec,
        kept=_kept(progress, spec),
        depth=said.number("depth", highest=MAX_DEPTH_TOLD) if "depth" in said else 0,
        scopes=_scopes(message.fields.get(SCOPES)),
        root=said.maybe_id(ROOT),
        above=_above(message.fields.get(ABOVE, [])),
    )


def scope_of(message: Message) -> Scope:
    """Return the scope that an execute message says its DAG has. Raises MalformedMessageError."""
    return _scope(message.fields.get("scope"))


def _above(plain: Json) -> tuple[str, ...]:
    if not isinstance(plain, list) or not all(isinstance(name, str) and not id_fault(name) for name in plain):
        raise MalformedMessageError(f"{ABOVE} must be a list of ids of DAGs")
    return tuple(plain[-MAX_ABOVE:])


def _scopes(plain: Json) -> Patterns | None:
    if plain is None:
        return None
    if not isinstance(plain, list) or len(plain) > MAX_SCOPES or any(map(pattern_fault, plain)):
        raise MalformedMessageError(f"{SCOPES} must be a list of scopes")
    return tuple(plain)


def _blob(text: str | None) -> tuple[Mapping[str, Json], Json]:
    try:
        plain = json.loads(text or "")
    except (ValueError, RecursionError) as error:
        raise MalformedMessageError("the document that came with a message is no JSON") from error
    if not isinstance(plain, Mapping) or not isinstance(plain.get("document"), Mapping):
        raise MalformedMessageError("what came with a message holds no document")
    return plain["document"], plain.get("progress", [])


def _scope(plain: Json) -> Scope:
    try:
        return Scope(ScopeType(plain["type"]), plain.get("id") or "")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MalformedMessageError("scope is missing, or none") from error


def _kept(plain: Json, spec: DagSpec) -> dict[str, TaskRecord]:
    if not isinstance(plain, list) or len(plain) > len(spec.tasks):
        raise MalformedMessageError("progress must be a list of tasks")
    known = {task.id for task in spec.tasks}
    kept = {}
    for number, one in enumerate(plain):
        if not isinstance(one, Mapping) or not isinstance(one.get("id"), str) or one["id"] not in known:
            raise MalformedMessageError(f"progress[{number}] is no task of this DAG")
        fields = Fields(one, f"progress[{number}]")
        kept[one["id"]] = read_task(fields, run_id="", task_no=0, outputs_at_most=MAX_BLOB_BYTES)
    return kept


def message_of(store: Store, item: OutboxItem, *, sender: str, lease_s: float) -> Message:
    """Return the message that an item stands for; an offer says how long a lease would be.

    Raises:
        NotFoundError: its run is gone.
        PoisonRecordError: the run, or the item, cannot be read.
    """
    if item.kind not in set(MessageKind):
        raise PoisonRecordError(f"message {item.message_id}", f"{item.kind!r:.80} is no kind of message")
    fields: Mapping[str, Json] = item.fields
    blob_name = blob = None
    if item.kind == MessageKind.EXECUTE:
        run = store.runs.get(item.run_id)
        if run is None:
            raise NotFoundError("run", item.run_id)
        remote = store.remotes.get(item.run_id)
        fields = {**_head(run), **_place_of(store.runs, run), **item.fields, "epoch": remote.epoch if remote else 0}
        document = store.definitions.document(run.definition_id)
        spec = read_spec(document)  # what is no DAG any more is not sent
        if not item.node_id:
            fields = {**fields, **offer_terms(spec, epoch=fields["epoch"], lease_s=lease_s).fields()}
        inline, blob = _document(document, progress_of(store.tasks.of_run(run.run_id)))
        if blob is None:
            fields = {**fields, **inline}
        else:
            blob_name = DAG_REF
    return Message(
        kind=MessageKind(item.kind),
        message_id=item.message_id,
        sender=sender,
        created_at_us=item.created_at_us,
        expires_at_us=item.expires_at_us,
        run_id=item.run_id,
        target=item.node_id or None,
        fields=fields,
        blob_name=blob_name,
        blob=blob,
    )


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
    """Return the status message that tells a report; ``state`` says the run's, for who reads along in the room."""
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


def progress_of(tasks: Sequence[TaskRecord]) -> list[Json]:
    """Return what is known of a run that does not begin from nothing: which tasks are over, and which were begun.

    A task that runs, as far as is known, was lost: what happens next is its ``on_lost``.
    """
    return [
        {**task_fields(task), "version": task.version + 1}
        for task in tasks
        if task.status is not TaskState.PENDING or task.version > 1
    ]


def _place_of(runs: Runs, run: RunRecord) -> dict[str, Json]:
    """Return where in a tree of runs a run stands, if it is a task of another."""
    if run.tree is None:
        return {}
    return {ROOT: run.tree.rpartition(":")[2], ABOVE: list(names_above(runs, run))}


def _head(run: RunRecord) -> dict[str, Json]:
    limits = {} if run.scopes is None else {SCOPES: list(run.scopes)}
    return {
        **limits,
        "dag_id": run.dag_id,
        "scope": run.scope.to_dict(),
        "scope_source": str(run.scope_source),
        "priority": str(run.priority),
        "depth": run.depth,
    }


def _document(text: str, progress: Sequence[Json]) -> tuple[dict[str, Json], str | None]:
    """Return the fields of a small document, or the blob of a large one."""
    if len(text) <= INLINE_BYTES:
        inline = wire_fields(json.loads(text))
        if inline is not None:
            if progress:
                inline["progress"] = list(progress)
            if len(json.dumps(inline, ensure_ascii=False).encode()) <= INLINE_BYTES:
                return inline, None
    done = json.dumps(progress, ensure_ascii=False, separators=(",", ":"))
    return {}, f'{{"document":{text},"progress":{done}}}'


def refusal_text(node_id: str, refusal: Json) -> str:
    """Return the error of a run that its executor refused, in bounded words of that node's."""
    detail = refusal.get("detail") if isinstance(refusal, dict) else refusal
    return f"node {node_id} refused it: {str(detail)[:MAX_DETAIL]}"
