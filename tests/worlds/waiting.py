"""Waiting for a condition, with a deadline: the one place of the tests that sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
SHORTEST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 0.05
PAUSE_SHARE = 0.05  # of what was waited so far: whoever looks all the time takes the processor from what is waited for


def wait_for(predicate: Callable[[], T], *, timeout_s: float = 10.0, what: str = "the condition") -> T:
    """Return the first truthy value of *predicate*; fail, naming *what*, when the time is over."""
    began_s = time.monotonic()
    while True:
        value = predicate()
        if value:
            return value
        waited_s = time.monotonic() - began_s
        if waited_s >= timeout_s:
            raise AssertionError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(min(max(SHORTEST_PAUSE_S, PAUSE_SHARE * waited_s), LONGEST_PAUSE_S))
