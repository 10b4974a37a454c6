"""What a homeserver answers, as data; events stay as raw as they came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cis.errors import RoomError
from cis.model.dag import Json

Event = Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class WhoAmI:
    """Whose access token this is."""

    user_id: str
    device_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A new session of a user."""

    access_token: str = field(repr=False)
    device_id: str
    user_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncAnswer:
    """What one ``/sync`` says about one room.

    ``limited``: the timeline is not what came since the token (a gap before it; or, after a join, old events in it).
    ``joined`` is None when the answer does not mention the room.
    """

    next_batch: str
    joined: bool | None
    limited: bool
    timeline: tuple[Event, ...]
    state: tuple[Event, ...]


def sync_answer(said: Any, room_id: str) -> SyncAnswer:
    """Return what the body of a ``/sync`` says about a room."""
    rooms = part(said, "rooms")
    room = part(part(rooms, "join"), room_id)
    if room_id in part(rooms, "join"):
        joined: bool | None = True
    else:
        joined = False if room_id in part(rooms, "leave") else None
    timeline = part(room, "timeline")
    return SyncAnswer(
        next_batch=text(said, "next_batch"),
        joined=joined,
        limited=bool(timeline.get("limited", False)),
        timeline=events(timeline.get("events")),
        state=events(part(room, "state").get("events")),
    )


def part(said: Any, name: str) -> Mapping[str, Any]:
    """Return the object that an object holds under a name; empty if there is none."""
    value = said.get(name) if isinstance(said, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def text(said: Any, name: str) -> str:
    """Return the text that an answer has to hold under a name. Raises RoomError when it has none."""
    value = optional_text(said, name)
    if value is None:
        raise RoomError(f"the homeserver's answer has no {name}")
    return value


def optional_text(said: Any, name: str) -> str | None:
    """Return the text that an answer holds under a name, or None."""
    value = said.get(name) if isinstance(said, Mapping) else None
    return value if isinstance(value, str) else None


def events(said: Any) -> tuple[Event, ...]:
    """Return the events of a list; what is none is left out."""
    return tuple(one for one in said if isinstance(one, Mapping)) if isinstance(said, list) else ()
