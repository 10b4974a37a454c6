"""Requests that the gate turned away, in the audit log: enough to see an attack, never enough to fill the disk.

Strangers and holders of tokens are counted apart, so that a flood of the first hides nothing of the second.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from starlette.types import Scope

from cis.api.ports import NodeServices, Rights
from cis.errors import CisError
from cis.store.records import AuditRecord

log = logging.getLogger(__name__)

MAX_REFUSALS = 60
WITHIN_S = 3600.0
STRANGER = "unverified:http"
_MAX_PLACE = 200


@dataclass(slots=True)
class _Tally:
    """Refusals of one kind since a moment."""

    since_s: float
    count: int = 0


class Refusals:
    """Writes refusals down, at most ``MAX_REFUSALS`` of each kind within ``WITHIN_S``, and how many were left out."""

    def __init__(self, services: NodeServices) -> None:
        self._services = services
        self._tallies: dict[bool, _Tally] = {}

    async def note(self, scope: Scope, error: CisError, *, now_s: float) -> None:
        """Write down that a request was refused; a store that takes nothing changes no answer."""
        rights: Rights | None = scope.get("state", {}).get("rights")
        known = rights is not None
        tally = self._tallies.setdefault(known, _Tally(now_s))
        left_out = 0
        if now_s - tally.since_s >= WITHIN_S:
            left_out = max(0, tally.count - MAX_REFUSALS)
            tally.since_s, tally.count = now_s, 0
        tally.count += 1
        if tally.count > MAX_REFUSALS:
            return
        more = f"; {left_out} more were refused before" if left_out else ""
        client = scope.get("client")
        entry = AuditRecord(
            at_us=self._services.site.clock_us(),
            actor=rights.actor if rights is not None else STRANGER,
            action="refused.http",
            subject=f"{error.code} {_place(scope)}{more}",
            source=client[0] if client else "unknown",
        )
        try:
            await self._services.write(lambda store: store.append_audit(entry))
        except CisError as failed:
            log.warning("a refusal could not be written down", extra={"error": str(failed)})


def _place(scope: Scope) -> str:
    """Return method and path without the query, in letters that any terminal only shows."""
    text = f"{scope['method']} {scope['path']}"[:_MAX_PLACE]
    return text if text.isascii() and text.isprintable() else ascii(text)
