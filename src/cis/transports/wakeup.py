"""How a service of a node waits: until it is woken, for a pause after a failure, and for new events.

A storm of wakes becomes a few. Each failure doubles the pause, up to a bound, and jitter keeps many services from
trying again at once. The event log is read as it grows, from where it stands when it is first read, or first read again
after ``forget``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from cis.store.port import Store
from cis.store.records import EventRecord
from cis.transports.ports import NodePort

FIRST_S = 0.25
MOST_S = 60.0

AT_ONCE = 1000


class Wakeup(asyncio.Event):
    """An event that is waited for with a limit. Clear it before looking, so that what comes meanwhile is not missed."""

    async def within(self, seconds: float) -> bool:
        """Wait until it is set, *seconds* at most; return whether it is."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self.wait()
        except TimeoutError:
            return False
        return True


class Calm:
    """Has *call* called in *loop* soon after each wake: at once, unless that was done less than *pause_s* ago."""

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None], *, pause_s: float) -> None:
        self._loop = loop
        self._call = call
        self._pause_s = pause_s
        self._woken = False
        self._not_before_s = 0.0

    def wake(self) -> None:
        """Have it called. From any thread, and cheap; nothing happens once the loop is closed."""
        if not self._woken:
            self._woken = True
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._when_due)

    def _when_due(self) -> None:
        self._loop.call_at(max(self._not_before_s, self._loop.time()), self._do)

    def _do(self) -> None:
        self._woken = False  # before the call: what is stored from here on, it may not see
        self._not_before_s = self._loop.time() + self._pause_s
        self._call()


def pause_s(failures: int, *, jitter: Callable[[], float], most_s: float = MOST_S) -> float:
    """Return how long to wait after that many failures in a row: half of it is certain, half is jitter."""
    whole = min(most_s, FIRST_S * 2.0 ** min(failures, 30))
    return whole * (0.5 + jitter() / 2)


class EventTail:
    """The events since the last look, in order; each is given once."""

    def __init__(self, node: NodePort) -> None:
        self._node = node
        self._seq: int | None = None

    def forget(self) -> None:
        """Pass over all that will be there at the next look."""
        self._seq = None

    async def new(self) -> AsyncIterator[tuple[bool, Sequence[EventRecord]]]:
        """Give what is new, page by page, each with whether events before it were missed for good."""
        if self._seq is None:
            await self._skip()
        while events := await self._node.read(self._after):
            missed = events[0].seq > (self._seq or 0) + 1
            self._seq = events[-1].seq
            yield missed, events
            if len(events) < AT_ONCE:
                return

    async def _skip(self) -> None:
        self._seq = await self._node.read(lambda store: store.events.last_seq())

    def _after(self, store: Store) -> Sequence[EventRecord]:
        return store.events.after(self._seq or 0, limit=AT_ONCE)
