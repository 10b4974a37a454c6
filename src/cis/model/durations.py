"""Durations: as people write them, and as a failed task waits before it is tried again.

A written duration is a number of seconds, or ``500ms``, ``10s``, ``5m``, ``2h``, ``1d``.
"""

from __future__ import annotations

import math
import re

from cis.model.dag import Backoff, TaskSpec

MAX_DURATION_S = 10 * 366 * 86400.0
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TEXT = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(ms|s|m|h|d)?\s*")
FORMS = "write a number of seconds, or 500ms, 10s, 5m, 2h, 1d"

MAX_DELAY_S = 3600.0


def parse_duration(value: float | str) -> float:
    """Return a duration in seconds, from 0 to ten years.

    Raises:
        ValueError: another form, negative, or not finite; the message says which forms there are.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r:.60} is no duration; {FORMS}")
    if isinstance(value, str):
        match = _TEXT.fullmatch(value)
        if match is None:
            raise ValueError(f"{value!r:.60} is no duration; {FORMS}")
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


def retry_delay_s(task: TaskSpec, *, failures: int, jitter: float) -> float:
    """Return the seconds to wait after the *failures*-th failure (from 1); *jitter* is in [0, 1).

    Constant: exactly ``retry_delay``. Exponential: d = min(retry_delay * 2^(failures - 1), cap), where the cap is 1 h
    or, if that is more, ``retry_delay`` itself; the upper half is left to chance, d/2 + jitter * d/2, so that
    what failed together is not tried again together ("equal jitter", M. Brooker, Exponential Backoff and
    Jitter, 2015).
    """
    if task.retry_backoff is Backoff.CONSTANT:
        return task.retry_delay_s
    doublings = min(failures - 1, 64)
    delay_s = min(task.retry_delay_s * 2.0**doublings, max(MAX_DELAY_S, task.retry_delay_s))
    return delay_s / 2 + jitter * delay_s / 2
