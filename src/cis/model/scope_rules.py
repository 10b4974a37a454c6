"""Patterns over scopes, and what a node's settings grant a scope by them.

A pattern is one scope, as ``project:proj-a``, or a beginning and ``*``, as ``project:*``. Where a list of patterns says
which scopes somebody may have, None stands for all of them. The tables ``[scope."…"]`` of the settings grant a scope
more, or less, than the node's defaults; the most exact pattern wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from cis.model.scope import Scope, ScopeType, parse_scope

Patterns = tuple[str, ...]
MAX_PATTERNS = 100
NO_ENV: Mapping[str, str] = MappingProxyType({})
_BEGINNING_OF_ID = r"(?:[A-Za-z0-9][A-Za-z0-9._-]{0,127})?"


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
            return f"{error}; or write a beginning and '*'"
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


def in_common(one: Patterns | None, other: Patterns | None) -> Patterns | None:
    """Return patterns for the scopes that both allow."""
    if one is None or other is None:
        return other if one is None else one
    # Of two beginnings that have a scope in common, the longer means fewer.
    both = [longer for a in one for b in other if (longer := _longer(a, b)) is not None]
    return tuple(dict.fromkeys(both))


def spans(pattern: str) -> Iterator[tuple[ScopeType, str]]:
    """Yield each kind of owner that a pattern means, with the id that it names, or the beginning of ids and ``*``."""
    beginning, star, _ = pattern.partition("*")
    for kind in ScopeType:
        full = str(kind) if kind is ScopeType.GLOBAL else f"{kind}:"
        if star and full.startswith(beginning):
            yield kind, "*"
        elif beginning.startswith(full) and (kind is not ScopeType.GLOBAL or pattern == full):
            yield kind, beginning[len(full) :] + star


def precedence(pattern: str) -> tuple[int, bool]:
    """Return how exactly a pattern names a scope: of several that match one, the greatest wins."""
    return len(pattern.removesuffix("*")), not pattern.endswith("*")


def listed(patterns: Iterable[str] | None) -> str:
    """Return patterns as people read them."""
    return "all" if patterns is None else ", ".join(patterns) or "none"


def written(patterns: Patterns | None) -> str | None:
    """Return patterns as one text, as they are stored; None stays None."""
    return None if patterns is None else ",".join(patterns)


def read_patterns(text: str | None) -> Patterns | None:
    """Return the patterns that ``written`` wrote; an empty text allows nothing."""
    return None if text is None else tuple(part for part in text.split(",") if part)


def given_patterns(text: str) -> Patterns | None:
    """Return the patterns in a text with commas, as people give them: ``*`` among them means all, which is None.

    Raises:
        ValueError: there is none, or one of them is no pattern.
    """
    patterns = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    wrong = [fault for fault in map(pattern_fault, patterns) if fault is not None]
    if len(patterns) > MAX_PATTERNS:
        raise ValueError(f"names {len(patterns)} scopes; {MAX_PATTERNS} at most, and '*' stands for many")
    if wrong or not patterns:
        raise ValueError("; ".join(wrong) or "names no scope; write some, as project:proj-a,user:*, or '*' for all")
    return None if "*" in patterns else patterns


def _longer(one: str, other: str) -> str | None:
    short, long = sorted((one, other), key=precedence)
    fits = long.removesuffix("*").startswith(short[:-1]) if short.endswith("*") else short == long
    return long if fits else None


def _may_begin(kind: ScopeType, beginning: str) -> bool:
    full = str(kind) if kind is ScopeType.GLOBAL else f"{kind}:"
    if full.startswith(beginning):
        return True
    owner = beginning.removeprefix(full)
    return (
        kind is not ScopeType.GLOBAL
        and owner != beginning
        and ".." not in owner
        and re.fullmatch(_BEGINNING_OF_ID, owner) is not None
    )


class ScopeRules(NamedTuple):
    """What holds for a scope; None where no table says anything.

    ``slots`` are tasks at once, ``max_runs`` runs at once, ``max_queued`` runs that may wait; ``env`` is for every
    task, ``secrets`` are the names that its tasks may ask for.
    """

    slots: int | None = None
    max_runs: int | None = None
    max_queued: int | None = None
    env: Mapping[str, str] = NO_ENV
    secrets: tuple[str, ...] | None = None


NO_RULES = ScopeRules()
RULE_NAMES = ScopeRules._fields


class ScopeTable(NamedTuple):
    """One table: the scopes that its pattern means, and what holds for them."""

    pattern: str
    rules: ScopeRules


def rules_of(tables: Sequence[ScopeTable], scope: Scope) -> ScopeRules:
    """Return what holds for *scope*: key by key (``env`` name by name), what the longest pattern says."""
    found = [table for table in tables if matches(table.pattern, scope)]
    if not found:
        return NO_RULES
    slots = max_runs = max_queued = secrets = None
    env: dict[str, str] = {}
    for table in sorted(found, key=lambda table: precedence(table.pattern)):
        rules = table.rules
        slots = slots if rules.slots is None else rules.slots
        max_runs = max_runs if rules.max_runs is None else rules.max_runs
        max_queued = max_queued if rules.max_queued is None else rules.max_queued
        secrets = secrets if rules.secrets is None else rules.secrets
        env |= rules.env
    return ScopeRules(slots=slots, max_runs=max_runs, max_queued=max_queued, env=env, secrets=secrets)
