"""Reads the event log as it grows, from where it stands when it is first read, or first read again after ``forget``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from cis.store.port import Store
from cis.store.records import EventRecord
from cis.transports.ports import Desk

AT_ONCE = 1000


class EventTail:
    """The events since the last look, in order; each is given once."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._seq: int | None = None

    def forget(self) -> None:
        """Pass over all that will be there at the next look."""
        self._seq = None

    async def new(self) -> AsyncIterator[tuple[bool, Sequence[EventRecord]]]:
        """Give what is new, page by page, each with whether events before it were missed for good."""
        if self._seq is None:
            await self._skip()
        while events := await self._desk.read(self._after):
            missed = events[0].seq > (self._seq or 0) + 1
            self._seq = events[-1].seq
            yield missed, events
            if len(events) < AT_ONCE:
                return

    async def _skip(self) -> None:
        self._seq = await self._desk.read(lambda store: store.last_event_seq())

    def _after(self, store: Store) -> Sequence[EventRecord]:
        return store.events_after(self._seq or 0, limit=AT_ONCE)
