"""Rows to records, as in ``cis.store.sql.rows``, for the tables that are about other nodes.

The records are imported with the first row: most commands read none, and would wait 4 ms for them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from cis.model.scope_rules import read_patterns
from cis.model.states import Priority
from cis.store.sql.rows import mapping

if TYPE_CHECKING:
    from cis.model.dag import Json
    from cis.store.cluster import LeaseAsk, OfferRecord, OutboxItem, PeerRecord, RemoteRun, RoomCursor, RoomEvent
    from cis.store.sql.database import Row

FAULT_CHARS = 500  # a fault may quote the answer of another program, however long that is

PEER = "node_id, public_key, may, trusted_at_us, url, matrix_user, contact_at_us, clock_ahead_us, fault, scopes"
OUTBOX = (
    "message_id, kind, run_id, node_id, route, priority, created_at_us, expires_at_us, due_at_us, fields, attempts,"
    " uncertain, fault"
)
REMOTE = (
    "run_id, role, peer, epoch, lease_until_us, control_seq, heard_version, open, event_id, lease_us,"
    " suspended_us, boot_id, lease_uptime_us, told_bytes, ignores_errexit"
)
ROOM_EVENT = "event_id, room_id, sender, type, content, sent_at_us, state, seq"
ROOM_CURSOR = "room_id, user_id, next_batch, synced_at_us"
LEASE_ASK = "run_id, nonce, asked_at_us, asked_uptime_us, boot_id"
OFFER = "run_id, sender, event_id, epoch, priority, content, state, created_at_us, expires_at_us, claim_at_us"


def peer_of(row: Row) -> PeerRecord:
    """Return the record of a row of PEER."""
    from cis.store.cluster import PeerRecord  # noqa: PLC0415 - see above

    return PeerRecord(
        node_id=row[0],
        public_key=row[1],
        may=tuple(row[2].split(",")) if row[2] else (),
        trusted_at_us=row[3],
        url=row[4],
        matrix_user=row[5],
        contact_at_us=row[6],
        clock_ahead_us=row[7],
        fault=row[8],
        scopes=read_patterns(row[9]),
    )


def outbox_item_of(row: Row) -> OutboxItem:
    """Return the record of a row of OUTBOX."""
    from cis.store.cluster import OutboxItem, Route  # noqa: PLC0415 - see above

    return OutboxItem(
        message_id=row[0],
        kind=row[1],
        run_id=row[2],
        node_id=row[3],
        route=Route(row[4]),
        priority=Priority(row[5]),
        created_at_us=row[6],
        expires_at_us=row[7],
        due_at_us=row[8],
        fields=mapping(row[9]),
        attempts=row[10],
        uncertain=bool(row[11]),
        fault=row[12],
    )


def remote_of(row: Row) -> RemoteRun:
    """Return the record of a row of REMOTE."""
    from cis.store.cluster import RemoteRole, RemoteRun  # noqa: PLC0415 - see above

    return RemoteRun(
        run_id=row[0],
        role=RemoteRole(row[1]),
        peer_id=row[2],
        epoch=row[3],
        lease_until_us=row[4],
        control_seq=row[5],
        applied_version=row[6],
        open=bool(row[7]),
        event_id=row[8],
        lease_us=row[9],
        suspended_us=row[10],
        boot_id=row[11],
        lease_uptime_us=row[12],
        reported_bytes=row[13],
        ignores_errexit=bool(row[14]),
    )


def room_event_of(row: Row) -> RoomEvent:
    """Return the record of a row of ROOM_EVENT."""
    from cis.store.cluster import JournalState, RoomEvent  # noqa: PLC0415 - see above

    return RoomEvent(
        event_id=row[0],
        room_id=row[1],
        sender=row[2],
        type=row[3],
        content=mapping(row[4]),
        sent_at_us=row[5],
        state=JournalState(row[6]),
        seq=row[7],
    )


def room_cursor_of(row: Row) -> RoomCursor:
    """Return the record of a row of ROOM_CURSOR."""
    from cis.store.cluster import RoomCursor  # noqa: PLC0415 - see above

    return RoomCursor(room_id=row[0], user_id=row[1], next_batch=row[2], synced_at_us=row[3])


def offer_of(row: Row) -> OfferRecord:
    """Return the record of a row of OFFER."""
    from cis.store.cluster import OfferRecord, OfferState  # noqa: PLC0415 - see above

    return OfferRecord(
        run_id=row[0],
        origin_id=row[1],
        event_id=row[2],
        epoch=row[3],
        priority=Priority(row[4]),
        content=mapping(row[5]),
        state=OfferState(row[6]),
        created_at_us=row[7],
        expires_at_us=row[8],
        claim_at_us=row[9],
    )


def lease_ask_of(row: Row) -> LeaseAsk:
    """Return the record of a row of LEASE_ASK."""
    from cis.store.cluster import LeaseAsk  # noqa: PLC0415 - see above

    return LeaseAsk(run_id=row[0], nonce=row[1], asked_at_us=row[2], asked_uptime_us=row[3], boot_id=row[4])


def json_text(plain: Mapping[str, Json]) -> str:
    """Return *plain* as it is stored: in ASCII, so half a surrogate pair from outside can be stored as well."""
    return json.dumps(dict(plain))
