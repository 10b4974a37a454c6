"""Times as text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from cis.engine.times import rfc3339


@given(st.integers(min_value=0, max_value=4_102_444_800_000_000))
def test_a_time_as_text_is_the_same_moment_to_the_microsecond(at_us: int) -> None:
    text = rfc3339(at_us)

    assert text.endswith("Z")
    assert len(text) == 27
    assert (datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) == at_us


def test_no_time_stays_none() -> None:
    assert rfc3339(None) is None
