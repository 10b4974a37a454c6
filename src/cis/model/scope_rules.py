"""What a node grants a scope beyond its defaults, as the tables ``[scope."…"]`` of its settings say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from cis.model.scope import Scope
from cis.model.scope_patterns import matches, precedence


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeRules:
    """What holds for a scope; None where no table says anything.

    ``slots`` are tasks at once, ``max_runs`` runs at once, ``max_queued`` runs that may wait; ``env`` is for every task,
    ``secrets`` are the names that its tasks may ask for.
    """

    slots: int | None = None
    max_runs: int | None = None
    max_queued: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] | None = None


NO_RULES = ScopeRules()
RULE_NAMES = tuple(one.name for one in fields(ScopeRules))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeTable:
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
