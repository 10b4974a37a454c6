"""Numbers of things, in words for people."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Return ``1 task``, ``2 tasks``, as *noun* is ``task``."""
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"
