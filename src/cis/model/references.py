"""References in a document, ``${…}``: what they name, and how values take their place.

``${tasks.ID.outputs.NAME}``, ``${tasks.ID.status}``, ``${params.NAME}`` and ``${run.id}``; an output or a parameter that
is JSON may be reached into (``.name``, ``[0]``, ``["a name"]``). An id may hold dots; it ends at the last ``.outputs.``
before the name. What only begins like a reference is refused, and ``$${`` before such a beginning stands for ``${``.
Anything else in braces is left alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from cis.model.dag import Json

OPENINGS = ("${tasks.", "${params.", "${run.")
_BEGINNING = r"(?:tasks?|params|env|run)\."
_ID = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_WAY = r"""(?:\.[A-Za-z_][A-Za-z0-9_-]*|\[[0-9]{1,9}\]|\["[^"\]]{1,200}"\])*"""
_REFERENCE = re.compile(
    rf"\$\{{(?:tasks\.(?P<task>{_ID})\.outputs\.(?P<output>{_NAME})(?P<way>{_WAY})"
    rf"|tasks\.(?P<judged>{_ID})\.status"
    rf"|params\.(?P<param>{_NAME})(?P<param_way>{_WAY})"
    r"|run\.(?P<run>id))\}"
)
_FILLED = re.compile(rf"\$\$\{{(?={_BEGINNING})|{_REFERENCE.pattern}")
_ESCAPED = re.compile(rf"\$\$\{{(?={_BEGINNING})")
_BEGUN = re.compile(rf"\$\{{({_BEGINNING}[^}}]*)\}}?")
_STEP = re.compile(r"""\.([A-Za-z_][A-Za-z0-9_-]*)|\[([0-9]+)\]|\["([^"]*)"\]""")


class Reference(NamedTuple):
    """What a reference names: an output of *task* (``output``), its status (no ``output``), a *param*, or the run's id.

    ``way`` is how to reach into it: names and places, as ``("list", 0)``. ``text`` is how it is written.
    """

    text: str
    task: str | None = None
    output: str | None = None
    param: str | None = None
    way: tuple[str | int, ...] = ()


class NoValueError(ValueError):
    """A reference names something that is not there; the text says what."""


def without_escapes(text: str) -> str:
    """Return a string without what only looks like the beginning of a reference."""
    return _ESCAPED.sub("", text) if "$${" in text else text


def without_references(text: str) -> str:
    """Return a string without its references, and without what only looks like the beginning of one."""
    return _REFERENCE.sub("", without_escapes(text))


def references(value: Json) -> Iterator[Reference]:
    """Yield the references in a string, or in the strings of nested JSON."""
    if isinstance(value, str):
        if "${" in value:
            yield from map(_of_match, _REFERENCE.finditer(without_escapes(value)))
    elif isinstance(value, dict):
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from references(item)


def malformed(text: str) -> Iterator[str]:
    """Yield what in a string begins like a reference and is none, as it is written."""
    if "${" in text:
        for found in _BEGUN.finditer(without_escapes(text)):
            if not _REFERENCE.match(found.string, found.start()):
                yield found[0]


def refers(value: Json) -> bool:
    """Whether a value holds anything that is filled in when its task starts."""
    return any(True for _ in references(value))


def fill(value: Json, lookup: Callable[[Reference], Json]) -> Json:
    """Return *value* with what its references name in their place, and ``$${`` as ``${``.

    A string that is one reference and nothing else becomes the value, whatever its type; within a longer one it becomes
    text (``text_of``). NoValueError comes from *lookup*, or from here when a value cannot be reached into as asked.
    """
    if isinstance(value, str):
        if "${" not in value:
            return value
        whole = _REFERENCE.fullmatch(value)
        if whole is not None:
            return _reached(_of_match(whole), lookup)
        return _FILLED.sub(
            lambda match: "${" if match[0] == "$${" else text_of(_reached(_of_match(match), lookup)), value
        )
    if isinstance(value, dict):
        return {key: fill(item, lookup) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, lookup) for item in value]
    return value


def text_of(value: Json) -> str:
    """Return a value as an environment variable or a longer string has it: null is empty, lists compact JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _of_match(match: re.Match[str]) -> Reference:
    way = match["way"] or match["param_way"] or ""
    steps = tuple(int(step[2]) if step[2] else (step[1] or step[3]) for step in _STEP.finditer(way))
    return Reference(match[0], match["task"] or match["judged"], match["output"], match["param"], steps)


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
