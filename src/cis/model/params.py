"""The parameters of a DAG: how a document declares them, and which values they may be given.

A declaration is a subset of JSON Schema (draft 2020-12) for one value. The same check serves the command line, HTTP and
a DAG as a task: it finds all faults at once, and returns a value for every declared name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from cis.errors import DocumentError, Fault
from cis.model.dag import Json
from cis.model.ids import did_you_mean, name_fault
from cis.model.kinds import kind_of
from cis.model.patterns import MAX_PATTERN, matcher
from cis.model.tree import Path, is_text, place

MAX_PARAMS = 500
MAX_DEPTH = 8
MAX_VALUES_BYTES = 1 << 20  # of all values of a run together, as JSON
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
MAX_NAME = 128

_KIND = {
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "secret": "the name of a secret",
}
_FOR = {
    "pattern": ("string",),
    "minLength": ("string",),
    "maxLength": ("string",),
    "minimum": ("integer", "number"),
    "maximum": ("integer", "number"),
    "items": ("array",),
}
_WORDS = ("type", "enum", *_FOR, "description")
_WORDS_AT_THE_TOP = (*_WORDS, "default", "required")
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")

Found = tuple[Path, str]


class Typed(NamedTuple):
    """A value as somebody typed it, ``-p name=value``: it is read as its parameter's type says."""

    text: str


Given = Mapping[str, "Json | Typed"]


def declaration_faults(declared: Json) -> Iterator[Found]:
    """Yield each fault of a document's ``params``, as (path, message)."""
    if declared is None:
        return
    if not isinstance(declared, dict):
        yield ("params",), f"must be a mapping of names to declarations, not {kind_of(declared)}"
        return
    if len(declared) > MAX_PARAMS:
        yield ("params",), f"holds {len(declared):,} parameters; {MAX_PARAMS} at most"
        return
    seen: dict[str, str] = {}
    for name, one in declared.items():
        at: Path = ("params", str(name))
        if not isinstance(name, str) or not NAME.fullmatch(name) or len(name) > MAX_NAME:
            yield at, "is not a name of a parameter; use ASCII letters, digits and '_', no digit first"
            continue
        if name.upper() in seen:
            yield (
                at,
                f"differs from {seen[name.upper()]!r} in its case alone, and both would be CIS_PARAM_{name.upper()}",
            )
        seen.setdefault(name.upper(), name)
        yield from _faults_of_one(at, one, words=_WORDS_AT_THE_TOP, depth=0)


def _faults_of_one(at: Path, one: Json, *, words: Sequence[str], depth: int) -> Iterator[Found]:
    if not isinstance(one, dict):
        yield at, f"must be a mapping with type, default and so on, not {kind_of(one)}"
        return
    if depth > MAX_DEPTH:
        yield at, f"is nested more than {MAX_DEPTH} deep"
        return
    wrong = list(_faults_of_words(at, one, words, depth))
    yield from wrong
    if wrong:
        return
    for number, value in enumerate(one.get("enum", ())):
        yield from _value_faults((*at, "enum", number), value, {**one, "enum": None})
    if "default" in one:
        yield from _value_faults((*at, "default"), one["default"], one)


def _faults_of_words(at: Path, one: Mapping[str, Json], words: Sequence[str], depth: int) -> Iterator[Found]:
    for name in one:
        if name not in words and not str(name).startswith("x-"):
            near = did_you_mean(str(name), words) or f"; known: {', '.join(words)}"
            yield (*at, str(name)), f"is not a word of a parameter{near}"
    kind = one.get("type")
    if kind == "file":
        yield (*at, "type"), "'file' is reserved: files do not travel with a run yet"
        return
    if kind is not None and not (isinstance(kind, str) and kind in _KIND):
        near = did_you_mean(str(kind), list(_KIND))
        yield (*at, "type"), f"{str(kind)!r:.60} is not one of {', '.join(_KIND)}{near}"
        return
    for name, kinds in _FOR.items():
        if one.get(name) is not None and type_of(one) not in kinds:
            yield (*at, name), f"goes with type {' or '.join(kinds)}, not with {type_of(one)}"
    for name, why in _RULES.items():
        if one.get(name) is not None and (fault := why(one[name])) is not None:
            yield (*at, name), fault
    if "default" in one and one["default"] is None:
        yield (*at, "default"), "is null; write required: false for a parameter that may be left out"
    if one.get("items") is not None:
        yield from _faults_of_one((*at, "items"), one["items"], words=_WORDS, depth=depth + 1)


def _length_fault(value: Json) -> str | None:
    is_length = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
    return None if is_length else "must be a whole number from 0"


def _bound_fault(value: Json) -> str | None:
    return None if _is_number(value) else f"must be a number, not {kind_of(value)}"


def _choices_fault(value: Json) -> str | None:
    return None if isinstance(value, list) and value else "must be a list with at least one value"


def _flag_fault(value: Json) -> str | None:
    return None if isinstance(value, bool) else f"must be true or false, not {kind_of(value)}"


def _words_fault(value: Json) -> str | None:
    return None if isinstance(value, str) else f"must be a string, not {kind_of(value)}"


def type_of(declared: Mapping[str, Json]) -> str:
    """Return a parameter's type; one that does not say has that of its default, or of what it may be, else string."""
    if declared.get("type") is not None:
        return str(declared["type"])
    choices = declared.get("enum")
    shown = declared.get("default", choices[0] if isinstance(choices, list) and choices else "")
    for kind, known in (("boolean", bool), ("integer", int), ("number", float), ("array", list), ("object", dict)):
        if isinstance(shown, known):
            return kind
    return "string"


def is_required(declared: Mapping[str, Json]) -> bool:
    """Whether a run cannot begin without a value for it."""
    return "default" not in declared and declared.get("required") is not False


def param_values(declared: Mapping[str, Mapping[str, Json]], given: Given) -> dict[str, Json]:
    """Return the value of every declared parameter: as it is given, else its default, else null.

    Raises:
        DocumentError: with a fault for each name that is unknown or missing, and each value that is not allowed.
    """
    faults: list[Found] = []
    values: dict[str, Json] = {}
    for name in given:
        if name not in declared:
            known = did_you_mean(name, list(declared)) or (
                f"; known: {', '.join(list(declared)[:20])}" if declared else "; this DAG has none"
            )
            faults.append((("params", str(name)), f"there is no such parameter{known}"))
    for name, one in declared.items():
        if name not in given:
            if is_required(one):
                faults.append((("params", name), f"is required ({_KIND[type_of(one)]}); -p {name}=VALUE gives it"))
            values[name] = one.get("default")
            continue
        value, why = _as_typed(given[name], one)
        if why is not None:
            faults.append((("params", name), why))
            continue
        if value is None and "default" not in one and one.get("required") is False:
            values[name] = None
            continue
        wrong = list(_value_faults(("params", name), value, one))
        faults += wrong
        if not wrong:
            values[name] = _plain(value, one)
    if not faults and declared and len(json.dumps(values, ensure_ascii=False).encode()) > MAX_VALUES_BYTES:
        faults.append((("params",), "hold more than 1 MiB together; put large data into a file, and hand in its path"))
    if faults:
        raise DocumentError([Fault(place=place(path), message=message) for path, message in faults[:100]])
    return values


def _as_typed(value: Json | Typed, declared: Mapping[str, Json]) -> tuple[Json, str | None]:
    """Return the value that somebody meant, and why it is none."""
    if not isinstance(value, Typed):
        return value, None
    kind, text = type_of(declared), value.text
    match kind:
        case "string" | "secret":
            return text, None
        case "integer" if _INTEGER.fullmatch(text.strip()):
            return int(text), None
        case "number" if _NUMBER.fullmatch(text.strip()) and math.isfinite(float(text)):
            return int(text) if _INTEGER.fullmatch(text.strip()) else float(text), None
        case "boolean" if text.strip().lower() in ("true", "false"):
            return text.strip().lower() == "true", None
        case "array" | "object":
            return _read_json(text, kind)
    return None, f"must be {_KIND[kind]}, not {text!r:.60}"


def _read_json(text: str, kind: str) -> tuple[Json, str | None]:
    example = """'["a", "b"]'""" if kind == "array" else """'{"a": 1}'"""
    try:
        return read_json(text), None
    except ValueError as error:
        return None, f"must be {_KIND[kind]} as JSON, like {example}: {error}"


def read_json(text: str) -> Json:
    """Return the value of a JSON text. Raises ValueError: also for doubled names, NaN, and what is nested too deep."""
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _once(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r:.60} stands twice in it")
    return found


def _no_constant(text: str) -> Json:
    raise ValueError(f"{text} is not a JSON value")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.40} is larger than any number that a computer keeps")
    return value


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_HOLDS: Mapping[str, Callable[[Json], bool]] = {
    "string": lambda value: isinstance(value, str),
    "secret": lambda value: isinstance(value, str),
    "integer": lambda value: _is_number(value) and value == int(value),
    "number": _is_number,
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


def _value_faults(at: Path, value: Json, declared: Mapping[str, Json]) -> Iterator[Found]:
    """Yield what is wrong with a value; a secret's is never repeated, for it may be the secret itself."""
    kind = type_of(declared)
    if not _HOLDS[kind](value):
        yield at, f"must be {_KIND[kind]}, not {kind_of(value)}"
        return
    if (why := json_fault(value)) is not None:
        yield at, why
        return
    choices = declared.get("enum")
    if choices and not any(_same(value, one) for one in choices):
        shown = ", ".join(json.dumps(one, ensure_ascii=False) for one in choices[:20])
        told = "it" if kind == "secret" else f"{json.dumps(value, ensure_ascii=False)!s:.60}"
        yield at, f"{told} is not one of {shown}{did_you_mean(str(value), [str(one) for one in choices])}"
    if kind == "secret" and name_fault(value):
        yield at, "must be the name of a secret (ASCII letters, digits and '_'), never its value"
    if kind == "string":
        yield from _text_faults(at, value, declared)
    if kind in ("integer", "number"):
        if declared.get("minimum") is not None and value < declared["minimum"]:
            yield at, f"must be at least {declared['minimum']}, not {value}"
        if declared.get("maximum") is not None and value > declared["maximum"]:
            yield at, f"must be at most {declared['maximum']}, not {value}"
    if kind == "array" and declared.get("items") is not None:
        for number, item in enumerate(value):
            yield from _value_faults((*at, number), item, declared["items"])


def _text_faults(at: Path, value: str, declared: Mapping[str, Json]) -> Iterator[Found]:
    length = len(value)
    if declared.get("minLength") is not None and length < declared["minLength"]:
        yield at, f"has {length:,} characters; {declared['minLength']:,} at least"
    if declared.get("maxLength") is not None and length > declared["maxLength"]:
        yield at, f"has {length:,} characters; {declared['maxLength']:,} at most"
    pattern = declared.get("pattern")
    if pattern is not None and not matcher(pattern)(value):
        yield at, f"{value!r:.60} does not match the pattern {pattern!r:.80}"


def json_fault(value: Json, depth: int = 0) -> str | None:
    """Return why a value cannot be kept and given to a process; None: it can."""
    if depth > 64:
        return "is nested more than 64 deep"
    if isinstance(value, str):
        if "\0" in value:
            return "holds a NUL character, which no process can be given"
        return None if is_text(value) else "holds half of a surrogate pair, which is not valid text"
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        return None if abs(value) < 2**63 else "holds a whole number beyond 64 bits; hand it in as a string"
    if isinstance(value, float):
        return None if math.isfinite(value) else "holds a number that is not finite"
    inner = [part for pair in value.items() for part in pair] if isinstance(value, dict) else value
    return next((why for item in inner if (why := json_fault(item, depth + 1)) is not None), None)


def _same(one: Json, other: Json) -> bool:
    """Whether two JSON values are the same; 1 is 1.0 and is not true."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _plain(value: Json, declared: Mapping[str, Json]) -> Json:
    return int(value) if type_of(declared) == "integer" else value


def _pattern_fault(pattern: Json) -> str | None:
    if not isinstance(pattern, str):
        return f"must be a string, not {kind_of(pattern)}"
    if len(pattern) > MAX_PATTERN:
        return f"has {len(pattern):,} characters; {MAX_PATTERN:,} at most"
    try:
        matcher(pattern)
    except ValueError as error:
        return f"is not a pattern that can be used: {error}"
    return None


_RULES: Mapping[str, Callable[[Json], str | None]] = {
    "pattern": _pattern_fault,
    "enum": _choices_fault,
    "minLength": _length_fault,
    "maxLength": _length_fault,
    "minimum": _bound_fault,
    "maximum": _bound_fault,
    "required": _flag_fault,
    "description": _words_fault,
}
