"""A wall clock that jumps makes nothing older, and a clock is trusted once it has gone steadily for a while."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cis.engine.times import Instant
from cis.node.clock import SETTLE_S, TOLERANCE_S, AgeClock

DAY_S = 86400


def at(wall_s: float, mono_s: float) -> Instant:
    """Return a moment."""
    return Instant(round(wall_s * 1e6), mono_s)


def test_while_the_clocks_go_side_by_side_the_time_is_the_walls() -> None:
    clock = AgeClock(at(1000, 5))

    assert clock.read(at(1300, 305)) == 1300_000_000
    assert clock.read(at(1600.5, 605)) == 1600_500_000


def test_what_the_wall_jumps_forward_counts_for_nothing_and_a_jump_back_makes_up_for_it() -> None:
    clock = AgeClock(at(1000, 0))

    assert clock.read(at(1010 + DAY_S, 10)) == 1010_000_000
    assert clock.read(at(1020 + DAY_S, 20)) == 1020_000_000
    assert clock.read(at(1030, 30)) == 1030_000_000
    assert clock.read(at(1040 - DAY_S, 40)) == (1040 - DAY_S) * 1_000_000


def test_ages_count_once_the_clocks_have_agreed_for_a_while() -> None:
    clock = AgeClock(at(0, 0))
    clock.read(at(SETTLE_S - 1, SETTLE_S - 1))
    assert not clock.settled(within_s=DAY_S)
    assert clock.settled(within_s=60)

    clock.read(at(SETTLE_S, SETTLE_S))
    assert clock.settled(within_s=DAY_S)

    clock.read(at(DAY_S, SETTLE_S + 300))
    assert not clock.settled(within_s=60)
    clock.read(at(DAY_S + SETTLE_S, 2 * SETTLE_S + 300))
    assert clock.settled(within_s=DAY_S)


@given(st.lists(st.tuples(st.floats(0, 3600), st.floats(-2 * DAY_S, 400 * DAY_S)), max_size=20))
def test_however_the_wall_jumps_nothing_gets_older_than_the_time_that_passed(steps: list[tuple[float, float]]) -> None:
    wall_s, mono_s, start_s = 1e9, 0.0, 1e9
    clock = AgeClock(at(wall_s, mono_s))
    for passed_s, jump_s in steps:
        mono_s += passed_s
        wall_s += passed_s + jump_s
        aged_s = clock.read(at(wall_s, mono_s)) / 1e6 - start_s

        assert aged_s <= mono_s + len(steps) * TOLERANCE_S
