"""The kinds of values that fields of a document hold, and their bounds; without pydantic: every command loads this."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from enum import Enum, StrEnum
from typing import Any

from cis.model.durations import FORMS, MAX_DURATION_S, exact_duration, parse_duration
from cis.model.fields import Kind
from cis.model.ids import ID_PATTERN, MAX_ID_LENGTH, did_you_mean, id_fault
from cis.model.tree import is_text

MAX_TASKS = 100_000
MAX_RETRIES = 1000
MAX_LOSSES = 1000
MAX_LABELS = 32


def kind_of(value: Any) -> str:
    """Return what a value is, in the words of a document."""
    if value is None:
        return "null"
    names = (
        (bool, "true or false"),
        (dict, "a mapping"),
        (list, "a list"),
        (str, "a string"),
        (int | float, "a number"),
    )
    return next((name for kind, name in names if isinstance(value, kind)), type(value).__name__)


def read_text(value: Any) -> str:
    """Return a string that can be written down and given to a process. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f"must be a string, not {kind_of(value)}")
    if "\0" in value:
        raise ValueError("holds a NUL character, which no process can be given")
    if not value.isascii() and not is_text(value):
        raise ValueError("holds half of a surrogate pair, which is not valid text")
    return value


def is_string(value: Any) -> bool:
    """Whether a value is a string."""
    return isinstance(value, str)


def is_filled(value: Any) -> bool:
    """Whether a value is a string with something in it."""
    return isinstance(value, str) and bool(value)


def are_strings(values: Iterable[Any]) -> bool:
    """Whether values are strings, all of them."""
    return all(isinstance(value, str) for value in values)


def read_id(value: Any) -> str:
    """Return an identifier. Raises ValueError."""
    text = getattr(value, "text", value)  # an id may look like a number
    if not isinstance(text, str):
        raise ValueError(f"must be a string, not {kind_of(value)}")
    fault = id_fault(text)
    if fault:
        raise ValueError(fault)
    return text


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and id_fault(value) is None


def _ids(value: Any) -> Any:
    if isinstance(value, str) or hasattr(value, "text"):
        return [value]  # one id, which may look like a number
    if isinstance(value, list) and len(value) > MAX_TASKS:
        raise ValueError(f"names {len(value):,} tasks; {MAX_TASKS:,} at most")
    return value


def _labels(value: Any) -> Any:
    if isinstance(value, list) and len(value) > MAX_LABELS:
        raise ValueError(f"names {len(value):,} labels; {MAX_LABELS} at most")
    return value


def _distinct(values: list[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


def _directory(value: Any) -> str:
    text = read_text(value)
    if not text.strip():
        raise ValueError("is empty; leave it out for the folder of the document")
    return text


def _time_limit(value: Any) -> float:
    seconds = parse_duration(value)
    if seconds <= 0:
        raise ValueError("must be over 0; leave it out for no limit")
    return seconds


def _is_duration(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and 0 <= value <= MAX_DURATION_S


def _spelled(seconds: Any) -> str:
    """Return a duration as it is sent: the canonical JSON of Matrix has no floats."""
    return f"{exact_duration(seconds)}s"


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {kind_of(value)}")
    return value


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


ID_SCHEMA = {
    "type": "string",
    "pattern": ID_PATTERN,
    "maxLength": MAX_ID_LENGTH,
    "not": {"pattern": r"\.\."},
}
_DURATION_SCHEMA = {
    "description": f"A duration: {FORMS}.",
    "anyOf": [
        {"type": "number", "minimum": 0, "maximum": MAX_DURATION_S},
        {"type": "string", "pattern": r"^\s*([0-9]+(\.[0-9]*)?|\.[0-9]+)\s*(ms|s|m|h|d)?\s*$"},
    ],
    "examples": ["500ms", "10s", "5m", "2h", "1d", 90],
}


def count(lowest: int, highest: int) -> Kind:
    """Return the kind of whole numbers within bounds."""

    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
            shown = value if is_number else kind_of(value)
            raise ValueError(f"must be a whole number from {lowest} to {highest}, not {shown}")
        return int(value)

    def holds(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and lowest <= value < 2**53

    return Kind(read, {"type": "integer", "minimum": lowest, "maximum": highest}, holds)


def one_of(choices: type[StrEnum]) -> Kind:
    """Return the kind of the members of an enumeration, which documents spell as their values."""
    known = [str(one) for one in choices]

    def read(value: Any) -> StrEnum:
        text = read_text(value)
        if text not in known:
            raise ValueError(f"{text!r:.60} is not one of {', '.join(known)}{did_you_mean(text, known)}")
        return choices(text)

    return Kind(read, {"enum": known}, lambda value: isinstance(value, choices), str, choices)


def one_of_in_any_case(choices: type[Enum], also: Mapping[str, Enum]) -> Kind:
    """Return the kind of the members of an enumeration, which documents spell in any case, or as one of *also*."""
    known = [str(one) for one in choices]

    def read(value: Any) -> Enum:
        name = read_text(value).lower()
        if name in also:
            return also[name]
        if name.upper() not in choices.__members__:
            raise ValueError(f"{value!r:.60} is not one of {', '.join(known)}{did_you_mean(name, known)}")
        return choices[name.upper()]

    # ECMA 262, whose patterns a JSON Schema has, knows no flag within a pattern.
    any_case = "|".join("".join(f"[{letter.upper()}{letter}]" for letter in name) for name in (*known, *also))
    schema = {"type": "string", "pattern": f"^({any_case})$", "examples": known}
    return Kind(read, schema, lambda value: isinstance(value, choices), str, lambda name: choices[name.upper()])


TEXT = Kind(read_text, {"type": "string"}, is_string)
ID = Kind(read_id, ID_SCHEMA, _is_id)
SKILL = ID._replace(holds=is_filled)
_ID_LIST = {"type": "array", "items": ID_SCHEMA}
TASK_IDS = Kind(_ids, {"anyOf": [_ID_LIST, ID_SCHEMA]}, are_strings, list, tuple, each=ID, collect=_distinct)
LABELS = Kind(_labels, {**_ID_LIST, "maxItems": MAX_LABELS}, are_strings, list, tuple, each=ID, collect=_distinct)
DIRECTORY = Kind(_directory, {"type": "string", "pattern": r"\S"}, is_filled)
FLAG = Kind(_flag, {"type": "boolean"}, _is_flag)
DURATION = Kind(parse_duration, _DURATION_SCHEMA, _is_duration, to_wire=_spelled)
TIME_LIMIT = Kind(_time_limit, _DURATION_SCHEMA, _is_duration, to_wire=_spelled)
