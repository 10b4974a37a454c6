"""A DAG as it stands in an event."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cis.model.document import dag_from_plain
from cis.model.durations import MAX_DURATION_S
from cis.model.wire import document_of, wire_fields


@pytest.mark.parametrize("seconds", [5e-324, 1e-7, 1.5e-17, 0.1, 90.0, MAX_DURATION_S])
def test_a_duration_is_the_very_same_at_the_other_end(seconds: float) -> None:
    check(seconds)


@given(st.floats(min_value=0, max_value=MAX_DURATION_S, exclude_min=True))
def test_every_duration_is_the_very_same_at_the_other_end(seconds: float) -> None:
    check(seconds)


def check(seconds: float) -> None:
    task = {"id": "a", "command": "true", "timeout": seconds, "retry_delay": seconds}
    spec = dag_from_plain({"dag_id": "d", "expires": seconds, "tasks": [task]})
    fields = wire_fields(spec.to_dict())
    assert fields is not None

    assert dag_from_plain({**document_of(fields), "dag_id": "d"}) == spec
