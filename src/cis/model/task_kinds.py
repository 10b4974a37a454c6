"""The kinds of values that only tasks and DAGs have: commands, variables, secrets and parameters.

Without pydantic, as ``cis.model.kinds``: every command loads this.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from typing import Any

from cis.model.fields import Kind
from cis.model.ids import NAME_PATTERN, did_you_mean, name_fault
from cis.model.kinds import are_strings, is_filled, is_string, kind_of, read_text

MAX_VARIABLES = 10_000
MAX_SECRETS = 64
FILE = "file"  # in ``stdin``: it is the content of this one
MAX_HANDED_UP = 1000
MAX_EXPRESSION = 4096  # characters of a condition
_NOT_FOR_SECRETS = r"CIS_|LD_|DYLD_|(PATH|HOME|USER|SHELL|TMPDIR|IFS|ENV|BASH_ENV)$"  # what decides which code runs
_NAMED_BY_PARAM = re.compile(rf"\$\{{params\.{NAME_PATTERN}\}}")
_ENV_NAME = r"[A-Za-z_][A-Za-z0-9_.-]*"


def _variables(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > MAX_VARIABLES:
        raise ValueError(f"holds {len(value):,} variables; {MAX_VARIABLES:,} at most")
    return value


def _env_name(value: Any) -> str:
    name = read_text(value)
    if not re.fullmatch(_ENV_NAME, name):
        raise ValueError(f"{name!r:.60} is not a name of a variable; use ASCII letters, digits and '_'")
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
    return isinstance(value, Mapping) and are_strings(value.values())


def _stdin(value: Any) -> str | dict[str, str]:
    if not isinstance(value, dict):
        if not isinstance(value, str):
            raise ValueError(f"must be a string, or {{{FILE}: path}}, not {kind_of(value)}")
        return read_text(value)
    for name in value:
        if name != FILE:
            raise ValueError(f"{name!r:.60} is not a field{did_you_mean(str(name), [FILE]) or f'; known: {FILE}'}")
    if not value:
        raise ValueError(f"is empty; write a string, or {{{FILE}: path}}")
    path = read_text(value[FILE])
    if not path.strip():
        raise ValueError("file is empty; write its path, or leave stdin out")
    return {FILE: path}


def _is_stdin(value: Any) -> bool:
    return is_string(value) or (isinstance(value, Mapping) and set(value) == {FILE} and is_filled(value[FILE]))


def _output_name(value: Any) -> str:
    name = read_text(value)
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(
            f"{name!r:.60} is not a name of an output; use ASCII letters, digits and '_', not a digit first"
        )
    return name


def _condition(value: Any) -> str:
    if isinstance(value, bool):
        raise ValueError(f'must be a string, as "{str(value).lower()}"')
    text = read_text(value)
    if not text.strip():
        raise ValueError("is empty; write a condition, or leave it out")
    if len(text) > MAX_EXPRESSION:
        raise ValueError(f"has {len(text):,} characters; {MAX_EXPRESSION:,} at most")
    return text  # its syntax is looked at with what it names (``cis.model.conditions``)


def _handed_up(value: Any) -> dict[str, Any]:
    handed = _params(value)
    if len(handed) > MAX_HANDED_UP:
        raise ValueError(f"names {len(handed):,} outputs; {MAX_HANDED_UP:,} at most")
    return {_output_name(name): item for name, item in handed.items()}


def _secret_variable(value: Any) -> str:
    name = read_text(value)
    if _NAMED_BY_PARAM.fullmatch(name):
        raise ValueError(f"{name} needs a variable, as {{PASSWORD: {name!r}}}")
    fault = name_fault(name)
    if fault:
        raise ValueError(fault)
    return name


def _secret_name(value: Any) -> str:
    """Return the name of a secret, or the reference to the parameter that is one."""
    name = read_text(value)
    fault = None if _NAMED_BY_PARAM.fullmatch(name) else name_fault(name)
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
        found[_secret_variable(variable)] = _secret_name(name)
        if re.match(_NOT_FOR_SECRETS, variable):
            raise ValueError(f"{variable} cannot be a secret's variable; map another one, as {{TOKEN: {name}}}")
    return found


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
    return is_filled(value) or (isinstance(value, tuple) and bool(value) and are_strings(value))


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _unlisted(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _params(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"must be a mapping, not {kind_of(value)}")
    return {read_text(key): plain_json(item) for key, item in value.items()}


def plain_json(value: Any) -> Any:
    """Return a value of ordinary JSON types, without what reading remembered of its spelling."""
    if isinstance(value, dict):
        return {read_text(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain_json(item) for item in value]
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
    raise ValueError(f"{value!r} is not a JSON value")


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


_SECRET_VARIABLE = rf"^(?!{_NOT_FOR_SECRETS}){NAME_PATTERN}$"


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
    names=Kind(_env_name, {}, is_string),
    each=Kind(_env_value, {}, is_string),
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
                "additionalProperties": {
                    "type": "string",
                    "pattern": rf"^({NAME_PATTERN}|\$\{{params\.{NAME_PATTERN}\}})$",
                },
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
    is_filled,
)
STDIN = Kind(
    _stdin,
    {
        "anyOf": [
            {"type": "string"},
            {
                "type": "object",
                "properties": {FILE: {"type": "string", "pattern": r"\S"}},
                "required": [FILE],
                "additionalProperties": False,
            },
        ],
        "examples": ["text", {FILE: "data/input.csv"}],
    },
    _is_stdin,
    lambda value: value if isinstance(value, str) else dict(value),
)
_DECLARATION: dict[str, Any] = {
    "type": "object",
    "properties": {
        "type": {"enum": ["string", "integer", "number", "boolean", "array", "object", "secret"]},
        "default": {"description": "Its value where none is given. Without one it is required."},
        "enum": {"type": "array", "minItems": 1, "description": "The values that it may have."},
        "pattern": {
            "type": "string",
            "maxLength": 1000,
            "description": "Of a string: found in it (syntax of Rust's regex).",
        },
        "minLength": {"type": "integer", "minimum": 0},
        "maxLength": {"type": "integer", "minimum": 0},
        "minimum": {"type": "number"},
        "maximum": {"type": "number"},
        "items": {"type": "object", "description": "Of a list: what each item is, as a parameter is declared."},
        "required": {"type": "boolean", "description": "false: without a value it is null."},
        "description": {"type": "string"},
    },
    "patternProperties": {"^x-": {}},
    "additionalProperties": False,
}
OUTPUT = Kind(_output_name, {"type": "string", "pattern": f"^{NAME_PATTERN}$", "examples": ["version"]}, is_filled)
CONDITION = Kind(
    _condition,
    {
        "type": "string",
        "pattern": r"\S",
        "maxLength": MAX_EXPRESSION,
        "description": "An expression in CEL; when it is false the task is skipped. Default: it runs.",
        "examples": ['params.env == "production" && int(tasks.test.outputs.coverage) > 80'],
    },
    is_filled,
)
HANDED_UP = Kind(
    _handed_up,
    {
        "type": "object",
        "description": "What it hands up as a task of another DAG: names, and values that may refer to its tasks. Default: all outputs of its tasks.",
        "propertyNames": {"pattern": f"^{NAME_PATTERN}$"},
        "maxProperties": MAX_HANDED_UP,
        "examples": [{"version": "${tasks.build.outputs.version}"}],
    },
    _is_mapping,
    dict,
)
DECLARATIONS = Kind(
    _params,
    {
        "type": "object",
        "description": "What a run is given: names, each with its type and bounds, a subset of JSON Schema.",
        "propertyNames": {"pattern": r"^[A-Za-z_][A-Za-z0-9_]*$"},
        "additionalProperties": _DECLARATION,
        "maxProperties": 500,
        "examples": [{"version": {"type": "string", "pattern": r"^\d+\.\d+$", "default": "1.0"}}],
    },
    _is_mapping,
    dict,
)
PARAMS = Kind(_params, {"type": "object", "description": "What the skill is given."}, _is_mapping, dict)
