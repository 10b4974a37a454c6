"""What a DAG as a task waits for that finds no place in a queue: said in its error, and tried again after a while."""

from __future__ import annotations

from cis.errors import OverloadedError

AGAIN_S = 1.0
_NO_PLACE = "waits for a place: "


def no_place(error: OverloadedError) -> str:
    """Return what is said of a task whose DAG finds no place now."""
    return f"{_NO_PLACE}{error.what}"


def is_no_place(error: str | None) -> bool:
    """Whether an error says that a place is waited for."""
    return error is not None and error.startswith(_NO_PLACE)
