"""The kinds of values that fields of a document hold, and their bounds; without pydantic: every command loads this."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Mapping
from enum import Enum, StrEnum
from typing import Any

from cis.model.durations import FORMS, MAX_DURATION_S, exact_duration, parse_duration
from cis.model.fields import Kind
from cis.model.ids import ID_PATTERN, MAX_ID_LENGTH, NAME_PATTERN, did_you_mean, id_fault, name_fault
from cis.model.tree import is_text

MAX_TASKS = 100_000
MAX_RETRIES = 1000
MAX_LOSSES = 1000
MAX_VARIABLES = 10_000
MAX_LABELS = 32
MAX_SECRETS = 64
_NOT_FOR_SECRETS = r"CIS_|LD_|DYLD_|(PATH|HOME|USER|SHELL|TMPDIR|IFS|ENV|BASH_ENV)$"  # what decides which code runs
_ENV_NAME = r"[A-Za-z_][A-Za-z0-9_.-]*"


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
        raise ValueError("holds half of a surrogate pair, which is no text")
    return value


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


def _is_filled(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _are_strings(values: Iterable[Any]) -> bool:
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
        raise ValueError("is empty; leave it out for the directory of the document")
    return text


def _variables(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > MAX_VARIABLES:
        raise ValueError(f"holds {len(value):,} variables; {MAX_VARIABLES:,} at most")
    return value


def _env_name(value: Any) -> str:
    name = read_text(value)
    if not re.fullmatch(_ENV_NAME, name):
        raise ValueError(f"{name!r:.60} is no name of a variable; use ASCII letters, digits and '_'")
    if name.startswith("CIS_"):
        raise ValueError("names that begin with CIS_ are set by CIS itself; choose another")
    return name


def _env_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(getattr(value, "text", value))
    if value is None:
        raise ValueError('is null; write "" for an empty value')
    return read_text(value)


def _are_variables(value: Any) -> bool:
    return isinstance(value, Mapping) and _are_strings(value.values())


def _secret_name(value: Any) -> str:
    name = read_text(value)
    fault = name_fault(name)
    if fault:
        raise ValueError(fault)
    return name


def _secrets(value: Any) -> dict[str, str]:
    if isinstance(value, list):
        pairs = [(name, name) for name in value]
    elif isinstance(value, dict):
        pairs = list(value.items())
    else:
        raise ValueError(f"must be a list of names, or a mapping of variables to names, not {kind_of(value)}")
    if len(pairs) > MAX_SECRETS:
        raise ValueError(f"names {len(pairs):,} secrets; {MAX_SECRETS} at most")
    found = {}
    for variable, name in pairs:
        found[_secret_name(variable)] = _secret_name(name)
        if re.match(_NOT_FOR_SECRETS, variable):
            raise ValueError(f"{variable} cannot be a secret's variable; map another one, as {{TOKEN: {name}}}")
    return found


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


def _command(value: Any) -> str | tuple[str, ...]:
    if isinstance(value, list):
        if not value:
            raise ValueError("is an empty list; the first item is the program")
        return tuple(_argument(number, item) for number, item in enumerate(value))
    text = read_text(value)
    if not text.strip():
        raise ValueError("is empty; write lines for the shell, or a list of program and arguments")
    return text


def _shell(value: Any) -> str:
    text = read_text(value)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"cannot be split into words: {error}") from error
    if not words:
        raise ValueError("is empty; leave it out for /bin/sh -e")
    if words[0].startswith("-"):
        raise ValueError(f"begins with an option; write the program before it, as in: bash {text.strip()}")
    return text


def _argument(number: int, item: Any) -> str:
    try:
        return read_text(
            getattr(item, "text", str(item) if isinstance(item, int) and not isinstance(item, bool) else item)
        )
    except ValueError as error:
        raise ValueError(f"item {number} {error}") from error


def _is_command(value: Any) -> bool:
    return _is_filled(value) or (isinstance(value, tuple) and bool(value) and _are_strings(value))


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _unlisted(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _params(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"must be a mapping, not {kind_of(value)}")
    return {read_text(key): _json(item) for key, item in value.items()}


def _json(value: Any) -> Any:
    """Return a value of ordinary JSON types, without what reading remembered of its spelling."""
    if isinstance(value, dict):
        return {read_text(key): _json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json(item) for item in value]
    if isinstance(value, str):
        return read_text(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        if abs(value) >= 2**63:
            raise ValueError("holds a whole number beyond 64 bits; write it as a string")
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    raise ValueError(f"{value!r} is no JSON value")


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


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


_SECRET_VARIABLE = rf"^(?!{_NOT_FOR_SECRETS}){NAME_PATTERN}$"


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
            raise ValueError(f"{text!r:.60} is none of {', '.join(known)}{did_you_mean(text, known)}")
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
            raise ValueError(f"{value!r:.60} is none of {', '.join(known)}{did_you_mean(name, known)}")
        return choices[name.upper()]

    # ECMA 262, whose patterns a JSON Schema has, knows no flag within a pattern.
    any_case = "|".join("".join(f"[{letter.upper()}{letter}]" for letter in name) for name in (*known, *also))
    schema = {"type": "string", "pattern": f"^({any_case})$", "examples": known}
    return Kind(read, schema, lambda value: isinstance(value, choices), str, lambda name: choices[name.upper()])


TEXT = Kind(read_text, {"type": "string"}, _is_string)
ID = Kind(read_id, ID_SCHEMA, _is_id)
SKILL = ID._replace(holds=_is_filled)
_ID_LIST = {"type": "array", "items": ID_SCHEMA}
TASK_IDS = Kind(_ids, {"anyOf": [_ID_LIST, ID_SCHEMA]}, _are_strings, list, tuple, each=ID, collect=_distinct)
LABELS = Kind(_labels, {**_ID_LIST, "maxItems": MAX_LABELS}, _are_strings, list, tuple, each=ID, collect=_distinct)
DIRECTORY = Kind(_directory, {"type": "string", "pattern": r"\S"}, _is_filled)
FLAG = Kind(_flag, {"type": "boolean"}, _is_flag)
DURATION = Kind(parse_duration, _DURATION_SCHEMA, _is_duration, to_wire=_spelled)
TIME_LIMIT = Kind(_time_limit, _DURATION_SCHEMA, _is_duration, to_wire=_spelled)
ENV = Kind(
    _variables,
    {
        "type": "object",
        "propertyNames": {"pattern": rf"^(?!CIS_){_ENV_NAME}$"},
        "additionalProperties": {"type": ["string", "number", "boolean"]},
        "maxProperties": MAX_VARIABLES,
        "examples": [{"LANG": "C.UTF-8", "PROJECT_ID": "proj-a"}],
    },
    _are_variables,
    dict,
    names=Kind(_env_name, {}, _is_string),
    each=Kind(_env_value, {}, _is_string),
)
SECRETS = Kind(
    _secrets,
    {
        "description": "Secrets by name: each under its own name, or a mapping of variables to names.",
        "anyOf": [
            {"type": "array", "items": {"type": "string", "pattern": _SECRET_VARIABLE}, "maxItems": MAX_SECRETS},
            {
                "type": "object",
                "propertyNames": {"pattern": _SECRET_VARIABLE},
                "additionalProperties": {"type": "string", "pattern": f"^{NAME_PATTERN}$"},
                "maxProperties": MAX_SECRETS,
            },
        ],
        "examples": [["DB_PASSWORD"], {"PGPASSWORD": "DB_PASSWORD"}],
    },
    _are_variables,
    dict,
)
COMMAND = Kind(
    _command,
    {
        "description": "Lines for /bin/sh -e, or a list: a program and its arguments, run without a shell.",
        "anyOf": [
            {"type": "string", "pattern": r"\S"},
            {"type": "array", "items": {"type": ["string", "number"]}, "minItems": 1},
        ],
        "examples": ["make all", ["git", "fetch", "--all"]],
    },
    _is_command,
    _listed,
    _unlisted,
)
SHELL = Kind(
    _shell,
    {
        "type": "string",
        "pattern": r"^\s*[^\s-]",
        "description": "What reads a command that is text. sh, bash, zsh and dash get it with -c, any other program as a file.",
        "examples": ["bash -euo pipefail", "python3"],
    },
    _is_filled,
)
PARAMS = Kind(_params, {"type": "object", "description": "What the skill is given."}, _is_mapping, dict)
