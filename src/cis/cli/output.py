"""Answers on standard output: JSON documents, times and durations for people (tables: ``cis.cli.table``)."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cis.engine.times import local
from cis.model.durations import format_duration

if TYPE_CHECKING:
    from cis.errors import CisError

_RFC3339 = r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z"

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
    return local(datetime.fromisoformat(text)).strftime("%Y-%m-%d %H:%M:%S") if text else "-"


def short_time(text: str | None) -> str:
    """Return the local time without its year, to the minute."""
    return local(datetime.fromisoformat(text)).strftime("%m-%d %H:%M") if text else "-"


def in_local_time(text: str) -> str:
    """Return a sentence with the RFC 3339 times in it, which are UTC, as local ones: people see one zone alone."""
    return re.sub(_RFC3339, lambda found: local_time(found[0]), text)


def took(started: str | None, finished: str | None, *, runs: bool = False) -> str:
    """Return the time between two RFC 3339 times, up to now for what still *runs*; ``-`` where one is missing."""
    if not started or not (finished or runs):
        return "-"
    begun = datetime.fromisoformat(started)
    if finished:
        seconds = (datetime.fromisoformat(finished) - begun).total_seconds()
        return format_duration(max(0.0, seconds))  # a clock may have been set back in between
    seconds = (datetime.now(UTC) - begun).total_seconds()
    return f"{max(0, int(seconds))}s" if seconds < 60 else format_duration(seconds)


def exit_text(code: int | None) -> str:
    """Return an exit status as a shell shows it: 143 for what signal 15 ended."""
    return "-" if code is None else str(code if code >= 0 else 128 - code)


def scope_text(scope: dict[str, str | None]) -> str:
    """Return a scope's JSON form as ``project:proj-a``."""
    return f"{scope['type']}:{scope['id']}" if scope["id"] else str(scope["type"])
