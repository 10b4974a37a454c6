"""Tokens: the node's own one, and further ones with fewer rights, of which only a hash is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cis.app.actor import Actor, append_audit
from cis.errors import ConflictError, NotFoundError
from cis.model.ids import id_fault
from cis.model.scope_rules import Patterns, listed
from cis.store.access_records import TokenRecord

if TYPE_CHECKING:
    from cis.store.port import Store

READ, EXECUTE, CONTROL, ADMIN = "read", "execute", "control", "admin"
RIGHTS = (READ, EXECUTE, CONTROL, ADMIN)
OWNER_NAME = "owner"  # who the node's own token is, in the audit log too


def token_name_fault(name: str) -> str | None:
    """Return why a token cannot have this name, or None."""
    if name == OWNER_NAME:
        return f"{OWNER_NAME!r} is kept for the node's own token; choose another name"
    return id_fault(name)


def create_token(
    store: Store,
    name: str,
    *,
    secret: str,
    may: tuple[str, ...],
    scopes: Patterns | None,
    by: Actor,
    now_us: int,
) -> None:
    """Let the bearer of *secret* do what *may* says, in *scopes* (None: all). ConflictError: the name is taken."""
    if any(one.name == name for one in store.tokens.all()):
        raise ConflictError(f"there is a token {name!r} already; revoke it first, or choose another name")
    import hashlib  # noqa: PLC0415 - only here

    digest = hashlib.sha256(secret.encode()).hexdigest()
    store.tokens.put(TokenRecord(name=name, sha256=digest, may=may, created_at_us=now_us, scopes=scopes))
    subject = name if scopes is None else f"{name} in scopes {listed(scopes)}"
    append_audit(store.audit, by, action="token.create", subject=subject, now_us=now_us)


def revoke_token(store: Store, name: str, *, by: Actor, now_us: int) -> None:
    """End a token. Raises NotFoundError when there is none."""
    if not store.tokens.delete(name):
        raise NotFoundError("token", name, hint="'cis token list' shows them")
    append_audit(store.audit, by, action="token.revoke", subject=name, now_us=now_us)


def rotate_own_token(store: Store, replace: Callable[[], str], *, by: Actor, now_us: int) -> str:
    """Return the node's new own token, which *replace* puts in place of the old one; in a transaction of its own."""
    token = replace()
    with store.transaction():
        append_audit(store.audit, by, action="token.rotate", subject=OWNER_NAME, now_us=now_us)
    return token
