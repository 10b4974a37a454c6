"""JSON and TOML as plain trees: the standard library reads, and what it lets through is refused here."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from itertools import islice

from cis.errors import DocumentError, Fault, MalformedDocumentError
from cis.model.dag import Json
from cis.model.tree import DOUBLED, MAX_DEPTH, TOO_DEEP, Path, Read, WrittenFloat, is_text, place

_MAX_FAULTS = 20
_MAX_BITS = 14_000  # about 4,200 digits: more are a mistake, and slow to print
_TOO_LONG_NUMBER = "holds a number of more than 4,000 digits; write it as a string"
# The standard library's reader takes quadratic time for a key of many parts.
_PART = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')[ \t]*"""
_LONG_KEY = re.compile(rf"(?:^|[{{,\[])[ \t]*((?:{_PART}\.[ \t]*){{16,}}){_PART}[=\]]", re.MULTILINE)


class _Doubled(dict[str, Json]):
    """A mapping in whose text some keys stand twice."""

    twice: tuple[str, ...] = ()


def _mapping(items: list[tuple[str, Json]]) -> dict[str, Json]:
    mapping = dict(items)
    if len(mapping) == len(items):
        return mapping
    doubled = _Doubled(mapping)
    doubled.twice = tuple(key for key, count in Counter(key for key, _ in items).items() if count > 1)
    return doubled


def load_json(text: str) -> Read:
    """Return the root of a JSON text. Raises MalformedDocumentError, or DocumentError for what is refused."""
    try:
        root = json.loads(text, object_pairs_hook=_mapping, parse_float=WrittenFloat)
    except json.JSONDecodeError as error:
        fault = Fault(place="", message=f"is not JSON: {error.msg} (column {error.colno})", line=error.lineno)
        raise MalformedDocumentError([fault]) from error
    except ValueError as error:
        raise DocumentError([Fault(place="", message=_TOO_LONG_NUMBER)]) from error
    return _checked(root), {}


def load_toml(text: str) -> Read:
    """Return the root of a TOML text. Raises MalformedDocumentError, or DocumentError for what is refused."""
    long_key = _LONG_KEY.search(text)
    if long_key:
        line = text.count("\n", 0, long_key.start(1)) + 1
        raise DocumentError([Fault(place="", message="is a key of more than 16 parts", line=line)])
    try:
        root = tomllib.loads(text, parse_float=WrittenFloat)
    except tomllib.TOMLDecodeError as error:
        raise MalformedDocumentError([Fault(place="", message=f"is not TOML: {error}")]) from error
    except ValueError as error:
        raise DocumentError([Fault(place="", message=_TOO_LONG_NUMBER)]) from error
    return _checked(root), {}


def _checked(root: Json) -> Json:
    """Return *root*, which a parser was content with, if it holds nothing that is refused. Without recursion."""
    level, depth = [root], 0
    while level:
        below: list[Json] = []
        for value in level:
            if _scalar_fault(value) or (depth > MAX_DEPTH and isinstance(value, dict | list)):
                raise DocumentError(list(islice(_faults_of_values(root), _MAX_FAULTS)))
            if isinstance(value, dict):
                below.extend(value)
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
        level, depth = below, depth + 1
    return root


def _scalar_fault(value: Json) -> str | None:
    """Return what is wrong with a value by itself."""
    if isinstance(value, str):
        return None if value.isascii() or is_text(value) else "holds half of a surrogate pair, which is no text"
    if isinstance(value, float):
        return None if math.isfinite(value) else "is not a finite number"
    if isinstance(value, int):
        return _TOO_LONG_NUMBER if value.bit_length() > _MAX_BITS else None
    if value is None or isinstance(value, dict | list):
        return "holds keys twice" if isinstance(value, _Doubled) else None
    return 'is a date or time; write it as a string, in "quotes"'


def _faults_of_values(root: Json) -> Iterator[Fault]:
    """Yield what is refused, in the order of the document, each with its place."""
    stack: list[Iterator[tuple[Path, Json]]] = [iter([((), root)])]
    while stack:
        path, value = next(stack[-1], (None, None))
        if path is None:
            stack.pop()
            continue
        if isinstance(value, _Doubled):
            yield from (Fault(place=place((*path, key)), message=DOUBLED) for key in value.twice)
        elif fault := _scalar_fault(value):
            yield Fault(place=place(path), message=fault)
        if isinstance(value, dict | list):
            if len(path) > MAX_DEPTH:
                yield Fault(place=place(path[:6]), message=TOO_DEEP)
                return
            stack.append(_parts(path, value))


def _parts(path: Path, value: dict[str, Json] | list[Json]) -> Iterator[tuple[Path, Json]]:
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield (*path, number), item
        return
    for key, item in value.items():
        if not is_text(key):
            yield (*path, key), key
        yield (*path, key), item
