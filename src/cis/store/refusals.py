"""How much of the audit log refusals may take: a share for each actor, so that none fills the disk or hides another's.

To be refused costs whoever asks nothing, so it can be had ten thousand times a second. The first of an hour are written
down; the others are counted, and the next one that is written says how many there were.
"""

from __future__ import annotations

from dataclasses import replace

from cis.model.shares import Shares
from cis.store.records import AuditRecord

MAX_REFUSALS = 60
WITHIN_US = 3_600_000_000
REFUSED = "refused."
UNVERIFIED = "unverified"


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
            return replace(entry, subject=f"{entry.subject}; {left_out} more were refused before")
        return entry if left_out == 0 else None
