"""Reads a room so that no event is lost, none comes twice, and no history is acted upon.

The caller keeps a *cursor*, the homeserver's ``next_batch`` token, and commits it together with the events of the
batch; after a crash it asks again from the old cursor and gets the same events.

- **No cursor** (a first start): the batch has none of the room's events, only the cursor.
- **A gap.** ``/sync`` returns at most 100 events and calls itself limited. Then everything between the new cursor and
  the old one is read through ``/messages``. The timeline itself is dropped: after a join Synapse fills it with
  events from before the old cursor, and calls it limited as well.
- **Not known to have been in the room at the old cursor** (just started, or joined anew): handled as a gap, for
  homeservers that do not call that limited.
- **A bad cursor.** The homeserver refuses it, or answers with one from before it: its data was lost, or restored from
  an older copy. As for a first start, but loudly: what was said meanwhile is not read.
- **Put out of the room**: nothing is read, and the cursor moves on.

Messages (``events``) and state (``state``) are kept apart: an event that has a state key is never a message,
whatever its type.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from cis.errors import RoomError, RoomRefusedError
from cis.model.dag import Json
from cis.model.tree import holds_text
from cis.transports.matrix.client import PAGE, MatrixClient
from cis.transports.matrix.http import Event, SyncAnswer, optional_text, part

log = logging.getLogger(__name__)

WALK_PAGES = 1000
UNKNOWN_AGE_MS = 86_400_000
STATE_TYPES = (
    "m.room.encryption",
    "m.room.power_levels",
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.guest_access",
    "m.room.tombstone",
)
_NOTHING = {"not_types": ["*"]}
_POSITION = re.compile(r"s(\d{1,18})_")


@dataclass(frozen=True, slots=True, kw_only=True)
class RawEvent:
    """One event as the homeserver gave it; nothing in ``content`` is checked.

    ``age_ms`` is how long ago the homeserver got it, by its own clock; a homeserver that does not say makes all
    events look a day old. ``state_key`` is None for messages; a redacted event has no
    content left. ``txn_id`` is there when this very session sent it.
    """

    event_id: str
    sender: str
    type: str
    content: dict[str, Json] = field(repr=False)
    age_ms: int
    state_key: str | None
    txn_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What came since the cursor, in the room's order, and the next cursor.

    ``state`` has what of the room's state changed. It is no state to judge a room by, only a reason to ask for all of
    it: Synapse leaves the creation of a room of version 12 out. ``fresh``: there was no cursor to go on from. ``lost``:
    there was one, but the homeserver does not know it; events were missed. ``walked_s`` is how long it took to fill a
    gap: the ages of events may be as much too small.
    """

    events: tuple[RawEvent, ...]
    next_batch: str
    state: tuple[RawEvent, ...]
    fresh: bool
    joined: bool
    lost: bool
    walked_s: float = 0.0


class RoomReader:
    """Reads the events of some types out of one room."""

    def __init__(self, client: MatrixClient, room_id: str, *, types: Sequence[str]) -> None:
        self._client = client
        self._room_id = room_id
        self._timeline = {"types": [*dict.fromkeys([*types, *STATE_TYPES])], "lazy_load_members": True}
        self._joined: bool | None = None  # at the cursor that the last batch gave

    async def catch_up(self, since: str | None, *, timeout_ms: int) -> Batch:
        """Return what came since a cursor; wait up to ``timeout_ms`` for something to come.

        Raises:
            RoomError: the homeserver failed, or more came than can be read; nothing changed, ask again.
        """
        if since is None:
            return await self._first(lost=False)
        try:
            answer = await self._sync(since, timeout_ms=timeout_ms)
        except RoomRefusedError as error:
            if error.status != 400:
                raise
            return await self._lost(since, why=str(error))
        if _went_back(since, answer.next_batch):
            return await self._lost(since, why=f"it is at {answer.next_batch}, which is older")
        answered_s = asyncio.get_running_loop().time()
        if answer.joined:
            known = self._joined is True and not answer.limited
            raw = answer.timeline if known else await self._walk(answer.next_batch, since)
        else:
            raw = ()
        self._joined = await self._joined_now(answer)
        walked_s = asyncio.get_running_loop().time() - answered_s
        return replace(self._batch(answer, raw, fresh=False, lost=False), walked_s=walked_s)

    async def _first(self, *, lost: bool) -> Batch:
        answer = await self._sync(None, timeout_ms=0)
        self._joined = answer.joined is True
        return self._batch(answer, (), fresh=True, lost=lost)

    async def _lost(self, since: str, *, why: str) -> Batch:
        facts = {"room_id": self._room_id, "since": since, "why": why}
        log.error("the homeserver does not know how far the room was read; events were missed", extra=facts)
        return await self._first(lost=True)

    async def _sync(self, since: str | None, *, timeout_ms: int) -> SyncAnswer:
        limit = 1 if since is None else PAGE
        wanted: dict[str, Json] = {
            "presence": _NOTHING,
            "account_data": _NOTHING,
            "room": {
                "rooms": [self._room_id],
                "timeline": {**self._timeline, "limit": limit},
                "state": {"lazy_load_members": True},
                "ephemeral": _NOTHING,
                "account_data": _NOTHING,
            },
        }
        return await self._client.sync(self._room_id, since=since, filter=wanted, timeout_ms=timeout_ms)

    async def _walk(self, newest: str, oldest: str) -> tuple[Event, ...]:
        """Return the events between two cursors, oldest first."""
        found: list[Event] = []
        here = newest
        for _ in range(WALK_PAGES):
            page, following = await self._client.messages(self._room_id, from_=here, to=oldest, filter=self._timeline)
            found += page
            if following is None or following == here:
                return tuple(reversed(found))
            here = following
        missed = WALK_PAGES * PAGE
        raise RoomError(
            f"more than {missed} events came in {self._room_id} since it was read, too many to catch up with"
        )

    async def _joined_now(self, answer: SyncAnswer) -> bool:
        if answer.joined is not None:
            return answer.joined
        if self._joined is None:  # this process is new, and nothing happened in the room
            return self._room_id in await self._client.joined_rooms()
        return self._joined

    def _batch(self, answer: SyncAnswer, raw: Iterable[Event], *, fresh: bool, lost: bool) -> Batch:
        events = self._read(raw)
        return Batch(
            events=tuple(event for event in events if event.state_key is None),
            next_batch=answer.next_batch,
            state=(*self._read(answer.state), *(event for event in events if event.state_key is not None)),
            fresh=fresh,
            joined=self._joined is True,
            lost=lost,
        )

    def _read(self, raw: Iterable[Event]) -> list[RawEvent]:
        found: dict[str, RawEvent] = {}
        for one in raw:
            event = raw_event(one)
            if event is None:
                log.warning("an event of the room cannot be read", extra={"room_id": self._room_id})
            else:
                found.setdefault(event.event_id, event)
        return [*found.values()]


def raw_event(event: Event) -> RawEvent | None:
    """Return an event, or None when it is none or could not be stored."""
    event_id, sender, type_ = (optional_text(event, name) for name in ("event_id", "sender", "type"))
    content = event.get("content")
    if event_id is None or sender is None or type_ is None or not isinstance(content, dict) or not holds_text(event):
        return None
    unsigned = part(event, "unsigned")
    age_ms = unsigned.get("age")
    return RawEvent(
        event_id=event_id,
        sender=sender,
        type=type_,
        content=content,
        age_ms=max(0, age_ms) if isinstance(age_ms, int) else UNKNOWN_AGE_MS,
        state_key=optional_text(event, "state_key"),
        txn_id=optional_text(unsigned, "transaction_id"),
    )


def _went_back(since: str, next_batch: str) -> bool:
    """Whether Synapse's numbers say that a cursor is older than the one before; cursors of others say nothing."""
    before, after = _POSITION.match(since), _POSITION.match(next_batch)
    return before is not None and after is not None and int(after[1]) < int(before[1])
