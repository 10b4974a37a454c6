"""Shares of a log, so that nobody fills the disk or hides what others did: so many entries of each kind within a time.

To be refused costs whoever asks nothing, so it can be had ten thousand times a second. The first of an hour are written
into the audit log; the others are counted, and the next one that is written says how many there were.
"""

from __future__ import annotations

from cis.store.access_records import AuditRecord

MAX_REFUSALS = 60
WITHIN_US = 3_600_000_000
REFUSED = "refused."
UNVERIFIED = "unverified"
MAX_KINDS = 256  # beyond these, all others have one share together: whoever names the kinds may make names up
_OTHERS = "others"


class _Tally:
    __slots__ = ("count", "since_us")

    def __init__(self, since_us: int) -> None:
        self.since_us = since_us
        self.count = 0


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


class RefusalShares:
    """Says which entries of the audit log are written. Not for several threads at once."""

    def __init__(self, *, most: int = MAX_REFUSALS) -> None:
        self._shares = Shares(most=most, within_us=WITHIN_US)

    def admit(self, entry: AuditRecord) -> AuditRecord | None:
        """Return an entry as it is to be written, with how many were left out before it; None for not at all."""
        if not entry.action.startswith(REFUSED):
            return entry
        kind, _, _ = entry.actor.partition(":")
        left_out = self._shares.take(kind if kind == UNVERIFIED else entry.actor, at_us=entry.at_us)
        if left_out:
            return entry._replace(subject=f"{entry.subject}; {left_out} more were refused before")
        return entry if left_out == 0 else None
