"""Texts to plain trees and back: YAML, JSON and TOML, read so that nothing in them can hurt.

A tree holds mappings, lists, strings, numbers, booleans and null. What is refused here: duplicate keys, numbers that
are not finite, nesting over 100 levels, aliases that blow up, tags and dates. The standard library reads JSON and TOML,
and what it lets through is checked afterwards. Plain scalars of YAML (``cis.model.yaml_events``) follow the core schema
of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema), so ``yes``, ``1:30`` and ``2024-01-01`` are strings.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from enum import StrEnum
from itertools import islice
from typing import NoReturn

from cis.errors import DocumentError, DocumentTooLargeError, Fault, MalformedDocumentError
from cis.model.dag import Json
from cis.model.tree import (
    DOUBLED,
    MAX_BYTES,
    MAX_DEPTH,
    TOO_DEEP,
    Path,
    Read,
    Tree,
    WrittenFloat,
    clipped,
    is_text,
    path_of,
    place,
)

_MAX_FAULTS = 20
_MAX_BITS = 14_000  # about 4,200 digits: more are a mistake, and slow to print
_TOO_LONG_NUMBER = "holds a number of more than 4,000 digits; write it as a string"
# The standard library's reader takes quadratic time for a key of many parts.
_PART = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')[ \t]*"""
_LONG_KEY = re.compile(rf"(?:^|[{{,\[])[ \t]*((?:{_PART}\.[ \t]*){{16,}}){_PART}[=\]]", re.MULTILINE)

_JSON_START = re.compile(r"\s*(\{\s*[\"}]|\[)")
_TOML_LINE = re.compile(r"[A-Za-z0-9_.-]+\s*=|\[\[?\s*[A-Za-z0-9_.-]+\s*\]\]?\s*(#.*)?$")
_EMPTY = "is empty; a DAG needs dag_id and tasks"


class Format(StrEnum):
    """The notations of a document."""

    YAML = "yaml"
    JSON = "json"
    TOML = "toml"


SUFFIXES = {".yaml": Format.YAML, ".yml": Format.YAML, ".json": Format.JSON, ".toml": Format.TOML}


def load_document(data: bytes, *, format: Format | None = None, source: str | None = None) -> Tree:  # noqa: A002
    """Return the tree that *data* spells; without *format* it is found out.

    Raises:
        DocumentTooLargeError: over 16 MiB.
        MalformedDocumentError: empty, binary, not in the notation, or no mapping.
        DocumentError: in the notation, but with something that is refused.
    """
    if len(data) > MAX_BYTES:
        raise DocumentTooLargeError(MAX_BYTES)
    text = _decoded(data, source)
    try:
        root, lines, faults = _load(text, format or _detect(text), fallback=format is None)
    except RecursionError:
        raise DocumentError([Fault(place="", message=TOO_DEEP)], source=source) from None
    except DocumentError as error:
        raise type(error)([_clipped(fault) for fault in error.faults], source=source) from error
    if faults and not isinstance(root, dict):
        raise DocumentError([Fault(place=place(path), message=clipped(text)) for path, text in faults], source=source)
    if root is None:
        raise MalformedDocumentError([Fault(place="", message=_EMPTY)], source=source)
    if not isinstance(root, dict):
        kind = "a list" if isinstance(root, list) else f"a single value ({clipped(str(root), limit=60)!r})"
        raise MalformedDocumentError(
            [Fault(place="", message=f"is {kind}; a DAG is a mapping with dag_id and tasks")], source=source
        )
    return Tree(root, lines, faults)


def located(
    error: DocumentError,
    data: bytes,
    *,
    format: Format | None = None,  # noqa: A002 - as above
    source: str | None = None,
) -> DocumentError:
    """Return *error*, found in a DAG that was read before, with the lines of the *data* that it was read from."""
    tree = load_document(data, format=format, source=source)
    faults = [
        fault._replace(line=tree.line(path_of(fault.place)) if fault.line is None else fault.line)
        for fault in error.faults
    ]
    return type(error)(faults, source=source)


def _decoded(data: bytes, source: str | None) -> str:
    def refuse(message: str, line: int | None = None) -> NoReturn:
        raise MalformedDocumentError([Fault(place="", message=message, line=line)], source=source)

    if b"\0" in data:
        refuse("is binary: it contains NUL bytes; a DAG document is UTF-8 text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        refuse(f"is not UTF-8 text (byte {error.start})", data.count(b"\n", 0, error.start) + 1)
    if not text.strip():
        refuse(_EMPTY)
    return text


def _clipped(fault: Fault) -> Fault:
    return fault._replace(message=clipped(fault.message))


def _detect(text: str) -> Format:
    if _TOML_LINE.match(_first_line(text)):
        return Format.TOML
    return Format.JSON if text.lstrip()[0] in "{[" else Format.YAML


def _first_line(text: str) -> str:
    """Return the first line that is more than a comment."""
    for line in text.splitlines():
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            return stripped
    return ""


def _load(text: str, notation: Format, *, fallback: bool) -> Read:
    if notation is Format.TOML:
        return load_toml(text)
    if notation is Format.JSON:
        try:
            return load_json(text)
        except MalformedDocumentError:
            if fallback and not _JSON_START.match(text):  # YAML has such a notation as well
                return _load_yaml(text)
            raise
    try:
        read = _load_yaml(text)
    except MalformedDocumentError:
        if fallback and _looks_like_toml(text):
            return load_toml(text)
        raise
    return load_toml(text) if fallback and not isinstance(read[0], dict) and _looks_like_toml(text) else read


def _looks_like_toml(text: str) -> bool:
    first = _first_line(text)
    return "=" in first or first.startswith("[")


def _load_yaml(text: str) -> Read:
    from cis.model.yaml_events import load_yaml  # noqa: PLC0415 - PyYAML only for YAML

    return load_yaml(text)


def dump_document(plain: Mapping[str, Json], format: Format) -> str:  # noqa: A002
    """Return the text of a plain DAG (``DagSpec.to_dict``) in a notation; reading it gives the same DAG.

    Raises:
        DocumentError: TOML cannot express a null in a task's ``params``.
    """
    if format is Format.JSON:
        return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"
    if format is Format.YAML:
        from cis.model.yaml_events import dump_yaml  # noqa: PLC0415 - PyYAML only for YAML

        return dump_yaml(plain)
    import tomli_w  # noqa: PLC0415 - only for TOML

    try:
        return tomli_w.dumps(plain)
    except TypeError as error:
        raise DocumentError([Fault(place="", message=f"TOML cannot express it: {error}")]) from error


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
    return root, {}, _checked(root)


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
    return root, {}, _checked(root)


def _checked(root: Json) -> tuple[tuple[Path, str], ...]:
    """Return what is refused in *root*, which a parser was content with. Without recursion.

    Raises:
        DocumentError: it is too deep to be looked at any further.
    """
    level, depth = [root], 0
    while level:
        below: list[Json] = []
        for value in level:
            if _scalar_fault(value) or (depth > MAX_DEPTH and isinstance(value, dict | list)):
                faults = tuple(islice(_faults_of_values(root), _MAX_FAULTS))
                if any(text == TOO_DEEP for _, text in faults):
                    raise DocumentError([Fault(place=place(path), message=text) for path, text in faults])
                return faults
            if isinstance(value, dict):
                below.extend(value)
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
        level, depth = below, depth + 1
    return ()


def _scalar_fault(value: Json) -> str | None:
    """Return what is wrong with a value by itself."""
    if isinstance(value, str):
        return None if value.isascii() or is_text(value) else "holds half of a surrogate pair, which is not valid text"
    if isinstance(value, float):
        return None if math.isfinite(value) else "is not a finite number"
    if isinstance(value, int):
        return _TOO_LONG_NUMBER if value.bit_length() > _MAX_BITS else None
    if value is None or isinstance(value, dict | list):
        return "holds keys twice" if isinstance(value, _Doubled) else None
    return 'is a date or time; write it as a string, in "quotes"'


def _faults_of_values(root: Json) -> Iterator[tuple[Path, str]]:
    """Yield what is refused, in the order of the document, each with its place."""
    stack: list[Iterator[tuple[Path, Json]]] = [iter([((), root)])]
    while stack:
        path, value = next(stack[-1], (None, None))
        if path is None:
            stack.pop()
            continue
        if isinstance(value, _Doubled):
            yield from (((*path, key), DOUBLED) for key in value.twice)
        elif fault := _scalar_fault(value):
            yield path, fault
        if isinstance(value, dict | list):
            if len(path) > MAX_DEPTH:
                yield path[:6], TOO_DEEP
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
