"""Texts to plain trees and back: YAML, JSON and TOML, read so that nothing in them can hurt.

A tree holds mappings, lists, strings, numbers, booleans and null. What is refused here: duplicate keys, numbers that
are not finite, nesting over 100 levels, aliases that blow up, tags and dates. Plain scalars of YAML follow the core
schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema), so ``yes``, ``1:30`` and ``2024-01-01`` are strings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from typing import NoReturn

from cis.errors import DocumentError, DocumentTooLargeError, Fault, MalformedDocumentError
from cis.model.dag import Json
from cis.model.json_toml import load_json, load_toml
from cis.model.tree import MAX_BYTES, TOO_DEEP, Read, Tree, clipped


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
        root, lines = _load(text, format or _detect(text), fallback=format is None)
    except RecursionError:
        raise DocumentError([Fault(place="", message=TOO_DEEP)], source=source) from None
    except DocumentError as error:
        raise type(error)([_clipped(fault) for fault in error.faults], source=source) from error
    if root is None:
        raise MalformedDocumentError([Fault(place="", message=_EMPTY)], source=source)
    if not isinstance(root, dict):
        kind = "a list" if isinstance(root, list) else f"a single value ({clipped(str(root), limit=60)!r})"
        raise MalformedDocumentError(
            [Fault(place="", message=f"is {kind}; a DAG is a mapping with dag_id and tasks")], source=source
        )
    return Tree(root, lines)


_JSON_START = re.compile(r"\s*(\{\s*[\"}]|\[)")
_TOML_LINE = re.compile(r"[A-Za-z0-9_.-]+\s*=|\[\[?\s*[A-Za-z0-9_.-]+\s*\]\]?\s*(#.*)?$")
_EMPTY = "is empty; a DAG needs dag_id and tasks"


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
    return replace(fault, message=clipped(fault.message))


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
