"""YAML, built from the parser's events: no recursion, every alias counted, every line kept.

PyYAML's own constructor is not used: it recurses, lets a later duplicate key win, follows YAML 1.1, and expands
aliases without a bound.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import yaml

from cis.errors import DocumentError, Fault, MalformedDocumentError
from cis.model.dag import Json
from cis.model.tree import DOUBLED, MAX_BYTES, MAX_DEPTH, TOO_DEEP, Path, Read, WrittenFloat, WrittenInt, place

MAX_NODES = 2_000_000
MAX_CHARACTERS = 2 * MAX_BYTES
_MAX_FAULTS = 20
_MAX_LINES = 1_000_000
_PLACES = 5  # parts of a path that are told apart, as in tasks[3].params.headers.accept
_Loader: type = getattr(yaml, "CLoader", yaml.Loader)

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_MAX_NUMBER = 1000  # characters; what is longer is read as text
_CORE = "tag:yaml.org,2002:"


@dataclass(slots=True)
class _Frame:
    """A mapping or list that is being read."""

    value: dict[str, Json] | list[Json]
    path: Path
    anchor: str | None
    nodes: int = 1
    characters: int = 0
    key: str | None = None
    merging: bool = False
    merges: list[Json] = field(default_factory=list)


class _Builder:
    def __init__(self) -> None:
        self.root: Json = None
        self.lines: dict[Path, int] = {}
        self._faults: list[Fault] = []
        self._refused: list[tuple[Path, str]] = []
        self._frames: list[_Frame] = []
        self._anchors: dict[str, tuple[Json, int, int]] = {}
        self._documents = 0
        self._aliases = 0

    def build(self, events: Iterable[yaml.Event]) -> Json:
        """Return the root of the one document that *events* describe."""
        for event in events:
            line = event.start_mark.line + 1 if event.start_mark else 1
            if isinstance(event, yaml.ScalarEvent):
                self._scalar(event, line)
            elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
                self._open(event, line)
            elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
                self._close(line)
            elif isinstance(event, yaml.AliasEvent):
                self._alias(event, line)
            elif isinstance(event, yaml.DocumentStartEvent):
                self._documents += 1
                if self._documents > 1:
                    self._refuse((), "holds more than one YAML document ('---'); write one DAG a file", line)
            if len(self._faults) >= _MAX_FAULTS:
                break
        if self._faults and (self._frames or self._documents > 1):
            raise DocumentError(self._faults)
        return self.root

    def _open(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent, line: int) -> None:
        path = self._next_path(line)
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag and event.tag not in ("!", f"{_CORE}map", f"{_CORE}seq"):
            self._refuse(path, f"has the tag {event.tag!r}; tags are not used here", line)
        if is_mapping and self._frames and isinstance(self._frames[-1].value, dict) and self._frames[-1].key is None:
            self._give_up(path, "a mapping cannot be a key", line)
        if len(self._frames) > MAX_DEPTH:
            self._give_up(path, TOO_DEEP, line)
        self._frames.append(_Frame({} if is_mapping else [], path, event.anchor))

    def _close(self, line: int) -> None:
        frame = self._frames.pop()
        if isinstance(frame.value, dict):
            for merged in frame.merges:
                for source in merged if isinstance(merged, list) else [merged]:
                    if isinstance(source, dict):
                        frame.value |= {key: value for key, value in source.items() if key not in frame.value}
                    else:
                        self._refuse(frame.path, "'<<' merges mappings only", line)
        if frame.anchor:
            self._anchors[frame.anchor] = (frame.value, frame.nodes, frame.characters)
        self._add(frame.value, line, nodes=frame.nodes, characters=frame.characters)

    def _alias(self, event: yaml.AliasEvent, line: int) -> None:
        found = self._anchors.get(event.anchor or "")
        if found is None:
            self._give_up(self._next_path(line), f"alias *{event.anchor} stands before (or inside) its anchor", line)
        self._next_path(line)
        self._aliases += 1
        value, nodes, characters = found
        self._add(value, line, nodes=nodes, characters=characters)

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> None:
        path = self._next_path(line)
        frame = self._frames[-1] if self._frames else None
        if frame is not None and isinstance(frame.value, dict) and frame.key is None:
            self._key(frame, event, line)
            return
        value = self._value(event, path, line)
        if event.anchor:
            self._anchors[event.anchor] = (value, 1, len(event.value))
        self._add(value, line, nodes=1, characters=len(event.value))

    def _key(self, frame: _Frame, event: yaml.ScalarEvent, line: int) -> None:
        key = event.value
        if key in frame.value:
            self._refuse((*frame.path, key), DOUBLED, line)
        frame.key = key
        frame.merging = key == "<<" and event.implicit[0] and not event.tag  # in quotes it is a key like any other
        frame.characters += len(key)
        self._remember((*frame.path, key), line)

    def _remember(self, path: Path, line: int) -> None:
        if len(path) <= _PLACES and len(self.lines) < _MAX_LINES:
            self.lines[path] = line

    def _add(self, value: Json, line: int, *, nodes: int, characters: int) -> None:
        if not self._frames:
            self.root = value
            return
        frame = self._frames[-1]
        frame.nodes += nodes
        frame.characters += characters
        if frame.nodes > MAX_NODES or frame.characters > MAX_CHARACTERS:
            bound = f"{MAX_NODES:,} values" if frame.nodes > MAX_NODES else f"{MAX_CHARACTERS >> 20} Mi characters"
            self._give_up(
                frame.path, f"{'aliases blow it up to' if self._aliases else 'holds'} more than {bound}", line
            )
        if isinstance(frame.value, list):
            frame.value.append(value)
        elif frame.key is None:
            self._refuse(frame.path, "a list or an alias cannot be a key", line)
            frame.key = ""
        elif frame.merging:
            frame.merges.append(value)
            frame.key, frame.merging = None, False
        else:
            frame.value[frame.key] = value
            frame.key = None

    def _next_path(self, line: int) -> Path:
        if not self._frames:
            return ()
        frame = self._frames[-1]
        if len(frame.path) == _PLACES:
            return frame.path
        if isinstance(frame.value, dict):
            return frame.path if frame.key is None else (*frame.path, frame.key)
        path = (*frame.path, len(frame.value))
        self._remember(path, line)
        return path

    def _value(self, event: yaml.ScalarEvent, path: Path, line: int) -> Json:
        text = event.value
        if event.tag and event.tag != "!":
            if event.tag == f"{_CORE}str":
                return text
            if event.tag not in {f"{_CORE}{kind}" for kind in ("int", "float", "bool", "null")}:
                self._refuse(path, f"has the tag {event.tag!r}; tags are not used here", line)
                return text
        elif not event.implicit[0]:  # quoted, or a block
            return text
        if _NOT_FINITE.fullmatch(text):
            self._refuse(path, "is not a finite number", line)
            return text
        number = resolve(text)
        if isinstance(number, float) and not math.isfinite(number):
            self._refuse(path, "is not a finite number", line)
        return number

    def _give_up(self, path: Path, message: str, line: int) -> NoReturn:
        self._refuse(path, message, line)
        raise DocumentError(self._faults)

    @property
    def refused(self) -> tuple[tuple[Path, str], ...]:
        """What is wrong with values of a document that was read to its end."""
        return tuple(self._refused)

    def _refuse(self, path: Path, message: str, line: int) -> None:
        self._refused.append((path, message))
        self._faults.append(Fault(place=place(path), message=message, line=line))


def resolve(text: str) -> Json:
    """Return what a plain scalar means in the core schema."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if len(text) > _MAX_NUMBER:
        return text
    if _INT.fullmatch(text):
        return WrittenInt.of(text, 10)
    if _OCTAL.fullmatch(text):
        return WrittenInt.of(text, 8)
    if _HEX.fullmatch(text):
        return WrittenInt.of(text, 16)
    return WrittenFloat(text) if _FLOAT.fullmatch(text) else text


def load_yaml(text: str) -> Read:
    """Return the root of a YAML text, the line of each part, and what is wrong with values.

    Raises:
        MalformedDocumentError: it is not YAML.
        DocumentError: it holds what is refused here.
    """
    builder = _Builder()
    try:
        root = builder.build(yaml.parse(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        fault = Fault(place="", message=f"is not YAML: {error.problem or error.context}", line=line)
        raise MalformedDocumentError([fault]) from error
    except yaml.YAMLError as error:
        raise MalformedDocumentError([Fault(place="", message=f"is not YAML: {error}")]) from error
    return root, builder.lines, builder.refused


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or the core schema would read as something else than a string."""

    def ignore_aliases(self, _data: object) -> bool:
        """Write everything in full."""
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # The emitter would write these as they are, and a reader would take them for line breaks.
    odd = any(char in text for char in "\r\x85\u2028\u2029")
    return dumper.represent_scalar(f"{_CORE}str", text, style='"' if odd else None)


_Dumper.add_representer(str, _represent_text)
for _first, _pattern in (("0", _OCTAL), ("-+.0123456789", _FLOAT), ("-+0123456789", _INT)):
    _Dumper.add_implicit_resolver(f"{_CORE}float", re.compile(rf"^(?:{_pattern.pattern})$"), list(_first))


def dump_yaml(plain: Mapping[str, Json]) -> str:
    """Return plain JSON values as YAML that ``load_yaml`` reads back the same."""
    return yaml.dump(dict(plain), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
