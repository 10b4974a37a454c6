"""Checks that the parameters of several skills share.

A string that holds ``${tasks.…}`` is filled in when the task starts, so before that it may stand for anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from cis.model.dag import Json

Faults = Sequence[tuple[str, str]]
Rule = Callable[[Json], bool]


def is_open(value: Json) -> bool:
    """Whether *value* holds a reference to another task's outputs, and is therefore not known yet."""
    return isinstance(value, str) and "${tasks." in value


def nearest(name: str, known: Sequence[str]) -> str | None:
    """Return the one of *known* that somebody who wrote *name* may have meant."""
    import difflib  # noqa: PLC0415 - only needed where something is wrong

    found = difflib.get_close_matches(name, known, n=1)
    return found[0] if found else None


def unknown_params(params: Mapping[str, Json], *, known: Sequence[str]) -> list[tuple[str, str]]:
    """Return a fault for each parameter that is not among *known*, with the nearest one that is."""
    faults = []
    for name in params:
        if name in known:
            continue
        meant = nearest(name, known)
        hint = f"did you mean {meant!r}?" if meant else f"known: {', '.join(known)}"
        faults.append((name, f"is unknown; {hint}"))
    return faults


def broken_rules(params: Mapping[str, Json], rules: Mapping[str, tuple[Rule, str]]) -> list[tuple[str, str]]:
    """Return the text of each rule that a parameter which is there and known breaks."""
    return [
        (name, text)
        for name, (holds, text) in rules.items()
        if name in params and not is_open(params[name]) and not holds(params[name])
    ]


def is_number(value: Json) -> bool:
    """Whether *value* is a number, which a bool is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_text(value: Json) -> bool:
    """Whether *value* is a string with something in it."""
    return isinstance(value, str) and bool(value.strip())
