"""Moments: taken on two clocks, and shown as text.

An ``Instant`` has the wall clock's time for what is stored, and the monotonic clock's for what is waited for. A time is
shown as RFC 3339, in UTC, with microseconds and a ``Z``.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple, overload

DELIVER_WITHIN_S = 7 * 86400.0  # what a run may take to reach its node, unless it or the settings say so
LEASE_S = 60.0  # what a node that was granted a run may be silent, unless the settings say so
CLOCK_WAS_SET_US = 1_000_000  # the two clocks differ by less when nobody has set one

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)  # a list has thousands of times


def end_us(started_us: int, *, now_us: int, took_us: int) -> int:
    """Return when something ended that was started at *started_us*, so that the difference is how long it took.

    *took_us* is by a clock that nobody sets. The wall clock's word counts as long as both agree; one that was set
    meanwhile would make it a day, or less than nothing.
    """
    agree = abs(now_us - started_us - took_us) < CLOCK_WAS_SET_US
    return max(started_us, now_us if agree else started_us + took_us)


class Instant(NamedTuple):
    """``wall_us``: microseconds since 1970 UTC, may jump; ``mono_s``: seconds, only ever grows.

    ``set_us`` is how far the wall clock was set forward (less than 0: back) since this process began to look.
    """

    wall_us: int
    mono_s: float
    set_us: int = 0

    def until(self, wall_us: int, *, at_most_s: float) -> float:
        """Return the monotonic time of a stored wall time, in bounds that a jumped clock cannot leave."""
        return self.mono_s + min(max((wall_us - self.wall_us) / 1e6, 0.0), at_most_s)


def local(moment: datetime) -> datetime:
    """Return *moment* in this machine's zone; in UTC where ``TZ`` is a day or more away, which no datetime can be."""
    try:
        return moment.astimezone()
    except ValueError:
        return moment.astimezone(UTC)


@overload
def rfc3339(at_us: int) -> str: ...
@overload
def rfc3339(at_us: None) -> None: ...
@overload
def rfc3339(at_us: int | None) -> str | None: ...
def rfc3339(at_us: int | None) -> str | None:
    """Return a stored time as text, as in ``2026-01-31T12:03:10.000000Z``; None stays None."""
    if at_us is None:
        return None
    return (_EPOCH + timedelta(microseconds=at_us)).isoformat(timespec="microseconds") + "Z"
