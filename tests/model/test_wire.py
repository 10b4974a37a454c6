"""A DAG as it stands in an event."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cis.errors import DocumentError
from cis.model.dag import DagSpec
from cis.model.document import dag_from_plain
from cis.model.durations import MAX_DURATION_S
from cis.model.message import document_of, wire_fields


@pytest.mark.parametrize("seconds", [5e-324, 1e-7, 1.5e-17, 0.1, 90.0, MAX_DURATION_S])
def test_a_duration_is_the_very_same_at_the_other_end(seconds: float) -> None:
    check(seconds)


@given(st.floats(min_value=0, max_value=MAX_DURATION_S, exclude_min=True))
def test_every_duration_is_the_very_same_at_the_other_end(seconds: float) -> None:
    check(seconds)


def test_whether_a_task_may_leave_something_behind_is_known_at_the_other_end_and_from_the_store() -> None:
    """A node that does not know the word refuses the document, as it does every unknown one."""
    tasks = [{"id": "a", "command": "d &", "leave": True}, {"id": "b", "command": "true", "leave": False}]
    spec = dag_from_plain({"dag_id": "d", "tasks": tasks})
    fields = wire_fields(spec.to_dict())
    assert fields is not None

    assert [task.leave for task in dag_from_plain({**document_of(fields), "dag_id": "d"}).tasks] == [True, False]
    assert DagSpec.from_dict(spec.to_dict()) == spec
    assert "leave" not in spec.to_dict()["tasks"][1]
    with pytest.raises(DocumentError, match="must be true or false, not a string"):
        dag_from_plain({"dag_id": "d", "tasks": [{"id": "a", "command": "d &", "leave": "yes"}]})


def check(seconds: float) -> None:
    task = {"id": "a", "command": "true", "timeout": seconds, "retry_delay": seconds}
    spec = dag_from_plain({"dag_id": "d", "expires": seconds, "tasks": [task]})
    fields = wire_fields(spec.to_dict())
    assert fields is not None

    assert dag_from_plain({**document_of(fields), "dag_id": "d"}) == spec


NEWER = [{"x": 1}, {"tasks": [{"id": "a", "command": "true", "x": 1}]}]


@pytest.mark.parametrize("newer", NEWER)
def test_a_document_with_a_word_that_nodes_of_before_do_not_know_cannot_stand_in_an_event(
    newer: dict[str, Any],
) -> None:
    plain = {"dag_id": "d", "tasks": [{"id": "a", "command": "true"}]}

    assert wire_fields(plain) is not None
    assert wire_fields(plain | newer) is None


def test_a_word_in_an_event_that_this_node_does_not_know_is_refused_by_name() -> None:
    fields = {"dag_id": "d", "scope_source": "default", "depth": 0, "lease_ms": 1, "x": 1}

    with pytest.raises(DocumentError, match=r"x.* is not a field"):
        dag_from_plain(document_of({**fields, "tasks": [{"id": "a", "command": "true"}]}))
