"""When to try again: each failure doubles the pause, up to a bound, and chance keeps many from coming at once."""

from __future__ import annotations

from collections.abc import Callable

FIRST_S = 0.25
MOST_S = 60.0


def pause_s(failures: int, *, chance: Callable[[], float], most_s: float = MOST_S) -> float:
    """Return how long to wait after that many failures in a row: half of it is certain, half is chance."""
    whole = min(most_s, FIRST_S * 2.0 ** min(failures, 30))
    return whole * (0.5 + chance() / 2)
