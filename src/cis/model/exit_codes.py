"""What the exit statuses of a task mean: which are success, which a skip, which are tried again, which are allowed.

Without pydantic, as ``cis.model.kinds``: every command loads this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cis.model.fields import Kind
from cis.model.ids import did_you_mean
from cis.model.kinds import kind_of
from cis.model.tree import Path

MAX_CODE = 255
SUCCESS, SKIP, RETRY, ALLOW = "success_codes", "skip_codes", "retry_codes", "allow_failure"
EXIT_CODES = "exit_codes"
Allowed = bool | tuple[int, ...]
"""Whether a failure is allowed, or with which exit statuses it is."""


def _is_code(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_CODE


def _codes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise ValueError(
            f"must be a list of exit statuses, as [{int(value) if _is_code(value) else 75}], not {kind_of(value)}"
        )
    if not value:
        raise ValueError("is empty; leave it out, or list exit statuses")
    for one in value:
        if not _is_code(one):
            shown = (
                int(one) if isinstance(one, int) and not isinstance(one, bool) and abs(one) < 10**15 else kind_of(one)
            )
            raise ValueError(f"must hold whole numbers from 0 to {MAX_CODE}, not {shown}")
    return tuple(dict.fromkeys(int(one) for one in value))


def _are_codes(value: Any) -> bool:
    return isinstance(value, tuple) and all(map(_is_code, value))


def _allowed(value: Any) -> Allowed:
    if isinstance(value, bool):
        return value
    if not isinstance(value, dict):
        raise ValueError(f"must be true, false or {{{EXIT_CODES}: [1]}}, not {kind_of(value)}")
    for name in value:
        if name != EXIT_CODES:
            raise ValueError(
                f"{name!r:.60} is not a field{did_you_mean(str(name), [EXIT_CODES]) or f'; known: {EXIT_CODES}'}"
            )
    if EXIT_CODES not in value:
        raise ValueError(f"is empty; write true for any failure, or {{{EXIT_CODES}: [1]}}")
    try:
        return _codes(value[EXIT_CODES])
    except ValueError as error:
        raise ValueError(f"{EXIT_CODES} {error}") from error


def _is_allowed(value: Any) -> bool:
    return isinstance(value, bool) or (_are_codes(value) and bool(value))


def _allowed_plain(value: Allowed) -> Any:
    return value if isinstance(value, bool) else {EXIT_CODES: list(value)}


def _allowed_of(plain: Any) -> Any:
    return tuple(plain[EXIT_CODES]) if isinstance(plain, dict) else plain


def code_faults(here: Path, task: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """Yield what does not fit together in what a task says of its exit statuses."""
    lists = {name: _listed(task.get(name)) for name in (SUCCESS, SKIP, RETRY)}
    allowed = task.get(ALLOW)
    where = dict.fromkeys(lists[SUCCESS], SUCCESS) or {0: ""}
    for name in (SKIP, RETRY):
        for code in dict.fromkeys(lists[name]):
            if code not in where:
                where[code] = name
            elif where[code]:
                yield (*here, name), f"holds {code}, and so does {where[code]}; an exit status means one thing"
            else:
                yield (*here, name), f"holds 0, which is success unless {SUCCESS} lists others"
    for code in _listed(allowed.get(EXIT_CODES)) if isinstance(allowed, dict) else ():
        if where.get(code, RETRY) != RETRY:
            yield (
                (*here, ALLOW),
                f"holds {code}, which is not a failure" + (f", since {where[code]} has it" if where[code] else ""),
            )
    for name in (SUCCESS, SKIP, RETRY):
        if task.get(name) is not None and task.get("skill") == "dag":
            yield (*here, name), "are exit statuses of a process; a DAG as a task has none"


def _listed(value: Any) -> list[int]:
    return [int(code) for code in value if _is_code(code)] if isinstance(value, list) else []


_SCHEMA = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": MAX_CODE},
    "minItems": 1,
}
CODES = Kind(_codes, _SCHEMA, _are_codes, list, tuple)
ALLOWED = Kind(
    _allowed,
    {
        "anyOf": [
            {"type": "boolean"},
            {
                "type": "object",
                "properties": {EXIT_CODES: _SCHEMA},
                "required": [EXIT_CODES],
                "additionalProperties": False,
            },
        ]
    },
    _is_allowed,
    _allowed_plain,
    _allowed_of,
)
