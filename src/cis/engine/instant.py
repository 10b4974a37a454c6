"""A moment, on both clocks: the wall's for what is stored, the monotonic one for what is waited for."""

from __future__ import annotations

from typing import NamedTuple


class Instant(NamedTuple):
    """``wall_us``: microseconds since 1970 UTC, may jump; ``mono_s``: seconds, only ever grows."""

    wall_us: int
    mono_s: float

    def until(self, wall_us: int, *, at_most_s: float) -> float:
        """Return the monotonic time of a stored wall time, in bounds that a jumped clock cannot leave."""
        return self.mono_s + min(max((wall_us - self.wall_us) / 1e6, 0.0), at_most_s)
