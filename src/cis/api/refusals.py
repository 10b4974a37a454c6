"""Requests that the gate turned away, in the audit log: enough to see an attack, never enough to fill the disk.

Strangers have one share together, and each token its own, so that a flood of one hides nothing of another. What is left
out is not even handed to the writer.
"""

from __future__ import annotations

import logging

from starlette.types import Scope

from cis.api.ports import NodeServices, Rights
from cis.errors import CisError
from cis.store.records import AuditRecord
from cis.store.refusals import RefusalShares

log = logging.getLogger(__name__)

STRANGER = "unverified:http"
_MAX_PLACE = 200


class Refusals:
    """Writes down refusals, of each actor no more than its share, and how many were left out."""

    def __init__(self, services: NodeServices) -> None:
        self._services = services
        self._shares = RefusalShares()

    async def note(self, scope: Scope, error: CisError, *, now_us: int) -> None:
        """Write down that a request was refused; a store that takes nothing changes no answer."""
        rights: Rights | None = scope.get("state", {}).get("rights")
        client = scope.get("client")
        entry = self._shares.admit(
            AuditRecord(
                at_us=now_us,
                actor=STRANGER if rights is None else rights.actor,
                action="refused.http",
                subject=f"{error.code} {_place(scope)}",
                source=client[0] if client else "unknown",
            )
        )
        if entry is None:
            return
        try:
            await self._services.write(lambda store: store.append_audit(entry))
        except CisError as failed:
            log.warning("a refusal could not be written down", extra={"error": str(failed)})


def _place(scope: Scope) -> str:
    """Return method and path without the query, in letters that any terminal only shows."""
    text = f"{scope['method']} {scope['path']}"[:_MAX_PLACE]
    return text if text.isascii() and text.isprintable() else ascii(text)
