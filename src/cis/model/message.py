"""What nodes say to each other, whatever carries it.

A message is a few fields under one signature (``cis.transports.envelope``). What is large (a document of many tasks, a
report with logs) travels beside it as a *blob*, named in the fields by its SHA-256 and size.

    execute   origin  -> executor, or everyone   run this DAG, under this run id
    control   origin  -> executor                cancel, pause, resume
    ask       origin  -> executor                how is it going? (when the executor cannot reach the origin)
    status    executor -> origin                 this changed: a report
    claim     any node -> offering node          I could run what you offered
    grant     offering node -> everyone          this node runs it, nobody else, for so long
    ping      any node -> any node               are you there, and what time is it?
    answer    to each of these, over HTTP        what came of it

An event carries a DAG as the fields of its document (``wire_fields``). The canonical JSON of Matrix has no floats, so
durations are spelled with their unit. A DAG that holds a float or a huge integer elsewhere, in the parameters of a
skill, cannot stand in an event; it travels as a blob.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cis.model.dag import DAG_FORM, TASK_FORM, Json

INLINE_BYTES = 32 * 2**10  # a Matrix event ends at 64 KiB, and a signature and the server's own fields need room
MAX_BLOB_BYTES = 16 * 2**20

# An execute message says these of every DAG, by itself.
_SAID_ANYWAY = ("dag_id", "scope", "target_node", "priority")
WIRE_FIELDS = (*(field.name for field in DAG_FORM.fields if field.name not in _SAID_ANYWAY), "tasks")
SCOPES = "scopes"  # those that the run, and what it starts, may run in, when that is not all
ROOT = "root"  # of a run that is a task of another: the run at the top of its tree
ABOVE = "above"  # and the DAGs over it
_TO_WIRE = {field.name: field.kind.to_wire for field in (*DAG_FORM.fields, *TASK_FORM.fields) if field.kind.to_wire}


class MessageKind(StrEnum):
    """What a message is; in a room it is the event's type."""

    EXECUTE = "io.cis.dag.execute"
    CONTROL = "io.cis.dag.control"
    ASK = "io.cis.dag.ask"
    STATUS = "io.cis.dag.status"
    CLAIM = "io.cis.dag.claim"
    GRANT = "io.cis.dag.grant"
    PING = "io.cis.node.ping"
    ANSWER = "io.cis.node.answer"


@dataclass(frozen=True, slots=True)
class BlobRef:
    """Names a blob: its digest, its size and, in a room, where the homeserver keeps it."""

    sha256: str
    size: int
    mxc: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One thing that one node says. ``target`` None means everyone in the room.

    ``expires_at_us`` is when it must not be acted upon any more, by the sender's clock. ``fields`` are JSON
    values without floats. ``blob_name`` and ``blob`` are the field that names the blob (``dag_ref``,
    ``report_ref``) and its text; where it came by reference and was not fetched yet, only ``fields`` has it.
    """

    kind: MessageKind
    message_id: str
    sender: str
    created_at_us: int
    expires_at_us: int
    run_id: str = ""
    target: str | None = None
    fields: Mapping[str, Json] = field(default_factory=dict)
    blob_name: str | None = None
    blob: str | None = None


class Result(StrEnum):
    """What came of a message."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"  # it was acted upon before; that holds
    REFUSED = "refused"  # for good: sending it again gives the same
    LATER = "later"  # not now (full, busy): send it again


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the receiver of a message answers: ``code`` is an error's code, ``fields`` depend on the kind."""

    result: Result
    code: str = ""
    detail: str = ""
    fields: Mapping[str, Json] = field(default_factory=dict)


def is_inline(value: Json) -> bool:
    """Whether a value may stand in an event: no floats, no integers beyond 2^53 - 1 (Matrix, canonical JSON)."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_inline(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(is_inline(item) for item in value)
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return True
    return isinstance(value, int) and abs(value) < 2**53


def wire_fields(document: Mapping[str, Json]) -> dict[str, Json] | None:
    """Return the fields of a stored document for an event, but for those that every event has; None: not possible.

    ``dag_id``, ``scope``, ``target_node`` and ``priority`` are in every execute message by themselves.
    """
    fields = _as_sent({name: document[name] for name in WIRE_FIELDS if name in document})
    fields["tasks"] = [_as_sent(task) for task in document["tasks"]]
    return fields if is_inline(fields) else None


def document_of(fields: Mapping[str, Json]) -> dict[str, Json]:
    """Return the document that an execute message with inline tasks holds, unchecked."""
    document = {name: fields[name] for name in WIRE_FIELDS if name in fields}
    document["dag_id"] = fields.get("dag_id")
    if fields.get("priority") is not None:
        document["priority"] = fields["priority"]
    if fields.get("scope_source") == "explicit":
        document["scope"] = fields.get("scope")
    return document


def _as_sent(fields: Mapping[str, Json]) -> dict[str, Json]:
    return {name: _TO_WIRE[name](value) if name in _TO_WIRE else value for name, value in fields.items()}
