"""The one place where the time is read and ids are made.

Ages are counted by an ``AgeClock``: by the wall's time, less what it has jumped forward while this process looked. A
wall clock that jumps a month ahead makes everything a month old. The monotonic clock tells how much time has really
passed, so of what it does not know nothing counts as age. A clock that was wrong already when the process began is
mostly set right within minutes; so nothing is judged by its age before the two clocks have gone side by side for a
while.
"""

from __future__ import annotations

import os
import time

from cis.engine.times import CLOCK_WAS_SET_US, Instant

TOLERANCE_S = 30.0  # between two looks: clocks are slewed, and threads sleep
SETTLE_S = 600.0
_CLOCK_WAS_SET_NS = CLOCK_WAS_SET_US * 1000
_AWAKE_OR_ASLEEP = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # a Mac's monotonic clock counts its sleep


def now_us() -> int:
    """Return microseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1000


def now() -> Instant:
    """Return this moment on both clocks."""
    return Instant(time.time_ns() // 1000, time.monotonic())


class WatchedClock:
    """Returns this moment on both clocks, and how far the wall clock was set since this was made."""

    __slots__ = ("_ahead_ns", "_set_us")

    def __init__(self) -> None:
        self._ahead_ns = time.time_ns() - time.clock_gettime_ns(_AWAKE_OR_ASLEEP)
        self._set_us = 0

    def __call__(self) -> Instant:
        """Return this moment."""
        wall_ns = time.time_ns()
        ahead_ns = wall_ns - time.clock_gettime_ns(_AWAKE_OR_ASLEEP)
        if abs(ahead_ns - self._ahead_ns) >= _CLOCK_WAS_SET_NS:  # else it is only slewed
            self._set_us += (ahead_ns - self._ahead_ns) // 1000
        self._ahead_ns = ahead_ns
        return Instant(wall_ns // 1000, time.monotonic(), self._set_us)


def now_awake_or_asleep() -> Instant:
    """Return this moment; the monotonic clock is one that goes on while the machine sleeps."""
    return Instant(time.time_ns() // 1000, time.clock_gettime(_AWAKE_OR_ASLEEP))


def uptime_us() -> int:
    """Return how long this machine has been up, asleep or not, in microseconds."""
    return time.clock_gettime_ns(_AWAKE_OR_ASLEEP) // 1000


def new_id() -> str:
    """Return a UUID of version 7 (RFC 9562): unique, and sorted by the time at which it was made.

    The 12 bits after the milliseconds are the fraction of the millisecond, so ids of one process keep their order.
    """
    ns = time.time_ns()
    milliseconds, rest = divmod(ns, 1_000_000)
    fraction = rest * 4096 // 1_000_000
    random = int.from_bytes(os.urandom(8), "big") >> 2
    value = (milliseconds << 80) | (0x7 << 76) | (fraction << 64) | (0b10 << 62) | random
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


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
            _tell_of_jump(jump_us)
        return now.wall_us - max(0, self._ahead_us)

    def settled(self, *, within_s: float) -> bool:
        """Whether the clocks have agreed for ``SETTLE_S``, or for *within_s* where that is shorter."""
        return self._last.mono_s - self._steady_since_s >= min(SETTLE_S, within_s)


def _tell_of_jump(jump_us: int) -> None:
    import logging  # noqa: PLC0415 - commands read the time, and want no log

    told = {"jump_s": round(jump_us / 1e6)}
    logging.getLogger(__name__).warning("the clock was set; ages are counted without that", extra=told)
