"""References to outputs: ``${tasks.ID.outputs.NAME}`` in a task's ``env``, ``params`` and ``cwd``.

An id may hold dots; it ends at the last ``.outputs.`` before the name. Anything else in braces is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from cis.model.dag import Json

_REFERENCE = re.compile(r"\$\{tasks\.([A-Za-z0-9][A-Za-z0-9._-]*)\.outputs\.([A-Za-z_][A-Za-z0-9_]*)\}")
OPENING = "${tasks."
# Filled in by the process of the http skill, from its environment, so that it is stored nowhere.
OPENING_OF_SECRET = "${secrets."  # noqa: S105 - how one is written, not a secret
REFERENCE_TO_SECRET = re.compile(r"\$\{secrets\.([A-Za-z_][A-Za-z0-9_]*)\}")


def references(value: Json) -> Iterator[tuple[str, str]]:
    """Yield (task id, output name) for each reference in a string or in the strings of nested JSON."""
    if isinstance(value, str):
        for match in _REFERENCE.finditer(value):
            yield match[1], match[2]
    elif isinstance(value, dict):
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def malformed(value: str) -> bool:
    """Whether a string opens a reference that is none."""
    return value.count(OPENING) != sum(1 for _ in _REFERENCE.finditer(value))


def fill(value: Json, lookup: Callable[[str, str], str]) -> Json:
    """Return *value* with each reference in it replaced by ``lookup(task id, name)``."""
    if isinstance(value, str):
        return _REFERENCE.sub(lambda match: lookup(match[1], match[2]), value) if OPENING in value else value
    if isinstance(value, dict):
        return {key: fill(item, lookup) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, lookup) for item in value]
    return value
