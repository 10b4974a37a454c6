"""What can be wrong with an expression: its text, or what came of it."""

from __future__ import annotations

_BEFORE, _AFTER = 40, 20  # characters around a place that a message shows


class CelSyntaxError(ValueError):
    """The text cannot be read as an expression; the message names the place."""

    def __init__(self, message: str, text: str, at: int) -> None:
        super().__init__(pointed(message, text, at))


class CelError(Exception):
    """An evaluation has no value: a key is missing, a number overflows, an operator does not take such values.

    ``at`` is the place in the text. ``&&`` and ``||`` pass over it where the other side decides.
    """

    def __init__(self, message: str, at: int = 0) -> None:
        self.message = message
        self.at = at
        super().__init__(message)


class UnknownError(CelError):
    """The value of a name is not known (yet)."""


class CostError(Exception):
    """An evaluation takes more steps, or makes more, than any may: nothing passes over it."""


def pointed(message: str, text: str, at: int) -> str:
    """Return *message* with the column of a place, and what stands around it; ``^`` is put before the place."""
    line = text.count("\n", 0, at) + 1
    start = text.rfind("\n", 0, at) + 1
    end = text.find("\n", at)
    end = len(text) if end < 0 else end
    first, last = max(start, at - _BEFORE), min(end, at + _AFTER)
    shown = f"{'…' if first > start else ''}{text[first:at]}^{text[at:last]}{'…' if last < end else ''}"
    where = f"column {at - start + 1}" if "\n" not in text.strip() else f"line {line}, column {at - start + 1}"
    return f"{where}: {message}: {shown}"
