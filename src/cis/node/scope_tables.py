"""The tables ``[scope."project:proj-a"]`` of ``cis.toml``: read as data, with every fault and its place."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from cis.errors import Fault
from cis.model.ids import name_fault
from cis.model.scope_patterns import MAX_PATTERNS, Patterns, pattern_fault
from cis.model.scope_rules import RULE_NAMES, ScopeRules, ScopeTable
from cis.model.suggest import did_you_mean

SECTION = "scope"
HIGHEST = 1_000_000
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def scope_tables(found: object, *, file: str) -> tuple[tuple[ScopeTable, ...], list[Fault]]:
    """Return the tables of a settings file, and what is wrong with them."""
    faults: list[Fault] = []
    if not isinstance(found, dict):
        return (), [Fault(place=f"{file}: {SECTION}", message=f'must be tables, [{SECTION}."project:proj-a"]')]
    tables = []
    for pattern, table in found.items():
        place = f'{file}: {SECTION}."{pattern}"'
        fault = pattern_fault(pattern)
        if fault is not None:
            faults.append(Fault(place=place, message=fault))
        if isinstance(table, dict):
            tables.append(ScopeTable(pattern=pattern, rules=_rules(table, place, faults)))
        else:
            faults.append(Fault(place=place, message=f'must be a table, [{SECTION}."{pattern}"]'))
    return tuple(tables), faults


def patterns_of(value: object) -> Patterns:
    """Return a list of scopes. Raises ValueError, which says what is wrong with it."""
    if not isinstance(value, list) or not value:
        raise ValueError('must be a list of scopes, as ["project:proj-a", "user:*"], and not empty')
    if len(value) > MAX_PATTERNS:
        raise ValueError(f"must name {MAX_PATTERNS} scopes at most; '*' at the end of one stands for many")
    wrong = [fault for fault in map(pattern_fault, value) if fault is not None]
    if wrong:
        raise ValueError("; ".join(wrong))
    return tuple(dict.fromkeys(value))


def _rules(table: dict[str, Any], place: str, faults: list[Fault]) -> ScopeRules:
    values: dict[str, Any] = {}
    for key, value in table.items():
        read = _READERS.get(key)
        if read is None:
            hint = did_you_mean(key, RULE_NAMES) or f"; known: {', '.join(RULE_NAMES)}"
            faults.append(Fault(place=f"{place}.{key}", message=f"is no setting of a scope{hint}"))
            continue
        try:
            values[key] = read(value)
        except ValueError as error:
            faults.append(Fault(place=f"{place}.{key}", message=str(error)))
    return ScopeRules(**values)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= HIGHEST:
        raise ValueError(f"must be a whole number from 1 to {HIGHEST}, not {value!r:.60}")
    return value


def _env(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError('must be a table of variables, as {TIER = "test"}')
    wrong = [f"{name!r:.60} {fault}" for name, text in value.items() if (fault := _variable_fault(name, text))]
    if wrong:
        raise ValueError("; ".join(wrong))
    return {name: str(text).lower() if isinstance(text, bool) else str(text) for name, text in value.items()}


def _variable_fault(name: str, text: object) -> str | None:
    if not _VARIABLE.fullmatch(name):
        return "is no name of a variable; use letters, digits and '_'"
    if name.startswith("CIS_"):
        return "is set by CIS itself, as all that begin so; choose another name"
    fine = "\0" not in text if isinstance(text, str) else isinstance(text, int)
    return None if fine else "must be a string without NUL, a whole number, true or false"


def _secret_names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError("must be a list of names of secrets; an empty one allows none")
    wrong = [fault for fault in map(name_fault, value) if fault is not None]
    if wrong:
        raise ValueError("; ".join(wrong))
    return tuple(dict.fromkeys(value))


_READERS: dict[str, Callable[[object], Any]] = {
    "slots": _count,
    "max_runs": _count,
    "max_queued": _count,
    "env": _env,
    "secrets": _secret_names,
}
