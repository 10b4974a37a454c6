"""Who sends a request, and what is written down of it."""

from __future__ import annotations

from fastapi import Request

from cis.api.ports import NodeServices, Rights
from cis.store.port import Store
from cis.store.records import AuditRecord


def actor_of(request: Request) -> str:
    """Return the name of the token that the gate let in."""
    rights: Rights = request.state.rights
    return rights.actor


def source_of(request: Request) -> str:
    """Return the address that a request came from."""
    return request.client.host if request.client else "unknown"


def append_audit(store: Store, services: NodeServices, request: Request, *, action: str, subject: str) -> None:
    """Write down, in the transaction of the action itself, who did it."""
    store.append_audit(
        AuditRecord(
            at_us=services.site.clock_us(),
            actor=actor_of(request),
            action=action,
            subject=subject,
            source=source_of(request),
        )
    )
