"""How a service waits for something to do, until it is woken or its time is over; how a storm of wakes becomes a few."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable


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
