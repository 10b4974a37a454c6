"""What the store hands out and takes in of who may do what: tokens, and entries of the audit log.

As in ``cis.store.records``, annotations are no text here.
"""

from typing import NamedTuple

from cis.model.scope_rules import Patterns


class TokenRecord(NamedTuple):
    """An API token besides the node's own; only its SHA-256 is kept. ``scopes``: what it may use (None: all)."""

    name: str
    sha256: str
    may: tuple[str, ...]
    created_at_us: int
    scopes: Patterns | None = None


class AuditRecord(NamedTuple):
    """Who did what, when, from where."""

    at_us: int
    actor: str
    action: str
    subject: str
    source: str
    seq: int = 0


class AuditFilter(NamedTuple):
    """Which entries of the audit log are asked for; None is any. ``action``: a whole one, or up to a dot."""

    since_us: int | None = None
    actor: str | None = None
    action: str | None = None


EVERY_ENTRY = AuditFilter()
