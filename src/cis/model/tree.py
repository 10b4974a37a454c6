"""What a document is once it is read: a plain tree, which knows the line of each part and how a number was written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

MAX_BYTES = 16 << 20
MAX_DEPTH = 100
DOUBLED = "this key stands twice in one mapping"
TOO_DEEP = f"is nested more than {MAX_DEPTH} levels deep"

Path = tuple[str | int, ...]
NO_LINES: Mapping[tuple[str | int, ...], int] = MappingProxyType({})
Read = tuple[Any, Mapping[Path, int], tuple[tuple[Path, str], ...]]


class Tree(NamedTuple):
    """A document's root mapping, the lines of its parts where the notation gives them, and faults that it was read with.

    Those are values that are refused, as numbers that are not finite: all else can be looked at none the less.
    """

    root: dict[str, Any]
    lines: Mapping[Path, int] = NO_LINES
    faults: tuple[tuple[Path, str], ...] = ()

    def line(self, path: Path) -> int | None:
        """Return the line of a part, or of the nearest part around it that has one."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)


def path_of(text: str) -> Path:
    """Return the path that ``place`` has written down, as far as no key holds dots or brackets."""
    parts = re.findall(r"([^.\[\]]+)|\[(\d+)\]", text)
    return tuple(int(number) if number else name for name, number in parts)


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
            name = clipped(part, limit=64)
            text += f".{name}" if text else name
    return text


def clipped(text: str, *, limit: int = 4000) -> str:
    """Return *text* fit for one line of a message: bounded, and without what would steer a terminal."""
    if len(text) > limit:
        text = f"{text[: limit - 30]} … {text[-20:]}"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def is_text(value: str) -> bool:
    """Whether a string can be written down: JSON's escapes can spell half of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def holds_text(value: Any) -> bool:
    """Whether all strings of a tree can be written down; one that is nested too deeply cannot either."""
    try:
        return is_text(json.dumps(value, ensure_ascii=False))
    except (ValueError, RecursionError):
        return False
