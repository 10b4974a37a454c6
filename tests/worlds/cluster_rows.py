"""Records about other nodes for the store's tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cis.model.states import Priority
from cis.store.cluster import OfferRecord, OfferState, OutboxItem, PeerRecord, RoomEvent, Route


def peer(node_id: str, **changes: Any) -> PeerRecord:
    """Return a peer with a key of its own."""
    return replace(
        PeerRecord(node_id=node_id, public_key=f"key-{node_id}", may=("execute",), trusted_at_us=1), **changes
    )


def message(message_id: str, **changes: Any) -> OutboxItem:
    """Return a message to n2 by push that is due at 10."""
    made = OutboxItem(
        message_id=message_id,
        kind="control",
        run_id="r1",
        node_id="n2",
        route=Route.PUSH,
        priority=Priority.NORMAL,
        created_at_us=1,
        expires_at_us=100,
        due_at_us=10,
    )
    return replace(made, **changes)


def event(number: int, **changes: Any) -> RoomEvent:
    """Return an event of the room."""
    made = RoomEvent(
        event_id=f"$e{number}", room_id="!r", sender="@n2:x", type="cis", content={"n": number}, sent_at_us=number
    )
    return replace(made, **changes)


def offer(run_id: str, **changes: Any) -> OfferRecord:
    """Return an open offer of n2."""
    made = OfferRecord(
        run_id=run_id,
        origin_id="n2",
        event_id=f"${run_id}",
        epoch=1,
        priority=Priority.NORMAL,
        content={"dag_id": "d", "tasks": [{"id": "t0", "command": "écho"}]},
        state=OfferState.OPEN,
        created_at_us=1,
        expires_at_us=100,
        claim_at_us=5,
    )
    return replace(made, **changes)
