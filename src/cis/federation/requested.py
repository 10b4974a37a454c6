"""What an execute message asks for: the DAG, what of it was done before, and the values of its parameters.

It is checked as strictly as any document from outside. A small document stands in the message itself; a large one, or
one with words that nodes of before do not know, travels beside it as a blob.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cis.errors import MalformedMessageError
from cis.federation.records import read_task, task_fields
from cis.model.added import added_task
from cis.model.dag import DagSpec, Json
from cis.model.ids import MAX_ID_LENGTH, id_fault
from cis.model.inference import infer_scope
from cis.model.message import (
    ABOVE,
    ERREXIT,
    INLINE_BYTES,
    MAX_BLOB_BYTES,
    MAX_ITEMS,
    ROOT,
    SCOPES,
    TRIGGER,
    Fields,
    Message,
    document_of,
    wire_fields,
)
from cis.model.scope import Scope, ScopeType
from cis.model.scope_rules import Patterns, pattern_fault
from cis.model.states import TaskState, Trigger, TriggerKind
from cis.store.records import TaskRecord

ParseDag = Callable[[Mapping[str, Json]], DagSpec]
DAG_REF = "dag_ref"
MAX_DEPTH_TOLD = 1000
MAX_SCOPES = 1000
MAX_ABOVE = 64
MAX_TRIGGER_ID = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedRun:
    """The DAG of an execute message, what of it was done before, by task id, and how deep it is nested.

    ``scopes`` are those that its origin allows it and all that it starts to run in (None: all). Of one that is a task
    of another, ``root`` is the run at the top, ``above`` are the DAGs over it. ``errexit`` is that of the run.
    """

    spec: DagSpec
    kept: Mapping[str, TaskRecord] = field(default_factory=dict)
    depth: int = 0
    scopes: Patterns | None = None
    root: str | None = None
    above: tuple[str, ...] = ()
    errexit: bool = False
    params: Mapping[str, Json] = field(default_factory=dict)
    trigger: Trigger | None = None


def requested_run(message: Message, *, blob: str | None, parse: ParseDag) -> RequestedRun:
    """Return what an execute message wants run; *blob* is the text that its ``dag_ref`` names, if it has one.

    Raises:
        MalformedMessageError: it contradicts itself.
        DocumentError, AmbiguousScopeError: its DAG is none.
    """
    if DAG_REF in message.fields:
        plain, progress, params = _blob(blob)
        document = {**plain, "target_node": message.target} if message.target else dict(plain)
    else:
        document, progress, params = document_of(message.fields), message.fields.get("progress", []), {}
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
        errexit=said.flag(ERREXIT, absent=False),
        params=params,
        trigger=_trigger(said) if TRIGGER in said else None,
    )


def scope_of(message: Message) -> Scope:
    """Return the scope that an execute message says its DAG has. Raises MalformedMessageError."""
    return _scope(message.fields.get("scope"))


def document_fields(
    text: str, progress: Sequence[Json], params: Mapping[str, Json]
) -> tuple[dict[str, Json], str | None]:
    """Return the fields of a small document, or the blob of a large one, or of one with words that are not old."""
    if len(text) <= INLINE_BYTES:
        inline = wire_fields(json.loads(text))
        if inline is not None:
            if progress:
                inline["progress"] = list(progress)
            if len(json.dumps(inline, ensure_ascii=False).encode()) <= INLINE_BYTES:
                return inline, None
    done = json.dumps(progress, ensure_ascii=False, separators=(",", ":"))
    given = f',"params":{json.dumps(dict(params), ensure_ascii=False)}' if params else ""
    return {}, f'{{"document":{text},"progress":{done}{given}}}'


def progress_of(tasks: Sequence[TaskRecord]) -> list[Json]:
    """Return what is known of a run that does not begin from nothing: which tasks are over, and which were begun.

    A task that runs, as far as is known, was lost: what happens next is its ``on_lost``.
    """
    return [
        {**task_fields(task), "version": task.version + 1}
        for task in tasks
        if task.status is not TaskState.PENDING or task.version > 1 or task.is_added
    ]


def _trigger(said: Fields) -> Trigger | None:
    """Return what began a run; None: in a way that only a later program knows."""
    fields = said.object(TRIGGER)
    kind, known = fields.text("kind", at_most=MAX_ID_LENGTH), set(TriggerKind)
    name = fields.maybe_text("id", at_most=MAX_TRIGGER_ID)
    return Trigger(TriggerKind(kind), name) if kind in known else None


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


def _blob(text: str | None) -> tuple[Mapping[str, Json], Json, Mapping[str, Json]]:
    try:
        plain = json.loads(text or "")
    except (ValueError, RecursionError) as error:
        raise MalformedMessageError("the document that came with a message is not JSON") from error
    if not isinstance(plain, Mapping) or not isinstance(plain.get("document"), Mapping):
        raise MalformedMessageError("what came with a message holds no document")
    params = plain.get("params", {})
    if not isinstance(params, Mapping):
        raise MalformedMessageError("params must be an object")
    return plain["document"], plain.get("progress", []), params


def _scope(plain: Json) -> Scope:
    try:
        return Scope(ScopeType(plain["type"]), plain.get("id") or "")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MalformedMessageError("scope is missing or malformed") from error


def _kept(plain: Json, spec: DagSpec) -> dict[str, TaskRecord]:
    if not isinstance(plain, list) or len(plain) > MAX_ITEMS:
        raise MalformedMessageError("progress must be a list of tasks")
    known = {task.id for task in spec.tasks}
    kept = {}
    for number, one in enumerate(plain):
        fields = Fields(one, f"progress[{number}]")
        task = read_task(fields, run_id="", task_no=0, outputs_at_most=MAX_BLOB_BYTES)
        added = task.is_added and added_task(spec, task.task_id, task.part_of) is not None
        if not added and (task.task_id not in known or task.is_added):
            raise MalformedMessageError(f"progress[{number}] is not a task of this DAG")
        kept[task.task_id] = task
    return kept
