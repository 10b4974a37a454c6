"""The nearest known name for one that is not known."""

from __future__ import annotations

from collections.abc import Iterable

_MAX_LENGTH = 200


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?``, or nothing when no known name is near."""
    if len(name) > _MAX_LENGTH:
        return ""
    import difflib  # noqa: PLC0415 - 2 ms, for mistakes alone

    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
