"""Query parameters: what they may be, and that every fault is named."""

from __future__ import annotations

import pytest

from cis.api.answers import QueryError
from cis.api.requests import Query, limit_of, run_filter_of
from cis.model.scope import Scope, ScopeType
from cis.model.states import RunState
from cis.store.records import RunFilter


def test_filters_become_values() -> None:
    query = Query({"status": "running", "scope": "project:proj-a", "node": "n", "dag_id": "d", "limit": "7"})

    assert run_filter_of(query) == RunFilter(
        status=RunState.RUNNING, scope=Scope(ScopeType.PROJECT, "proj-a"), node="n", dag_id="d"
    )
    assert limit_of(query) == 7


def test_empty_parameters_count_as_absent() -> None:
    query = Query({"status": "", "scope": "", "node": "", "dag_id": "", "limit": ""})

    assert run_filter_of(query) == RunFilter()
    assert limit_of(query) == 50
    query.check()


def test_every_fault_is_reported_in_one_go() -> None:
    query = Query({"status": "done", "scope": "team:x", "limit": "1001", "follow": "perhaps"})

    run_filter_of(query)
    limit_of(query)
    query.flag("follow")

    with pytest.raises(QueryError) as caught:
        query.check()
    assert [fault.place for fault in caught.value.faults] == [
        "query.status",
        "query.scope",
        "query.limit",
        "query.follow",
    ]


@pytest.mark.parametrize("text", ["0", "1001", "-1", "1.5", "٣", "1" * 5000, "1_0", " 1"])
def test_a_limit_is_a_number_from_1_to_1000(text: str) -> None:
    query = Query({"limit": text})

    limit_of(query)

    with pytest.raises(QueryError):
        query.check()
