"""Who sends a request, and what is written down of it."""

from __future__ import annotations

from fastapi import Request

from cis.api.ports import NodeServices, Rights
from cis.model.scope_patterns import Patterns
from cis.store.port import Store
from cis.store.records import AuditRecord


def rights_of(request: Request) -> Rights:
    """Return what the gate let in: a token's name, rights and scopes."""
    rights: Rights = request.state.rights
    return rights


def scopes_of(request: Request) -> Patterns | None:
    """Return the scopes that whoever asks may see and use; None is all."""
    return rights_of(request).scopes


def source_of(request: Request) -> str:
    """Return the address that a request came from."""
    return request.client.host if request.client else "unknown"


def append_audit(store: Store, services: NodeServices, request: Request, *, action: str, subject: str) -> None:
    """Write down, in the transaction of the action itself, who did it."""
    store.append_audit(
        AuditRecord(
            at_us=services.site.clock_us(),
            actor=rights_of(request).actor,
            action=action,
            subject=subject,
            source=source_of(request),
        )
    )
