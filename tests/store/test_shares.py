"""Of what anybody can cause as often as they like, the first of each kind pass, and how many did not is told."""

from __future__ import annotations

from cis.store.shares import MAX_KINDS, Shares

WITHIN_US = 1000


def taken(shares: Shares, kind: str, count: int, *, at_us: int) -> list[int | None]:
    return [shares.take(kind, at_us=at_us) for _ in range(count)]


def test_the_first_of_each_kind_pass_and_none_hides_another() -> None:
    shares = Shares(most=2, within_us=WITHIN_US)

    assert taken(shares, "a", 4, at_us=0) == [0, 0, None, None]
    assert taken(shares, "b", 2, at_us=WITHIN_US - 1) == [0, 0]


def test_how_many_were_left_out_is_told_when_the_time_is_over_and_then_it_begins_anew() -> None:
    shares = Shares(most=2, within_us=WITHIN_US)
    taken(shares, "a", 7, at_us=0)

    assert taken(shares, "a", 3, at_us=WITHIN_US) == [5, 0, None]


def test_a_clock_that_was_set_back_holds_nothing_back() -> None:
    shares = Shares(most=1, within_us=WITHIN_US)
    taken(shares, "a", 2, at_us=10**12)

    assert taken(shares, "a", 2, at_us=0) == [1, None]


def test_names_that_are_made_up_have_one_share_together_and_cost_no_memory() -> None:
    shares = Shares(most=1, within_us=WITHIN_US)
    passed = [kind for kind in map(str, range(10 * MAX_KINDS)) if shares.take(kind, at_us=0) is not None]

    assert len(passed) == MAX_KINDS + 1
    assert len(shares._tallies) == MAX_KINDS + 1
    assert shares.take("new", at_us=WITHIN_US) is not None
    assert len(shares._tallies) == 1
