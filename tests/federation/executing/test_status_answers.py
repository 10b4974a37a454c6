"""What is remembered of answers to other nodes is bounded, by runs and by how much these hold."""

from __future__ import annotations

from typing import cast

import pytest

from cis.federation.executing import reporter
from cis.federation.executing.report import Cursor
from cis.federation.executing.reporter import MAX_REMEMBERED, StatusAnswers
from cis.federation.service import NodePort


@pytest.fixture
def answers() -> StatusAnswers:
    """What remembers answers asks nobody for that."""
    return StatusAnswers(cast("NodePort", None))


def test_the_answers_that_were_given_longest_ago_are_forgotten(answers: StatusAnswers) -> None:
    for number in range(MAX_REMEMBERED + 5):
        answers.remember(f"r{number}", "t", Cursor())
        assert "r0" in answers._answered
        answers.remember("r0", "t", Cursor())  # which is asked for all the time

    assert len(answers._answered) == MAX_REMEMBERED
    assert "r1" not in answers._answered


def test_large_runs_count_for_as_much_as_they_hold_and_the_newest_is_kept(
    answers: StatusAnswers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "MAX_REMEMBERED_ROWS", 100)
    large = Cursor(versions=dict.fromkeys(range(40), 1), ended=frozenset((number, 1) for number in range(20)))
    for name in ("a", "b", "c"):
        answers.remember(name, "t", large)
    assert list(answers._answered) == ["c"]

    answers.remember("d", "t", Cursor(versions=dict.fromkeys(range(1000), 1)))
    assert list(answers._answered) == ["d"]
