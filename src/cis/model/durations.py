"""Durations, as people write them.

A written duration is a number of seconds, or ``500ms``, ``10s``, ``5m``, ``2h``, ``1d``.
"""

from __future__ import annotations

import math
import re

MAX_DURATION_S = 10 * 366 * 86400.0
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TEXT = r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(ms|s|m|h|d)?\s*"  # compiled when one is read: few commands read any
FORMS = "write a number of seconds, or 500ms, 10s, 5m, 2h, 1d"

MAX_DELAY_S = 3600.0


def parse_duration(value: float | str) -> float:
    """Return a duration in seconds, from 0 to ten years.

    Raises:
        ValueError: another form, negative, or not finite; the message says which forms there are.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r:.60} is not a duration; {FORMS}")
    if isinstance(value, str):
        match = re.fullmatch(_TEXT, value)
        if match is None:
            raise ValueError(f"{value!r:.60} is not a duration; {FORMS}")
        seconds = float(match[1]) * _UNITS[match[2] or "s"]
    elif isinstance(value, int) and value.bit_length() > 64:
        seconds = math.inf  # float() would overflow
    else:
        seconds = float(value)
    if not math.isfinite(seconds) or not 0 <= seconds <= MAX_DURATION_S:
        raise ValueError(f"{value!r:.60} is out of bounds: from 0 to ten years")
    return abs(seconds)  # a zero has a sign, too, and nothing reads it again


def exact_duration(seconds: float) -> str:
    """Return a duration as digits without an exponent; read again, they give the very same number."""
    from decimal import Decimal  # noqa: PLC0415 - few need it, and it takes 2 ms

    return f"{Decimal(repr(float(seconds))):f}"


def format_duration(seconds: float) -> str:
    """Return a duration for people: ``350ms``, ``4.2s``, ``3m05s``, ``2h07m``, ``3d04h``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    for size, unit, small, small_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // small:02d}{small_unit}"
    return f"{whole}s"
