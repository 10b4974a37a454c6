"""A moment, on both clocks: the wall's for what is stored, the monotonic one for what is waited for."""

from __future__ import annotations

from typing import NamedTuple

CLOCK_WAS_SET_US = 1_000_000  # the two clocks differ by less when nobody has set one


def end_us(started_us: int, *, now_us: int, took_us: int) -> int:
    """Return when something ended that was started at *started_us*, so that the difference is how long it took.

    *took_us* is by a clock that nobody sets. The wall clock's word counts as long as both agree; one that was set meanwhile would
    make it a day, or less than nothing.
    """
    agree = abs(now_us - started_us - took_us) < CLOCK_WAS_SET_US
    return max(started_us, now_us if agree else started_us + took_us)


class Instant(NamedTuple):
    """``wall_us``: microseconds since 1970 UTC, may jump; ``mono_s``: seconds, only ever grows."""

    wall_us: int
    mono_s: float

    def until(self, wall_us: int, *, at_most_s: float) -> float:
        """Return the monotonic time of a stored wall time, in bounds that a jumped clock cannot leave."""
        return self.mono_s + min(max((wall_us - self.wall_us) / 1e6, 0.0), at_most_s)
