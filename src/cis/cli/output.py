"""Answers on standard output: JSON documents, aligned tables, times and durations for people."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cis.model.durations import format_duration

if TYPE_CHECKING:
    from cis.errors import CisError

_COLOURS = {
    "completed": "32",
    "running": "36",
    "failed": "31",
    "lost": "31",
    "cancelled": "33",
    "paused": "33",
    "skipped": "33",
    "dead": "31",
}


def print_json(value: Any) -> None:
    """Print one JSON document."""
    print(json_text(value))


def json_text(value: Any) -> str:
    """Return one JSON document as it is printed."""
    import json  # noqa: PLC0415 - tables need none

    return json.dumps(value, ensure_ascii=False, indent=2)


def print_json_error(error: CisError, *, message: str) -> None:
    """Print what went wrong as a JSON document, if somebody can still read it."""
    faults = [{"place": one.place, "message": one.message, "line": one.line} for one in getattr(error, "faults", ())]
    with suppress(OSError):
        print_json({"error": {"code": error.code, "message": message, "faults": faults}})
        sys.stdout.flush()


def print_json_list(values: Iterable[Any]) -> None:
    """Print a JSON list as ``print_json`` does, value by value: together they may not fit into memory."""
    import json  # noqa: PLC0415 - tables need none

    before = "["
    for value in values:
        text = json.dumps(value, ensure_ascii=False, indent=2).replace("\n", "\n  ")
        print(f"{before}\n  {text}", end="")
        before = ","
    print("[]" if before == "[" else "\n]")


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows under a header, in columns as wide as their widest value."""
    texts = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(row[column]) for row in [list(header), *texts]) for column in range(len(header))]
    print("  ".join(name.upper().ljust(width) for name, width in zip(header, widths, strict=True)).rstrip())
    for row in texts:
        cells = [state(text, width) for text, width in zip(row, widths, strict=True)]
        print("  ".join(cells).rstrip())


def state(text: str, width: int = 0) -> str:
    """Return *text*, padded, and in its colour if it is a state and a terminal shows it."""
    padded = text.ljust(width)
    return f"\x1b[{_COLOURS[text]}m{padded}\x1b[0m" if text in _COLOURS and in_colour() else padded


def on_terminal() -> bool:
    """Whether standard output is a terminal that can draw anew what it has shown."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def in_colour() -> bool:
    """Whether standard output is a terminal whose user does not mind colours."""
    return on_terminal() and not os.environ.get("NO_COLOR")


def local_time(text: str | None) -> str:
    """Return an RFC 3339 time as the local one, to the second; ``-`` for none."""
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S") if text else "-"


def took(started: str | None, finished: str | None) -> str:
    """Return the time between two RFC 3339 times; ``-`` while one is missing."""
    if not started or not finished:
        return "-"
    seconds = (datetime.fromisoformat(finished) - datetime.fromisoformat(started)).total_seconds()
    return format_duration(max(0.0, seconds))  # a clock may have been set back in between


def scope_text(scope: dict[str, str | None]) -> str:
    """Return a scope's JSON form as ``project:proj-a``."""
    return f"{scope['type']}:{scope['id']}" if scope["id"] else str(scope["type"])


def _cell(value: Any) -> str:
    """Return a value as text that a terminal only shows: somebody else may have chosen it."""
    text = "-" if value is None or value == "" else str(value)
    return text if text.isprintable() else "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
