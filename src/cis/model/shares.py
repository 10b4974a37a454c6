"""Shares of what anybody can cause as often as they like: so many of each kind within a time; the rest is counted."""

from __future__ import annotations

from dataclasses import dataclass

MAX_KINDS = 256  # beyond these, all others have one share together: whoever names the kinds may make names up
_OTHERS = "others"


@dataclass(slots=True)
class _Tally:
    since_us: int
    count: int = 0


class Shares:
    """Lets *most* of each kind pass within *within_us*. Not for several threads at once."""

    def __init__(self, *, most: int, within_us: int) -> None:
        self._most = most
        self._within_us = within_us
        self._tallies: dict[str, _Tally] = {}

    def take(self, kind: str, *, at_us: int) -> int | None:
        """Return how many of a kind were left out before this one; None when this one is to be left out, too."""
        tally = self._tally(kind, at_us)
        left_out = 0
        if self._over(tally, at_us):
            left_out = max(0, tally.count - self._most)
            tally.since_us, tally.count = at_us, 0
        tally.count += 1
        return left_out if tally.count <= self._most else None

    def _tally(self, kind: str, at_us: int) -> _Tally:
        found = self._tallies.get(kind)
        if found is not None:
            return found
        if len(self._tallies) >= MAX_KINDS:
            for old in [name for name, tally in self._tallies.items() if self._over(tally, at_us)]:
                del self._tallies[old]
        return self._tallies.setdefault(kind if len(self._tallies) < MAX_KINDS else _OTHERS, _Tally(at_us))

    def _over(self, tally: _Tally, at_us: int) -> bool:
        return not 0 <= at_us - tally.since_us < self._within_us  # the clock may have been set back
