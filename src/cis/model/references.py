"""References in a document, ``${…}``: what they name, and how values take their place.

``${tasks.ID.outputs.NAME}``, ``${tasks.ID.status}``, ``${params.NAME}`` and ``${run.id}``; of a task that is made into
many ``${tasks.ID.instances}``, and in it (*many*) ``${item}`` and ``${matrix.NAME}``. An output, a parameter or an item
that is JSON may be reached into (``.name``, ``[0]``, ``["a name"]``). An id may hold dots; it ends at the last
``.outputs.`` before the name. What only begins like a reference is refused, and ``$${`` before such a beginning stands for ``${``.
Anything else in braces is left alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import NamedTuple

from cis.model.dag import Json

OPENINGS = ("${tasks.", "${params.", "${run.")
_BEGINNING = r"(?:tasks?|params|env|run)\."
_BEGINNING_OF_MANY = r"(?:(?:tasks?|params|env|run|matrix)\.|item(?=[.\[}]))"
_ID = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_WAY = r"""(?:\.[A-Za-z_][A-Za-z0-9_-]*|\[[0-9]{1,9}\]|\["[^"\]]{1,200}"\])*"""
_KINDS = (
    rf"tasks\.(?P<task>{_ID})\.outputs\.(?P<output>{_NAME})(?P<way>{_WAY})"
    rf"|tasks\.(?P<judged>{_ID})\.status"
    rf"|tasks\.(?P<whole>{_ID})\.instances(?P<whole_way>{_WAY})"
    rf"|params\.(?P<param>{_NAME})(?P<param_way>{_WAY})"
    r"|run\.(?P<run>id)"
)
_KINDS_OF_MANY = rf"{_KINDS}|item(?P<item>{_WAY})|matrix\.(?P<matrix>[A-Za-z_][A-Za-z0-9_-]*)(?P<matrix_way>{_WAY})"
_STEP = re.compile(r"""\.([A-Za-z_][A-Za-z0-9_-]*)|\[([0-9]+)\]|\["([^"]*)"\]""")


class _Patterns(NamedTuple):
    """What finds references, escapes, and what only begins like a reference; ``filled`` finds the first two."""

    reference: re.Pattern[str]
    filled: re.Pattern[str]
    escaped: re.Pattern[str]
    begun: re.Pattern[str]


def _patterns(kinds: str, beginning: str) -> _Patterns:
    reference, escaped = rf"\$\{{(?:{kinds})\}}", rf"\$\$\{{(?={beginning})"
    begun = rf"\$\{{({beginning}[^}}]*)\}}?"
    return _Patterns(*map(re.compile, (reference, rf"{escaped}|{reference}", escaped, begun)))


_ANYWHERE = _patterns(_KINDS, _BEGINNING)


@cache
def _in_many() -> _Patterns:
    return _patterns(_KINDS_OF_MANY, _BEGINNING_OF_MANY)


class Reference(NamedTuple):
    """What a reference names: an output of *task* (``output``), its status, its ``instances``, a *param*, or the run's id.

    In a task that is made into many also its ``item``, or what the ``matrix`` gives a name.

    ``way`` is how to reach into it: names and places, as ``("list", 0)``. ``text`` is how it is written.
    """

    text: str
    task: str | None = None
    output: str | None = None
    param: str | None = None
    instances: bool = False
    item: bool = False
    matrix: str | None = None
    way: tuple[str | int, ...] = ()


class NoValueError(ValueError):
    """A reference names something that is not there; the text says what."""


def without_escapes(text: str, *, many: bool = False) -> str:
    """Return a string without what only looks like the beginning of a reference."""
    return _of(many).escaped.sub("", text) if "$${" in text else text


def without_references(text: str, *, many: bool = False) -> str:
    """Return a string without its references, and without what only looks like the beginning of one."""
    return _of(many).reference.sub("", without_escapes(text, many=many))


def references(value: Json, *, many: bool = False) -> Iterator[Reference]:
    """Yield the references in a string, or in the strings of nested JSON."""
    if isinstance(value, str):
        if "${" in value:
            yield from map(_of_match, _of(many).reference.finditer(without_escapes(value, many=many)))
    elif isinstance(value, dict):
        for item in value.values():
            yield from references(item, many=many)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from references(item, many=many)


def malformed(text: str, *, many: bool = False) -> Iterator[str]:
    """Yield what in a string begins like a reference and is none, as it is written."""
    if "${" in text:
        patterns = _of(many)
        for found in patterns.begun.finditer(without_escapes(text, many=many)):
            if not patterns.reference.match(found.string, found.start()):
                yield found[0]


def refers(value: Json, *, many: bool = False) -> bool:
    """Whether a value holds anything that is filled in when its task starts."""
    return any(True for _ in references(value, many=many))


def fill(value: Json, lookup: Callable[[Reference], Json], *, many: bool = False) -> Json:
    """Return *value* with what its references name in their place, and ``$${`` as ``${``.

    A string that is one reference and nothing else becomes the value, whatever its type; within a longer one it becomes
    text (``text_of``). NoValueError comes from *lookup*, or from here when a value cannot be reached into as asked.
    """
    if isinstance(value, str):
        if "${" not in value:
            return value
        patterns = _of(many)
        whole = patterns.reference.fullmatch(value)
        if whole is not None:
            return _reached(_of_match(whole), lookup)
        return patterns.filled.sub(
            lambda match: "${" if match[0] == "$${" else text_of(_reached(_of_match(match), lookup)), value
        )
    if isinstance(value, dict):
        return {key: fill(item, lookup, many=many) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, lookup, many=many) for item in value]
    return value


def text_of(value: Json) -> str:
    """Return a value as an environment variable or a longer string has it: null is empty, lists compact JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _of(many: bool) -> _Patterns:  # noqa: FBT001 - it is all that is asked
    return _in_many() if many else _ANYWHERE


def _of_match(match: re.Match[str]) -> Reference:
    found = match.groupdict()
    ways = (found["way"], found["whole_way"], found["param_way"], found.get("item"), found.get("matrix_way"))
    way = next((one for one in ways if one), "")
    steps = tuple(int(step[2]) if step[2] else (step[1] or step[3]) for step in _STEP.finditer(way))
    return Reference(
        match[0],
        found["task"] or found["judged"] or found["whole"],
        found["output"],
        found["param"],
        instances=found["whole"] is not None,
        item=found.get("item") is not None,
        matrix=found.get("matrix"),
        way=steps,
    )


def _reached(reference: Reference, lookup: Callable[[Reference], Json]) -> Json:
    value = lookup(reference)
    if reference.way and isinstance(value, str) and reference.task is not None:
        with suppress(ValueError, RecursionError):
            value = json.loads(value)  # what is written by lines is text, and may be JSON
    for number, step in enumerate(reference.way):
        there = f"{reference.text} cannot be followed: {_spelled(reference.way[:number]) or 'it'}"
        if isinstance(step, int):
            if not isinstance(value, list):
                raise NoValueError(f"{there} is {_kind(value)}, not a list")
            if step >= len(value):
                raise NoValueError(f"{there} has {len(value)} items, so there is no [{step}]")
            value = value[step]
        elif not isinstance(value, dict):
            raise NoValueError(f"{there} is {_kind(value)}, not an object")
        elif step not in value:
            raise NoValueError(f"{there} has no {step!r} (it has: {', '.join(sorted(value)[:20]) or 'nothing'})")
        else:
            value = value[step]
    return value


def _spelled(way: tuple[str | int, ...]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in way)


def _kind(value: Json) -> str:
    names = ((bool, "true or false"), (dict, "an object"), (list, "a list"), (str, "text"), (int | float, "a number"))
    return "null" if value is None else next(name for kind, name in names if isinstance(value, kind))
