"""The kinds of values that make many tasks from one: ``foreach`` and ``matrix``. Without pydantic, as ``cis.model.kinds``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cis.model.fields import Kind
from cis.model.kinds import kind_of
from cis.model.task_kinds import plain_json

MAX_INSTANCES = 10_000  # of one task
MAX_NAMES = 32  # of a matrix
INCLUDE, EXCLUDE = "include", "exclude"
_NAME = r"[A-Za-z_][A-Za-z0-9_-]*"
_REFERENCE = r"\$\{(params|tasks)\.[^{}]+\}"


def _list_or_reference(value: Any) -> Any:
    """Return a list, or the reference to one. Raises ValueError."""
    if isinstance(value, str) and re.fullmatch(_REFERENCE, value):
        return value
    if not isinstance(value, list):
        what = f"{value!r:.60}" if isinstance(value, str) else kind_of(value)
        raise ValueError(f"must be a list, or one reference to a list as ${{params.NAME}}, not {what}")
    if len(value) > MAX_INSTANCES:
        raise ValueError(f"holds {len(value):,} items; {MAX_INSTANCES:,} at most")
    return plain_json(value)


def _matrix(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"must be a mapping of names to lists, not {kind_of(value)}")
    if len(value) > MAX_NAMES:
        raise ValueError(f"has {len(value):,} names; {MAX_NAMES} at most")
    if not value:
        raise ValueError("is empty; name lists, as {os: [linux, macos]}")
    found = {}
    for name, items in value.items():
        if not isinstance(name, str) or not re.fullmatch(_NAME, name):
            raise ValueError(f"{name!r:.60} is not a name; use ASCII letters, digits, '_' and '-', a letter first")
        try:
            found[name] = _list_or_reference(items)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from error
        if name in (INCLUDE, EXCLUDE) and isinstance(items, list) and not all(isinstance(one, dict) for one in items):
            raise ValueError(f"{name} must be a list of mappings")
    return found


def _is_list_or_text(value: Any) -> bool:
    return isinstance(value, str | list)


_ITEMS = {"type": "array", "maxItems": MAX_INSTANCES}
_LIST = {"anyOf": [_ITEMS, {"type": "string", "pattern": f"^{_REFERENCE}$"}]}
_ENTRIES = {"anyOf": [{**_ITEMS, "items": {"type": "object"}}, {"type": "string", "pattern": f"^{_REFERENCE}$"}]}
FOREACH = Kind(_list_or_reference, {**_LIST, "examples": [["a", "b"], "${tasks.find.outputs.files}"]}, _is_list_or_text)
MATRIX = Kind(
    _matrix,
    {
        "type": "object",
        "propertyNames": {"pattern": f"^{_NAME}$"},
        "properties": {INCLUDE: _ENTRIES, EXCLUDE: _ENTRIES},
        "additionalProperties": _LIST,
        "minProperties": 1,
        "maxProperties": MAX_NAMES,
        "examples": [{"os": ["linux", "macos"], "python": ["3.11", "3.13"]}],
    },
    lambda value: isinstance(value, Mapping) and all(map(_is_list_or_text, value.values())),
    dict,
)
