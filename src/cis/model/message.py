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

What an offer, a claim and a grant say about a lease has one form each, read as strictly as any document. A claim, and a
status message that asks for a lease to be renewed, carries a *nonce*; the grant that answers it names that nonce
(``cis.federation.offers`` says why). Nodes of before know no nonces: their fields lack it, and it is None here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cis.errors import MalformedMessageError
from cis.model.dag import DAG_FORM, TASK_FORM, Json
from cis.model.ids import id_fault

INLINE_BYTES = 32 * 2**10  # a Matrix event ends at 64 KiB, and a signature and the server's own fields need room
MAX_BLOB_BYTES = 16 * 2**20

MAX_LEASE_MS = 86_400_000
MAX_EPOCH = 2**31
MAX_LABELS = 1000
NONCE, NONCES = "nonce", "nonces"

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


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferTerms:
    """Whom an offer wants, and the lease that a grant would be. ``nonces``: grants will say which claim they answer."""

    epoch: int
    labels: tuple[str, ...]
    lease_ms: int
    nonces: bool

    @classmethod
    def read(cls, fields: Mapping[str, Json]) -> OfferTerms:
        """Read those of an offer. Raises MalformedMessageError."""
        labels, nonces = fields.get("labels", []), fields.get(NONCES, False)
        is_list = isinstance(labels, list) and len(labels) <= MAX_LABELS
        if not is_list or not all(isinstance(label, str) for label in labels) or not isinstance(nonces, bool):
            raise MalformedMessageError(
                f"an offer needs labels, {MAX_LABELS} texts at most, and {NONCES} true or false"
            )
        lease_ms = _number(fields, "lease_ms", most=MAX_LEASE_MS) if "lease_ms" in fields else 0
        return cls(
            epoch=_number(fields, "epoch", most=MAX_EPOCH), labels=tuple(labels), lease_ms=lease_ms, nonces=nonces
        )

    def fields(self) -> dict[str, Json]:
        """Return all but the epoch, as they travel and as an offer is kept."""
        return {"labels": list(self.labels), "lease_ms": self.lease_ms, NONCES: self.nonces}


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A node could run what is offered under *epoch*; it has room for *free* more beside it."""

    node_id: str
    epoch: int
    free: int
    nonce: str | None

    @classmethod
    def read(cls, fields: Mapping[str, Json], *, sender: str) -> Claim:
        """Read a claim. Raises MalformedMessageError."""
        if _text(fields, "node_id") != sender:
            raise MalformedMessageError("node_id is not its sender")
        return cls(
            node_id=sender,
            epoch=_number(fields, "epoch", most=MAX_EPOCH),
            free=_number(fields, "free", most=MAX_EPOCH) if "free" in fields else 0,
            nonce=read_nonce(fields),
        )

    def fields(self) -> dict[str, Json]:
        """Return them as they travel."""
        return {"node_id": self.node_id, "epoch": self.epoch, "free": self.free, NONCE: self.nonce}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A run is *node_id*'s (empty: nobody's) under *epoch*, for *lease_ms* from when *nonce* was asked."""

    node_id: str
    epoch: int
    lease_ms: int
    nonce: str | None

    @classmethod
    def read(cls, fields: Mapping[str, Json]) -> Grant:
        """Read a grant. Raises MalformedMessageError."""
        grant = cls(
            node_id=_text(fields, "node_id"),
            epoch=_number(fields, "epoch", most=MAX_EPOCH),
            lease_ms=_number(fields, "lease_ms", most=MAX_LEASE_MS),
            nonce=read_nonce(fields),
        )
        if grant.node_id and not grant.lease_ms:
            raise MalformedMessageError("lease_ms is 0, which is no lease")
        return grant

    def fields(self) -> dict[str, Json]:
        """Return them as they travel."""
        named: dict[str, Json] = {"node_id": self.node_id, "epoch": self.epoch, "lease_ms": self.lease_ms}
        return named if self.nonce is None else {**named, NONCE: self.nonce}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Under which epoch a node holds a run (0: it was addressed), whether it had to suspend it, and what it asks."""

    epoch: int
    suspended: bool
    nonce: str | None

    @classmethod
    def read(cls, fields: Mapping[str, Json]) -> Standing:
        """Read that of a status message. Raises MalformedMessageError."""
        suspended = fields.get("suspended", False)
        if not isinstance(suspended, bool):
            raise MalformedMessageError("suspended must be true or false")
        return cls(epoch=_number(fields, "epoch", most=MAX_EPOCH), suspended=suspended, nonce=read_nonce(fields))

    def fields(self) -> dict[str, Json]:
        """Return them as they travel."""
        fields: dict[str, Json] = {"epoch": self.epoch}
        if self.suspended:
            fields["suspended"] = True
        return fields if self.nonce is None else {**fields, NONCE: self.nonce}


def read_nonce(fields: Mapping[str, Json]) -> str | None:
    """Return the nonce of a claim, a status message or a grant; None when it has none. Raises MalformedMessageError."""
    nonce = fields.get(NONCE)
    if nonce is not None and (not isinstance(nonce, str) or id_fault(nonce)):
        raise MalformedMessageError(f"{NONCE} is no id")
    return nonce


def _number(fields: Mapping[str, Json], name: str, *, most: int) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise MalformedMessageError(f"{name} must be a whole number from 0 to {most}")
    return value


def _text(fields: Mapping[str, Json], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or (value and id_fault(value)):
        raise MalformedMessageError(f"{name} must be the id of a node, or empty")
    return value
