"""Patterns over scopes: one scope, as ``project:proj-a``, or a beginning and ``*``, as ``project:*``.

Where a list of patterns says which scopes somebody may have, None stands for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from cis.model.scope import Scope, ScopeType, parse_scope

Patterns = tuple[str, ...]
_BEGINNING_OF_ID = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]{0,127})?")


def pattern_fault(text: object) -> str | None:
    """Return why *text* is no pattern, or None when it is one."""
    if not isinstance(text, str):
        return f"must be a string, not {text!r:.60}"
    beginning, star, rest = text.partition("*")
    if rest:
        return f"{text!r:.140} has more after its '*', which may stand at the end only"
    if not star:
        try:
            parse_scope(text)
        except ValueError as error:
            return f"{error}, or a beginning and '*'"
        return None
    if any(_may_begin(kind, beginning) for kind in ScopeType):
        return None
    return f"{text!r:.140} matches no scope; scopes are global, project:<id>, user:<id> and type:<id>"


def matches(pattern: str, scope: Scope) -> bool:
    """Whether *pattern* means *scope*."""
    return str(scope).startswith(pattern[:-1]) if pattern.endswith("*") else pattern == str(scope)


def allows(patterns: Patterns | None, scope: Scope) -> bool:
    """Whether *scope* is among those that *patterns* name."""
    return patterns is None or any(matches(pattern, scope) for pattern in patterns)


def precedence(pattern: str) -> tuple[int, bool]:
    """Return how exactly a pattern names a scope: of several that match one, the greatest wins."""
    return len(pattern.removesuffix("*")), not pattern.endswith("*")


def listed(patterns: Iterable[str] | None) -> str:
    """Return patterns as people read them."""
    return "all" if patterns is None else ", ".join(patterns) or "none"


def _may_begin(kind: ScopeType, beginning: str) -> bool:
    full = str(kind) if kind is ScopeType.GLOBAL else f"{kind}:"
    if full.startswith(beginning):
        return True
    owner = beginning.removeprefix(full)
    return (
        kind is not ScopeType.GLOBAL
        and owner != beginning
        and ".." not in owner
        and _BEGINNING_OF_ID.fullmatch(owner) is not None
    )
