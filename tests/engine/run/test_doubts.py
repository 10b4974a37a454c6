"""Which ends wait for a moment before they are judged, and what becomes of them."""

from __future__ import annotations

import pytest

from cis.engine.ports import Exit
from cis.engine.run.ends import MOMENT_S, TOLD_AGAIN_WITHIN_S, Doubts
from cis.engine.run.live import Ending, Live
from cis.engine.times import Instant
from tests.worlds import rows

NOW = Instant(1_000_000, 100.0)


def a_live_one() -> Live:
    attempt = rows.attempt("r", started_at_us=0)
    return Live(attempt=attempt, started_s=99.0, started_up_us=0, timeout_s=None, outputs="")


@pytest.mark.parametrize("code", [-15, -2, -1, 143, 130, 129])
def test_an_end_by_a_signal_that_a_manager_sends_waits_for_a_moment_and_is_lost_if_the_worker_stops(code: int) -> None:
    live, doubts = a_live_one(), Doubts()

    assert doubts.hold(live, Exit("r.0.1", code), NOW)
    assert list(doubts.settled(NOW.mono_s, stopping=False)) == []
    assert list(doubts.settled(NOW.mono_s, stopping=True)) == [(Exit("r.0.1", code), NOW.wall_us)]
    assert live.ending is Ending.STOP


def test_an_end_by_a_signal_is_its_own_when_nothing_else_was_told() -> None:
    live, doubts = a_live_one(), Doubts()
    doubts.hold(live, Exit("r.0.1", -15), NOW)

    assert doubts.next_due_s() == NOW.mono_s + MOMENT_S
    assert list(doubts.settled(NOW.mono_s + MOMENT_S, stopping=False)) == [(Exit("r.0.1", -15), NOW.wall_us)]
    assert live.ending is None


@pytest.mark.parametrize("code", [0, 1, -9, -11])
def test_other_ends_wait_only_while_the_worker_may_be_told_once_more(code: int) -> None:
    live, doubts = a_live_one(), Doubts()

    assert not doubts.hold(live, Exit("r.0.1", code), NOW)
    doubts.doubt_all(until_s=NOW.mono_s + TOLD_AGAIN_WITHIN_S)
    assert doubts.hold(live, Exit("r.0.1", code), NOW)
    assert list(doubts.settled(NOW.mono_s + TOLD_AGAIN_WITHIN_S, stopping=True)) == [(Exit("r.0.1", code), NOW.wall_us)]
    assert live.ending is None


def test_an_end_that_was_asked_for_is_beyond_doubt() -> None:
    live, doubts = a_live_one(), Doubts()
    live.ending = Ending.TIMEOUT

    assert not doubts.hold(live, Exit("r.0.1", -15), NOW)
