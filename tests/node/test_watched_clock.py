"""A wall clock that somebody sets is told from one that is only corrected bit by bit."""

from __future__ import annotations

import time

import pytest

from cis.node.clock import WatchedClock

SECOND_NS = 1_000_000_000


def test_a_clock_tells_how_far_it_was_set_and_passes_over_corrections(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead_ns = [0]
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + ahead_ns[0])
    watched = WatchedClock()
    told = []
    for step_s in (0.0, 0.4, 0.4, 0.4, 86_400.0, 0.0, -3600.0):
        ahead_ns[0] += round(step_s * SECOND_NS)
        told.append(round(watched().set_us / 1e6))

    assert told == [0, 0, 0, 0, 86_400, 86_400, 82_800]
