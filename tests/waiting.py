"""Waiting for a condition, with a deadline: the one place of the tests that sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PAUSE_S = 0.01


def wait_for(predicate: Callable[[], T], *, timeout_s: float = 10.0, what: str = "the condition") -> T:
    """Return the first truthy value of *predicate*; fail, naming *what*, when the time is over."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= deadline_s:
            raise AssertionError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(PAUSE_S)
