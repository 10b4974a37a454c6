"""The fields of a document: how each spelling is read, and what the JSON Schema says of it."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainValidator, WithJsonSchema

from cis.model.dag import Backoff, Json, OnLost, Priority
from cis.model.durations import FORMS, MAX_DURATION_S, parse_duration
from cis.model.ids import ID_PATTERN, MAX_ID_LENGTH, NAME_PATTERN, did_you_mean, id_fault, name_fault
from cis.model.scope import Scope, ScopeType, parse_scope
from cis.model.tree import is_text

MAX_TASKS = 100_000
MAX_RETRIES = 1000
MAX_LOSSES = 1000
MAX_VARIABLES = 10_000
MAX_LABELS = 32
MAX_SECRETS = 64
_NOT_FOR_SECRETS = r"CIS_|LD_|DYLD_|(PATH|HOME|USER|SHELL|TMPDIR|IFS|ENV|BASH_ENV)$"  # what decides which code runs
_TAKEN = re.compile(_NOT_FOR_SECRETS)
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_PRIORITY_ALIASES = {"medium": Priority.NORMAL, "urgent": Priority.CRITICAL}
_ID_KEYS = {"project_id": ScopeType.PROJECT, "user_id": ScopeType.USER, "dag_type": ScopeType.TYPE}


def kind_of(value: Json) -> str:
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


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be a string, not {kind_of(value)}")
    if "\0" in value:
        raise ValueError("holds a NUL character, which no process can be given")
    if not value.isascii() and not is_text(value):
        raise ValueError("holds half of a surrogate pair, which is no text")
    return value


def _id(value: Any) -> str:
    text = getattr(value, "text", value)  # an id may look like a number
    if not isinstance(text, str):
        raise ValueError(f"must be a string, not {kind_of(value)}")
    fault = id_fault(text)
    if fault:
        raise ValueError(fault)
    return text


def _ids(value: Any) -> Any:
    if isinstance(value, list) and len(value) > MAX_TASKS:
        raise ValueError(f"names {len(value):,} tasks; {MAX_TASKS:,} at most")
    return value


def _labels(value: Any) -> Any:
    if isinstance(value, list) and len(value) > MAX_LABELS:
        raise ValueError(f"names {len(value):,} labels; {MAX_LABELS} at most")
    return value


def _directory(value: Any) -> str:
    text = _text(value)
    if not text.strip():
        raise ValueError("is empty; leave it out for the directory of the document")
    return text


def _variables(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > MAX_VARIABLES:
        raise ValueError(f"holds {len(value):,} variables; {MAX_VARIABLES:,} at most")
    return value


def _duration(value: Any) -> float:
    return parse_duration(value)


def _time_limit(value: Any) -> float:
    seconds = parse_duration(value)
    if seconds <= 0:
        raise ValueError("must be over 0; leave it out for no limit")
    return seconds


def _count(value: Any, *, lowest: int, highest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
        shown = value if is_number else kind_of(value)
        raise ValueError(f"must be a whole number from {lowest} to {highest}, not {shown}")
    return int(value)


def _retries(value: Any) -> int:
    return _count(value, lowest=0, highest=MAX_RETRIES)


def _losses(value: Any) -> int:
    return _count(value, lowest=0, highest=MAX_LOSSES)


def _parallel(value: Any) -> int:
    return _count(value, lowest=1, highest=MAX_TASKS)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {kind_of(value)}")
    return value


def _command(value: Any) -> str | tuple[str, ...]:
    if isinstance(value, list):
        if not value:
            raise ValueError("is an empty list; the first item is the program")
        return tuple(_argument(number, item) for number, item in enumerate(value))
    text = _text(value)
    if not text.strip():
        raise ValueError("is empty; write a line for /bin/sh, or a list of program and arguments")
    return text


def _argument(number: int, item: Any) -> str:
    try:
        return _text(getattr(item, "text", str(item) if isinstance(item, int) and not isinstance(item, bool) else item))
    except ValueError as error:
        raise ValueError(f"item {number} {error}") from error


def _env_name(value: Any) -> str:
    name = _text(value)
    if not _ENV_NAME.fullmatch(name):
        raise ValueError(f"{name!r:.60} is no name of a variable; use letters, digits and '_'")
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
    return _text(value)


def _secret_name(value: Any) -> str:
    name = _text(value)
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
        if _TAKEN.match(variable):
            raise ValueError(f"{variable} cannot be a secret's variable; map another one, as {{TOKEN: {name}}}")
    return found


def _priority(value: Any) -> Priority:
    name = _text(value).lower()
    if name in _PRIORITY_ALIASES:
        return _PRIORITY_ALIASES[name]
    if name.upper() not in Priority.__members__:
        known = [str(one) for one in Priority]
        raise ValueError(f"{value!r:.60} is none of {', '.join(known)}{did_you_mean(name, known)}")
    return Priority[name.upper()]


def _choice(value: Any, kind: type[Backoff | OnLost]) -> Any:
    text = _text(value)
    known = [str(one) for one in kind]
    if text not in known:
        raise ValueError(f"{text!r:.60} is none of {', '.join(known)}{did_you_mean(text, known)}")
    return kind(text)


def _scope(value: Any) -> Scope:
    if not isinstance(value, dict):
        return parse_scope(_text(value))
    unknown = [key for key in value if key not in ("type", "id", *_ID_KEYS)]
    if unknown:
        raise ValueError(
            f"has the unknown field {unknown[0]!r:.60}{did_you_mean(unknown[0], ('type', 'id', *_ID_KEYS))}"
        )
    if "type" not in value:
        raise ValueError("lacks type: global, project, user or type")
    name = _text(value["type"]).lower()
    if name not in set(ScopeType):
        raise ValueError(f"type {value['type']!r:.60} is none of global, project, user, type")
    kind = ScopeType(name)
    owners = set()
    for key in ("id", *_ID_KEYS):
        if value.get(key) is None:
            continue
        if key in _ID_KEYS and _ID_KEYS[key] is not kind:
            raise ValueError(f"{key} does not go with type {kind}")
        owners.add(_id(value[key]))
    if len(owners) > 1:
        raise ValueError(f"names two ids: {' and '.join(sorted(owners))}")
    return Scope(kind, next(iter(owners), ""))


def _params(value: Any) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise ValueError(f"must be a mapping, not {kind_of(value)}")
    return {_text(key): _plain(item) for key, item in value.items()}


def _plain(value: Json) -> Json:
    """Return a value of ordinary JSON types, without what reading remembered of its spelling."""
    if isinstance(value, dict):
        return {_text(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        if abs(value) >= 2**63:
            raise ValueError("holds a whole number beyond 64 bits; write it as a string")
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    raise ValueError(f"{value!r} is no JSON value")


_ID_SCHEMA = {
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
# ECMA 262, whose patterns a JSON Schema has, knows no flag within a pattern.
_ANY_CASE = "|".join(
    "".join(f"[{letter.upper()}{letter}]" for letter in name)
    for name in (*(str(one) for one in Priority), *_PRIORITY_ALIASES)
)


def _scope_object(kind: ScopeType, key: str | None) -> dict[str, Any]:
    known: dict[str, Any] = {"type": {"const": str(kind)}, "id": _ID_SCHEMA if key else {"type": "null"}}
    schema = {"type": "object", "required": ["type"], "additionalProperties": False}
    if key is None:
        return schema | {"properties": known}
    owner = [{"required": ["id"]}, {"required": [key]}]
    return schema | {"properties": known | {key: _ID_SCHEMA}, "anyOf": owner}


_SCOPE_SCHEMA: dict[str, Any] = {
    "description": "Whom the DAG belongs to; without it the scope is inferred.",
    "anyOf": [
        {
            "type": "string",
            "pattern": r"^(global|(project|user|type):[A-Za-z0-9][A-Za-z0-9._-]{0,127})$",
            "not": {"pattern": r"\.\."},
        },
        _scope_object(ScopeType.GLOBAL, None),
        *(_scope_object(kind, key) for key, kind in _ID_KEYS.items()),
    ],
    "examples": ["project:proj-a", {"type": "user", "user_id": "user-123"}],
}

Text = Annotated[str, PlainValidator(_text), WithJsonSchema({"type": "string"})]
Id = Annotated[str, PlainValidator(_id), WithJsonSchema(_ID_SCHEMA)]
Duration = Annotated[float, PlainValidator(_duration), WithJsonSchema(_DURATION_SCHEMA)]
TimeLimit = Annotated[float, PlainValidator(_time_limit), WithJsonSchema(_DURATION_SCHEMA)]
Retries = Annotated[
    int, PlainValidator(_retries), WithJsonSchema({"type": "integer", "minimum": 0, "maximum": MAX_RETRIES})
]
Losses = Annotated[
    int, PlainValidator(_losses), WithJsonSchema({"type": "integer", "minimum": 0, "maximum": MAX_LOSSES})
]
Flag = Annotated[bool, PlainValidator(_flag), WithJsonSchema({"type": "boolean"})]
Parallel = Annotated[
    int, PlainValidator(_parallel), WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MAX_TASKS})
]
EnvName = Annotated[str, PlainValidator(_env_name)]
EnvValue = Annotated[str, PlainValidator(_env_value)]
Env = Annotated[
    dict[EnvName, EnvValue],
    BeforeValidator(_variables),
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"pattern": rf"^(?!CIS_){_ENV_NAME.pattern}$"},
            "additionalProperties": {"type": ["string", "number", "boolean"]},
            "maxProperties": MAX_VARIABLES,
            "examples": [{"LANG": "C.UTF-8", "PROJECT_ID": "proj-a"}],
        }
    ),
]
_SECRET_VARIABLE = rf"^(?!{_NOT_FOR_SECRETS}){NAME_PATTERN}$"
Secrets = Annotated[
    dict[str, str],
    PlainValidator(_secrets),
    WithJsonSchema(
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
        }
    ),
]
Ids = Annotated[list[Id], BeforeValidator(_ids)]
Labels = Annotated[
    list[Id],
    BeforeValidator(_labels),
    WithJsonSchema({"type": "array", "items": _ID_SCHEMA, "maxItems": MAX_LABELS}),
]
Directory = Annotated[str, PlainValidator(_directory), WithJsonSchema({"type": "string", "pattern": r"\S"})]
PriorityField = Annotated[
    Priority,
    PlainValidator(_priority),
    WithJsonSchema({"type": "string", "pattern": f"^({_ANY_CASE})$", "examples": [str(one) for one in Priority]}),
]
BackoffField = Annotated[
    Backoff,
    PlainValidator(lambda value: _choice(value, Backoff)),
    WithJsonSchema({"enum": [str(one) for one in Backoff]}),
]
OnLostField = Annotated[
    OnLost, PlainValidator(lambda value: _choice(value, OnLost)), WithJsonSchema({"enum": [str(one) for one in OnLost]})
]
ScopeField = Annotated[Scope, PlainValidator(_scope), WithJsonSchema(_SCOPE_SCHEMA)]
Command = Annotated[
    Any,
    PlainValidator(_command),
    WithJsonSchema(
        {
            "description": "A line for /bin/sh -c, or a list: a program and its arguments, run without a shell.",
            "anyOf": [
                {"type": "string", "pattern": r"\S"},
                {"type": "array", "items": {"type": ["string", "number"]}, "minItems": 1},
            ],
            "examples": ["make all", ["git", "fetch", "--all"]],
        }
    ),
]
Params = Annotated[
    Any, PlainValidator(_params), WithJsonSchema({"type": "object", "description": "What the skill is given."})
]
