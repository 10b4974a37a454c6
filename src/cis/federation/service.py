"""What a service of federation uses: its node, the way to peers, waking, pauses after failures, new events.

A storm of wakes becomes a few. Each failure doubles the pause, up to a bound, and jitter keeps many services from
trying again at once. The event log is read as it grows, from where it stands when it is first read, or first read again
after ``forget``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from cis.engine.logfiles import LogFiles
from cis.engine.this_node import ThisNode
from cis.model.message import Message, Reply
from cis.store.cluster import PeerRecord
from cis.store.port import Store
from cis.store.records import EventRecord

FIRST_S = 0.25
MOST_S = 60.0

AT_ONCE = 1000

T = TypeVar("T")


class NodePort(Protocol):
    """The node as what crosses between nodes uses it; all of it may be called from the event loop."""

    @property
    def this_node(self) -> ThisNode: ...

    @property
    def logs(self) -> LogFiles: ...

    async def read(self, function: Callable[[Store], T]) -> T:
        """Call *function* with a store, in a thread that reads."""
        ...

    async def write(self, job: Callable[[Store], T]) -> T:
        """Call *job* inside a transaction, and return once that is committed.

        Raises:
            OverloadedError: too many wait already.
        """
        ...

    def wake(self, worker_ids: Iterable[str] = ()) -> None:
        """Have everybody look at what was stored: the supervisor, these workers, and whoever listens."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The peer's signed answer. ``clock_ahead_us`` is how far its clock is ahead, give or take half the round trip."""

    reply: Reply
    message: Message
    blob: str | None
    clock_ahead_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NotDelivered:
    """Why there is no answer; with ``uncertain`` the message may have arrived all the same.

    ``redirected``: the peer's address sends elsewhere, where nobody was asked.
    """

    fault: str
    uncertain: bool
    unreachable: bool = False
    redirected: bool = False


class Sending(Protocol):
    """The way to a peer that has an address."""

    async def send(self, message: Message, peer: PeerRecord) -> Answered | NotDelivered:
        """Send a message, signed by this node, and return what came of it."""
        ...


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
