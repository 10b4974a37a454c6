"""Identifiers: the one form that DAGs, tasks, scopes, nodes and runs share.

Beside it are words for people: the nearest known name for one that is not known, and numbers of things.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
MAX_ID_LENGTH = 128
NAME_PATTERN = r"[A-Za-z_][A-Za-z0-9_]{0,127}"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

_MAX_GUESSED = 200


def id_at(us: int) -> str:
    """Return a text that sorts between the run ids of before a moment and those of after (RFC 9562, version 7)."""
    text = f"{max(us, 0) // 1000:012x}"
    return f"{text[:8]}-{text[8:12]}"


def id_fault(text: str) -> str | None:
    """Return why *text* is no identifier, or None when it is one.

    An identifier becomes part of file names, so ``..`` is refused as well.
    """
    if not text:
        return "is empty; use ASCII letters, digits, '.', '_' and '-'"
    if len(text) > MAX_ID_LENGTH:
        return f"has {len(text)} characters; {MAX_ID_LENGTH} at most"
    if ".." in text:
        return f"{text!r} contains '..'"
    if not _ID.fullmatch(text):
        return f"{text!r} is not an id; use ASCII letters, digits, '.', '_' and '-', a letter or digit first"
    return None


def name_fault(text: str) -> str | None:
    """Return why *text* cannot be the name of a secret, or None."""
    if re.fullmatch(NAME_PATTERN, text):
        return None
    return f"{text!r:.60} is not a name of a secret; use ASCII letters, digits and '_', 128 at most"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?``, or nothing when no known name is near."""
    if len(name) > _MAX_GUESSED:
        return ""
    import difflib  # noqa: PLC0415 - 2 ms, for mistakes alone

    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def counted(number: int, noun: str) -> str:
    """Return ``1 task``, ``2 tasks``, as *noun* is ``task``."""
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"
