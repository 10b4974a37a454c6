"""How a service waits for something to do, until it is woken or its time is over."""

from __future__ import annotations

import asyncio


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
