"""What nodes say to each other, whatever carries it, and how what another node says is read (``Fields``).

A message is a few fields under one signature (``cis.transports.envelope``). What is large (a document of many tasks, a
report with logs) travels beside it as a *blob*, named in the fields by its SHA-256 and size.

    execute   origin -> executing node, or everyone   run this DAG, under this run id
    control   origin -> executing node                cancel, pause, resume
    ask       origin -> executing node                how is it going? (when that node cannot reach the origin)
    status    executing node -> origin                this changed: a report
    claim     any node -> offering node               I could run what you offered
    grant     offering node -> everyone               this node runs it, nobody else, for so long
    ping      any node -> any node                    are you there, and what time is it?
    answer    to each of these, over HTTP             what came of it

An event carries a DAG as the fields of its document (``wire_fields``). The canonical JSON of Matrix has no floats, so
durations are spelled with their unit. A DAG that holds a float or a huge integer elsewhere, in the parameters of a
skill, cannot stand in an event; it travels as a blob.

What messages say about a lease is in ``cis.model.lease_terms``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from cis.errors import MalformedMessageError
from cis.model.dag import DAG_FORM, TASK_FORM, Json
from cis.model.ids import id_fault
from cis.model.tree import is_text

S = TypeVar("S", bound=StrEnum)

INLINE_BYTES = 32 * 2**10  # a Matrix event ends at 64 KiB, and a signature and the server's own fields need room
MAX_BLOB_BYTES = 16 * 2**20

MAX_NUMBER = 2**53 - 1
MAX_ITEMS = 100_000
NONCE, NONCES = "nonce", "nonces"

# An execute message says these of every DAG, by itself.
_SAID_ANYWAY = ("dag_id", "scope", "target_node", "priority")
# The words of a document that may stand in an event. Nodes of before pass over what they do not know there, and would run
# another DAG than was meant. So these lists never grow: a document with a newer word travels as a blob (``dag_ref``),
# which every node reads strictly, so that one that does not know the word refuses it by name.
WIRE_FIELDS = ("description", "env", "max_parallel", "labels", "expires", "spread", "tasks")
WIRE_FIELDS_OF_A_TASK = frozenset(
    [
        "id",
        "command",
        "shell",
        "skill",
        "params",
        "depends_on",
        "env",
        "secrets",
        "cwd",
        "max_retries",
        "retry_delay",
        "retry_backoff",
        "timeout",
        "on_lost",
        "max_losses",
        "leave",
    ]
)
SCOPES = "scopes"  # those that the run, and what it starts, may run in, when that is not all
ERREXIT = "errexit"  # true: text commands run under /bin/sh -e; absent: under /bin/sh, as nodes of before have it
TRIGGER = "trigger"  # what began the run: its kind, and an id
TASKS = "tasks"  # in a control message: the numbers of tasks that are to be cancelled by themselves
CANCEL_TASKS = "cancel_tasks"  # its action where nothing else is asked
ROOT = "root"  # of a run that is a task of another: the run at the top of its tree
ABOVE = "above"  # and the DAGs over it
CONFIRMS = "confirms"  # which question of a node that was restored from a backup this answers
_READ_BY_ALL = frozenset((*_SAID_ANYWAY, *WIRE_FIELDS))
# What else stands in an execute message; anything that is neither is read as a word of the document, and refused.
_BESIDE_THE_DOCUMENT = frozenset(
    {
        *_SAID_ANYWAY,
        SCOPES,
        ERREXIT,
        TRIGGER,
        ROOT,
        ABOVE,
        CONFIRMS,
        NONCES,
        "scope_source",
        "depth",
        "progress",
        "epoch",
        "lease_ms",
    }
)
_TO_WIRE = {field.name: field.kind.to_wire for field in (*DAG_FORM.fields, *TASK_FORM.fields) if field.kind.to_wire}


class MessageKind(StrEnum):
    """What a message is; in a room it is the event's type.

    A room carries each ``io.cis.dag.…``, and the ping (``cis.transports.matrix.journal``); who may send it there is said in
    ``cis.transports.matrix.policy``.
    """

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

    ``dag_id``, ``scope``, ``target_node`` and ``priority`` are in every execute message by themselves. A word that
    nodes of before may not know cannot stand in an event.
    """
    if not _READ_BY_ALL.issuperset(document) or not all(map(WIRE_FIELDS_OF_A_TASK.issuperset, document["tasks"])):
        return None
    fields = _as_sent({name: document[name] for name in WIRE_FIELDS if name in document})
    fields["tasks"] = [_as_sent(task) for task in document["tasks"]]
    return fields if is_inline(fields) else None


def document_of(fields: Mapping[str, Json]) -> dict[str, Json]:
    """Return the document that an execute message with inline tasks holds, unchecked, unknown words included."""
    document = {name: value for name, value in fields.items() if name not in _BESIDE_THE_DOCUMENT}
    document["dag_id"] = fields.get("dag_id")
    if fields.get("priority") is not None:
        document["priority"] = fields["priority"]
    if fields.get("scope_source") == "explicit":
        document["scope"] = fields.get("scope")
    return document


def _as_sent(fields: Mapping[str, Json]) -> dict[str, Json]:
    return {name: _TO_WIRE[name](value) if name in _TO_WIRE else value for name, value in fields.items()}


class Fields:
    """An object of another node, read field by field; a fault names the place, and never repeats what is there.

    Every record that crosses between nodes is read by this, so each kind of value has one rule. Fields that nobody asks
    for are passed over: the other node may run a newer program.

    Raises:
        MalformedMessageError: what is read is no object, or a field of it is not what it has to be.
    """

    def __init__(self, plain: Json, place: str = "") -> None:
        if not isinstance(plain, Mapping):
            raise MalformedMessageError(f"{place} must be an object")
        self._plain = plain
        self._place = place

    def __contains__(self, name: str) -> bool:
        return name in self._plain

    def fault(self, name: str, what: str) -> MalformedMessageError:
        return MalformedMessageError(f"{self._at(name)} {what}")

    def object(self, name: str) -> Fields:
        return Fields(self._plain.get(name), self._at(name))

    def objects(self, name: str) -> list[Fields]:
        plain = self._plain.get(name)
        if not isinstance(plain, list) or len(plain) > MAX_ITEMS:
            raise self.fault(name, f"must be a list of at most {MAX_ITEMS:,} objects")
        return [Fields(item, f"{self._at(name)}[{number}]") for number, item in enumerate(plain)]

    def number(self, name: str, *, lowest: int = 0, highest: int = MAX_NUMBER) -> int:
        value = self._plain.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise self.fault(name, f"must be a whole number from {lowest} to {highest}")
        return value

    def maybe_number(self, name: str, *, lowest: int = 0, highest: int = MAX_NUMBER) -> int | None:
        return None if self._plain.get(name) is None else self.number(name, lowest=lowest, highest=highest)

    def text(self, name: str, *, at_most: int) -> str:
        value = self._plain.get(name)
        if not isinstance(value, str) or len(value) > at_most or not is_text(value):
            raise self.fault(name, f"must be a string of at most {at_most:,} characters")
        return value

    def maybe_text(self, name: str, *, at_most: int) -> str | None:
        return None if self._plain.get(name) is None else self.text(name, at_most=at_most)

    def texts(self, name: str, *, at_most: int) -> dict[str, str]:
        value = self._plain.get(name)
        if not isinstance(value, Mapping):
            raise self.fault(name, "must be an object")
        parts = [part for pair in value.items() for part in pair]
        if not all(isinstance(part, str) and is_text(part) for part in parts) or sum(map(len, parts)) > at_most:
            raise self.fault(name, f"must hold strings, of at most {at_most:,} characters together")
        return dict(value)

    def flag(self, name: str, *, absent: bool | None = None) -> bool:
        value = self._plain.get(name, absent)
        if not isinstance(value, bool):
            raise self.fault(name, "must be true or false")
        return value

    def state(self, name: str, kind: type[S]) -> S:
        value = self._plain.get(name)
        if not isinstance(value, str) or value not in set(kind):
            raise self.fault(name, f"must be one of {', '.join(kind)}")
        return kind(value)

    def node_id(self, name: str) -> str:
        value = self._plain.get(name)
        if not isinstance(value, str) or (value and id_fault(value)):
            raise self.fault(name, "must be the id of a node, or empty")
        return value

    def maybe_id(self, name: str) -> str | None:
        value = self._plain.get(name)
        if value is not None and (not isinstance(value, str) or id_fault(value)):
            raise self.fault(name, "is not an id")
        return value

    def _at(self, name: str) -> str:
        return f"{self._place}.{name}" if self._place else name
