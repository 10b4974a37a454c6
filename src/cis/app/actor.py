"""Who acts, and the entry of the audit log that says what they did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cis.store.access_records import AuditRecord

if TYPE_CHECKING:
    from cis.store.upkeep_port import Audit


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Whom the audit log names: ``user:…``, a token or ``matrix:…``, and the *source*: ``cli``, an address, a room."""

    name: str
    source: str


def append_audit(audit: Audit, by: Actor, *, action: str, subject: str, now_us: int) -> None:
    """Write down, in the transaction of the action itself, who did it."""
    entry = AuditRecord(at_us=now_us, actor=by.name, action=action, subject=subject, source=by.source)
    audit.append(entry)
