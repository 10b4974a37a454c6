"""Checks that the parameters of several skills share.

A string that holds ``${tasks.…}`` or ``${secrets.…}`` is filled in when the task starts, so before that it may stand
for anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from cis.errors import LaunchError
from cis.model.dag import Json
from cis.model.references import OPENING, OPENING_OF_SECRET
from cis.model.suggest import did_you_mean

Faults = Sequence[tuple[str, str]]
Rule = Callable[[Json], bool]


def is_open(value: Json) -> bool:
    """Whether *value* refers to another task's outputs or to a secret, and is therefore not known yet."""
    return isinstance(value, str) and (OPENING in value or OPENING_OF_SECRET in value)


def unknown_params(params: Mapping[str, Json], *, known: Sequence[str]) -> list[tuple[str, str]]:
    """Return a fault for each parameter that is not among *known*, with the nearest one that is."""
    names = f"; known: {', '.join(known)}"
    return [(name, f"is no parameter{did_you_mean(name, known) or names}") for name in params if name not in known]


def broken_rules(params: Mapping[str, Json], rules: Mapping[str, tuple[Rule, str]]) -> list[tuple[str, str]]:
    """Return the text of each rule that a parameter which is there and known breaks."""
    return [
        (name, text)
        for name, (holds, text) in rules.items()
        if name in params and not is_open(params[name]) and not holds(params[name])
    ]


def refuse(faults: Faults) -> None:
    """Raise LaunchError if there are *faults*: what was filled in makes no sense."""
    if faults:
        raise LaunchError("; ".join(f"params.{name} {text}" if name else f"params: {text}" for name, text in faults))


def is_number(value: Json) -> bool:
    """Whether *value* is a number, which a bool is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_text(value: Json) -> bool:
    """Whether *value* is a string with something in it."""
    return isinstance(value, str) and bool(value.strip())
