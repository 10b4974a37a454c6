"""The time by which ages are measured: the wall's, less what it has jumped forward while this process looked.

A wall clock that jumps a month ahead makes everything a month old. The monotonic clock tells how much time has really
passed, so of what it does not know nothing counts as age. A clock that was wrong already when the process began is
mostly set right within minutes; so nothing is judged by its age before the two clocks have gone side by side for a
while.
"""

from __future__ import annotations

import logging

from cis.engine.times import Instant

log = logging.getLogger(__name__)

TOLERANCE_S = 30.0  # between two looks: clocks are slewed, and threads sleep
SETTLE_S = 600.0


class AgeClock:
    """Compares the two clocks whenever it is read. The monotonic one should go on while the machine sleeps."""

    def __init__(self, now: Instant) -> None:
        self._last = now
        self._ahead_us = 0
        self._steady_since_s = now.mono_s

    def read(self, now: Instant) -> int:
        """Return the time, in microseconds, that ages are counted back from."""
        passed_us = round((now.mono_s - self._last.mono_s) * 1e6)
        jump_us = now.wall_us - self._last.wall_us - passed_us
        self._last = now
        if abs(jump_us) > TOLERANCE_S * 1e6:
            self._ahead_us += jump_us
            self._steady_since_s = now.mono_s
            log.warning("the clock was set; ages are counted without that", extra={"jump_s": round(jump_us / 1e6)})
        return now.wall_us - max(0, self._ahead_us)

    def settled(self, *, within_s: float) -> bool:
        """Whether the clocks have agreed for ``SETTLE_S``, or for *within_s* where that is shorter."""
        return self._last.mono_s - self._steady_since_s >= min(SETTLE_S, within_s)
