"""Texts to plain trees and back: YAML, JSON and TOML, read so that nothing in them can hurt.

A tree holds mappings, lists, strings, numbers, booleans and null. What is refused here: duplicate keys, numbers that
are not finite, nesting over 100 levels, aliases that blow up, tags and dates. Plain scalars of YAML follow the core
schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema), so ``yes``, ``1:30`` and ``2024-01-01`` are strings.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NoReturn

from cis.errors import DocumentError, DocumentTooLargeError, Fault, MalformedDocumentError
from cis.model.dag import Json

MAX_BYTES = 16 << 20
MAX_DEPTH = 100

Path = tuple[str | int, ...]


class Format(StrEnum):
    """The notations of a document."""

    YAML = "yaml"
    JSON = "json"
    TOML = "toml"


SUFFIXES = {".yaml": Format.YAML, ".yml": Format.YAML, ".json": Format.JSON, ".toml": Format.TOML}


@dataclass(frozen=True, slots=True)
class Tree:
    """A document's root mapping, and the lines of its parts where the notation gives them."""

    root: dict[str, Json]
    lines: Mapping[Path, int] = field(default_factory=dict)

    def line(self, path: Path) -> int | None:
        """Return the line of a part, or of the nearest part around it that has one."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)


class WrittenFloat(float):
    """A number that remembers its text, since ``1.10`` in an environment means ``1.10``."""

    text: str

    def __new__(cls, text: str) -> WrittenFloat:
        """Return the number that *text* spells."""
        number = super().__new__(cls, text)
        number.text = text
        return number


class WrittenInt(int):
    """A whole number that remembers its text, as ``007``."""

    text: str

    @classmethod
    def of(cls, text: str, base: int) -> WrittenInt:
        """Return the number that *text* spells to *base*."""
        number = cls(int(text, base))
        number.text = text
        return number


def place(path: Path) -> str:
    """Return a path as people write it: ``tasks[3].depends_on[0]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


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
        root, lines = _load(text, format or _detect(text), fallback=format is None)
    except RecursionError:
        raise DocumentError([Fault(place="", message=_TOO_DEEP)], source=source) from None
    except DocumentError as error:
        raise type(error)(error.faults, source=source) from error
    if not isinstance(root, dict):
        kind = "a list" if isinstance(root, list) else f"a single value ({str(root)[:40]!r})"
        raise MalformedDocumentError(
            [Fault(place="", message=f"is {kind}; a DAG is a mapping with dag_id and tasks")], source=source
        )
    return Tree(root, lines)


_Read = tuple[Json, Mapping[Path, int]]
_TOO_DEEP = f"is nested more than {MAX_DEPTH} levels deep"


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
        refuse("is empty; a DAG needs dag_id and tasks")
    return text


def _detect(text: str) -> Format:
    return Format.JSON if text.lstrip()[0] in "{[" else Format.YAML


def _load(text: str, notation: Format, *, fallback: bool) -> _Read:
    if notation is Format.TOML:
        return _load_toml(text)
    if notation is Format.JSON:
        try:
            return _load_json(text)
        except MalformedDocumentError:
            if fallback and _is_flow_yaml(text):
                return _load_yaml(text)
            raise
    try:
        read = _load_yaml(text)
    except MalformedDocumentError:
        if fallback and _looks_like_toml(text):
            return _load_toml(text)
        raise
    return _load_toml(text) if fallback and not isinstance(read[0], dict) and _looks_like_toml(text) else read


def _is_flow_yaml(text: str) -> bool:
    return not text.lstrip().startswith(('{"', "{\n", "["))


def _looks_like_toml(text: str) -> bool:
    lines = (line.strip() for line in text.splitlines())
    first = next((line for line in lines if line and not line.startswith("#")), "")
    return "=" in first or first.startswith("[")


def _load_yaml(text: str) -> _Read:
    from cis.model.yaml_events import load_yaml  # noqa: PLC0415 - PyYAML only for YAML

    return load_yaml(text)


def _load_json(text: str) -> _Read:
    doubled: list[str] = []

    def pairs(items: list[tuple[str, Json]]) -> dict[str, Json]:
        mapping = dict(items)
        if len(mapping) != len(items):
            seen: set[str] = set()
            for key, _ in items:
                if key in seen:
                    doubled.append(key)
                seen.add(key)
        return mapping

    try:
        root = json.loads(text, object_pairs_hook=pairs, parse_float=WrittenFloat)
    except json.JSONDecodeError as error:
        fault = Fault(place="", message=f"is not JSON: {error.msg} (column {error.colno})", line=error.lineno)
        raise MalformedDocumentError([fault]) from error
    except ValueError as error:  # a whole number of thousands of digits
        raise MalformedDocumentError([Fault(place="", message=f"is not JSON: {error}")]) from error
    faults = [Fault(place=key, message="this key stands twice in one mapping") for key in doubled[:20]]
    faults += _faults_of_values(root)
    if faults:
        raise DocumentError(faults)
    return root, {}


def _load_toml(text: str) -> _Read:
    try:
        root = tomllib.loads(text, parse_float=WrittenFloat)
    except (tomllib.TOMLDecodeError, ValueError) as error:
        raise MalformedDocumentError([Fault(place="", message=f"is not TOML: {error}")]) from error
    faults = _faults_of_values(root)
    if faults:
        raise DocumentError(faults)
    return root, {}


def _faults_of_values(root: Json) -> list[Fault]:
    """Return what a parser let through: depth, numbers that are not finite, dates. Without recursion."""
    faults: list[Fault] = []
    stack: list[tuple[Path, Json]] = [((), root)]
    while stack and len(faults) < 20:
        path, value = stack.pop()
        if isinstance(value, dict | list):
            if len(path) > MAX_DEPTH:
                return [Fault(place=place(path[:6]), message=_TOO_DEEP)]
            items = value.items() if isinstance(value, dict) else enumerate(value)
            stack.extend(((*path, key), item) for key, item in items)
        elif isinstance(value, float) and not math.isfinite(value):
            faults.append(Fault(place=place(path), message="is not a finite number"))
        elif value is not None and not isinstance(value, str | int | float):
            faults.append(Fault(place=place(path), message='is a date or time; write it as a string, in "quotes"'))
    return faults


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
