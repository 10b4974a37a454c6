"""What the store keeps of other nodes: records of peers, of what is to be sent, and of what the room said.

Times are integers, microseconds since 1970-01-01 UTC, by this node's own clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from cis.model.dag import Json
from cis.model.scope_rules import Patterns
from cis.model.states import Priority


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRecord:
    """A node that was trusted by hand. ``public_key`` is Ed25519 in base64; ``may`` is what it may do here.

    ``scopes`` are those that DAGs of it may run in here (None: all).

    ``contact_at_us`` is when its last signed word came, ``clock_ahead_us`` how far its clock was ahead of this one's,
    ``fault`` why it could not be reached last time (None: it could, or was not tried).
    """

    node_id: str
    public_key: str
    may: tuple[str, ...]
    trusted_at_us: int
    url: str | None = None
    matrix_user: str | None = None
    contact_at_us: int | None = None
    clock_ahead_us: int | None = None
    fault: str | None = None
    scopes: Patterns | None = None


EVERYONE = ""


class Route(StrEnum):
    """Which way a message takes."""

    PUSH = "push"
    ROOM = "room"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxItem:
    """A message that is to be sent until it is accepted or expired; ``node_id`` is empty when it is for everyone.

    ``kind`` is a ``MessageKind``. The fields of an execute message are made from the run's rows when it is sent.
    ``attempts`` counts sends that were begun; ``uncertain`` says that one of them may have arrived.
    """

    message_id: str
    kind: str
    run_id: str
    node_id: str
    route: Route
    priority: Priority
    created_at_us: int
    expires_at_us: int
    due_at_us: int
    fields: Mapping[str, Json] = field(default_factory=dict)
    attempts: int = 0
    uncertain: bool = False
    fault: str | None = None


def room_item(
    *,
    kind: str,
    message_id: str,
    run_id: str,
    priority: Priority,
    now_us: int,
    within_us: int,
    node_id: str = EVERYONE,
    fields: Mapping[str, Json] | None = None,
) -> OutboxItem:
    """Return a message that goes by the room, is due now, and expires *within_us*."""
    return OutboxItem(
        message_id=message_id,
        kind=kind,
        run_id=run_id,
        node_id=node_id,
        route=Route.ROOM,
        priority=priority,
        created_at_us=now_us,
        expires_at_us=now_us + within_us,
        due_at_us=now_us,
        fields=fields or {},
    )


class Schedule(NamedTuple):
    """For which nodes something is due by push, and when the next item of all is due (None: the outbox is empty)."""

    nodes: tuple[str, ...]
    next_us: int | None


class RemoteRole(StrEnum):
    """What this node has to do with a run that is not its own alone."""

    SENT = "sent"  # accepted here, executed by node ``peer_id``
    OFFERED = "offered"  # accepted here, offered in the room, granted to nobody yet
    RECEIVED = "received"  # executed here, for node ``peer_id``


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteRun:
    """The part of another node, ``peer_id`` (column ``peer``), in a run.

    ``epoch``, ``lease_until_us`` and ``lease_us``, how long each renewal lasts, are of the grant (0 and None for a run
    that was addressed). ``lease_uptime_us`` is the same deadline by the holder's ``ThisNode.uptime_us``, which nobody
    sets, in the life of its machine that ``boot_id`` names. ``suspended_us`` is when the holder was last granted a run
    anew that it had to suspend. ``control_seq`` is the last control that was asked for (sent) or acted upon (received).
    ``applied_version`` is the version of the executing node's row that was applied here last (column
    ``heard_version``). ``open``: something is still to be received (sent), decided (offered) or reported (received).
    ``event_id`` is the execute event in the room. ``reported_bytes`` is what was written here of the logs and attempts that
    the executing node reported. ``ignores_errexit``: it runs text commands without ``-e``, which the run asks for.
    """

    run_id: str
    role: RemoteRole
    peer_id: str
    epoch: int = 0
    lease_until_us: int | None = None
    control_seq: int = 0
    applied_version: int = 0
    open: bool = True
    event_id: str | None = None
    lease_us: int = 0
    suspended_us: int | None = None
    boot_id: str = ""
    lease_uptime_us: int | None = None
    reported_bytes: int = 0
    ignores_errexit: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseAsk:
    """A claim, or a status message that asks for a lease to be renewed: a grant that names its nonce answers it.

    A lease counts from ``asked_at_us`` (the wall's time) and ``asked_uptime_us`` (``ThisNode.uptime_us``, in the life
    of the machine that ``boot_id`` names): when the message was made, which is before anybody could have it.
    """

    run_id: str
    nonce: str
    asked_at_us: int
    asked_uptime_us: int
    boot_id: str


class OfferState(StrEnum):
    """What became of an offer that this node has seen."""

    OPEN = "open"
    CLAIMED = "claimed"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferRecord:
    """An unaddressed DAG that its origin, ``origin_id`` (column ``sender``), has offered in the room.

    ``content`` holds what the event says of whom it wants (``cis.model.message``), and ``unfit`` once this node
    has refused it. ``claim_at_us`` is when this node claimed it last, or else saw it.
    """

    run_id: str
    origin_id: str
    event_id: str
    epoch: int
    priority: Priority
    content: Mapping[str, Json]
    state: OfferState
    created_at_us: int
    expires_at_us: int
    claim_at_us: int


class JournalState(StrEnum):
    """Whether an event of the room was acted upon."""

    NEW = "new"
    DONE = "done"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomEvent:
    """An event of the room as the journal keeps it, in the room's order (``seq``, 0 until stored).

    ``sent_at_us`` is when the homeserver took it, by this node's clock: the time of receipt less the age that the
    homeserver told.
    """

    event_id: str
    room_id: str
    sender: str
    type: str
    content: Mapping[str, Json]
    sent_at_us: int
    state: JournalState = JournalState.NEW
    seq: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomCursor:
    """How far a room was read, and as which user."""

    room_id: str
    user_id: str
    next_batch: str
    synced_at_us: int
