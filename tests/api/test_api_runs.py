"""Runs over HTTP: lists, one run, control, and what every answer looks like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import pytest

from cis.api import runs
from cis.engine.observe.views import read_run
from cis.model.states import AttemptState, RunState, TaskState
from cis.store.records import RunRecord
from tests.worlds.serving import NodeUnderTest, assert_problem

UNKNOWN = "/api/v1/runs/no-such-run"


def ids(page: dict[str, Any]) -> list[str]:
    """Return the run ids of a page."""
    return [item["run_id"] for item in page["items"]]


def test_runs_are_listed_newest_first_a_page_at_a_time(node: NodeUnderTest) -> None:
    made = [node.submitted().run_id for _ in range(5)]

    first = node.get("/api/v1/runs?limit=2")
    second = node.get(f"/api/v1/runs?limit=2&cursor={first['next_cursor']}")
    third = node.get(f"/api/v1/runs?limit=2&cursor={second['next_cursor']}")

    assert ids(first) + ids(second) + ids(third) == made[::-1]
    assert third["next_cursor"] is None
    assert set(first["items"][0]) == {
        "dag_id",
        "run_id",
        "scope",
        "status",
        "owner_node",
        "priority",
        "worker_id",
        "created_at",
        "started_at",
        "finished_at",
    }


def test_filters_narrow_the_list_and_empty_ones_do_not(node: NodeUnderTest) -> None:
    mine = node.submitted(dag_id="proj-a-x")
    other = node.submitted(dag_id="other")
    node.changed(other, RunState.CANCELLED)

    def found(query: str) -> list[str]:
        return ids(node.get(f"/api/v1/runs?{query}"))

    assert found("status=cancelled") == [other.run_id]
    assert found("scope=project:proj-a") == [mine.run_id]
    assert found("dag_id=other&status=cancelled") == [other.run_id]
    assert found("node=node-1") == [other.run_id, mine.run_id]
    assert found("node=elsewhere") == []
    assert found("status=&scope=&node=&dag_id=&limit=&cursor=") == [other.run_id, mine.run_id]


@pytest.mark.parametrize(
    "query", ["status=done", "scope=team:x", "limit=0", "limit=1001", "limit=x", "cursor=nonsense", "cursor=%C3%87"]
)
def test_a_bad_parameter_is_refused_and_named(node: NodeUnderTest, query: str) -> None:
    problem = assert_problem(node.call("GET", f"/api/v1/runs?{query}"), 422, "query.invalid")

    assert problem["errors"][0]["place"] == f"query.{query.partition('=')[0]}"


def test_one_run_shows_its_tasks_and_why_they_wait(node: NodeUnderTest) -> None:
    run = node.submitted({"id": "a"}, {"id": "b", "depends_on": ["a"]}, priority="high")

    view = node.get(f"/api/v1/runs/{run.run_id}")

    assert (view["status"], view["priority"], view["version"]) == ("pending", "high", 1)
    assert view["created_at"].endswith("Z")
    assert view["waiting"]["reason"] == "worker"
    assert view["waiting"]["on"] == ["worker-global"]
    a, b = view["tasks"]
    assert (a["id"], a["attempts"], a["outputs"], a["waiting"]["reason"]) == ("a", 0, {}, "worker")
    assert (b["waiting"]["reason"], b["waiting"]["on"]) == ("dependency", ["a"])


def test_what_runs_waits_for_nothing(node: NodeUnderTest) -> None:
    run = node.changed(node.submitted({"id": "a"}, {"id": "b"}), RunState.RUNNING)
    node.with_worker(run)
    node.started(run, "a")

    view = node.get(f"/api/v1/runs/{run.run_id}")

    assert view["waiting"] is None
    assert [task["waiting"] and task["waiting"]["reason"] for task in view["tasks"]] == [None, "slot"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", UNKNOWN),
        ("GET", f"{UNKNOWN}/logs"),
        ("GET", f"{UNKNOWN}/logs?follow=true"),
        ("POST", f"{UNKNOWN}/cancel"),
        ("POST", f"{UNKNOWN}/pause"),
        ("POST", f"{UNKNOWN}/resume"),
        ("POST", f"{UNKNOWN}/rerun"),
        ("GET", "/api/v1/dags/no-such-dag"),
        ("GET", "/api/v1/workers/worker-global"),
        ("GET", "/api/v1/nothing"),
        ("GET", "/"),
    ],
)
def test_what_is_not_there_is_a_problem_404(node: NodeUnderTest, method: str, path: str) -> None:
    assert_problem(node.call(method, path), 404, "not_found")


def test_a_method_that_a_route_lacks_is_a_problem_405_that_says_which_it_has(node: NodeUnderTest) -> None:
    answer = node.call("DELETE", "/api/v1/runs")

    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET"


def test_pause_resume_and_cancel_answer_with_the_run_as_it_is_then(node: NodeUnderTest) -> None:
    run_id = node.submitted().run_id

    paused = node.call("POST", f"/api/v1/runs/{run_id}/pause").json()
    resumed = node.call("POST", f"/api/v1/runs/{run_id}/resume").json()
    cancelled = node.call("POST", f"/api/v1/runs/{run_id}/cancel").json()

    assert (paused["status"], paused["waiting"]["reason"]) == ("paused", "paused")
    assert resumed["status"] == "pending"
    assert cancelled["status"] == "cancelled"
    assert [task["status"] for task in cancelled["tasks"]] == ["cancelled"]
    assert node.pokes == ["worker-global"] * 3
    assert [entry.action for entry in node.store.audit.page(limit=9)] == ["run.cancel", "run.resume", "run.pause"]


def finished_with(node: NodeUnderTest, run: RunRecord, outputs: Mapping[str, str]) -> None:
    """End each task of a run, with these outputs."""
    with node.store.transaction():
        tasks = [(old, old._replace(status=TaskState.RUNNING)) for old in node.store.tasks.of_run(run.run_id)]
        node.store.tasks.change(tasks)
        tasks = [
            (old, old._replace(status=TaskState.COMPLETED, outputs=outputs))
            for old in node.store.tasks.of_run(run.run_id)
        ]
        node.store.tasks.change(tasks)


@pytest.mark.parametrize("over", [True, False])
@pytest.mark.parametrize(("count", "value"), [(3 * runs.FEW_TASKS, "x"), (30, "x" * 50_000), (2, "ü" * 2**19)])
def test_a_large_run_is_answered_part_by_part_as_it_would_be_whole(
    node: NodeUnderTest, monkeypatch: pytest.MonkeyPatch, count: int, value: str, *, over: bool
) -> None:
    run = node.submitted(*({"id": f"t{number}"} for number in range(count)))
    if over:
        finished_with(node, run, {"value": value})
        node.changed(node.changed(run, RunState.RUNNING), RunState.COMPLETED)
    whole = read_run(node.store, run.run_id)
    sent: list[int] = []
    part = runs._part

    def watched(*args: Any, **named: Any) -> Any:
        found = part(*args, **named)
        sent.append(len(found[1]) if found else 0)
        return found

    monkeypatch.setattr(runs, "_part", watched)
    shown = node.get(f"/api/v1/runs/{run.run_id}")

    assert shown == whole
    assert list(shown) == list(whole)
    if over or count > runs.FEW_TASKS:
        assert len(sent) > 2
        assert max(sent) < runs.BYTES_AT_ONCE + 2 * len(value.encode()) + 500 * runs.TASKS_AT_ONCE


def test_control_that_is_asked_for_again_and_changes_nothing_is_written_down_once(node: NodeUnderTest) -> None:
    run_id = node.submitted().run_id

    answers = [node.call("POST", f"/api/v1/runs/{run_id}/pause").status_code for _ in range(5)]

    assert answers == [200] * 5
    assert [entry.action for entry in node.store.audit.page(limit=9)] == ["run.pause"]


def test_what_is_over_cannot_be_cancelled_or_paused(node: NodeUnderTest) -> None:
    run = node.changed(node.submitted(), RunState.CANCELLED)

    for action in ("cancel", "pause", "resume"):
        assert_problem(node.call("POST", f"/api/v1/runs/{run.run_id}/{action}"), 409, "state.illegal")


@pytest.mark.parametrize(
    "how", [{"params": {"from_failed": "true"}}, {"json": {"from_failed": True}}, {"params": {"from_failed": "1"}}]
)
def test_a_rerun_from_failed_keeps_what_completed(node: NodeUnderTest, how: dict[str, Any]) -> None:
    run = node.changed(node.submitted({"id": "a"}, {"id": "b"}), RunState.RUNNING)
    node.ended(run, node.started(run, "a"))
    node.ended(run, node.started(run, "b"), AttemptState.FAILED, exit_code=1)
    node.changed(run, RunState.FAILED)

    answer = node.call("POST", f"/api/v1/runs/{run.run_id}/rerun", **how)

    assert answer.status_code == 202
    new = node.get(f"/api/v1/runs/{answer.json()['run_id']}")
    assert new["rerun_of"] == run.run_id
    assert [task["status"] for task in new["tasks"]] == ["completed", "pending"]


def test_a_rerun_without_more_runs_everything_again(node: NodeUnderTest) -> None:
    run = node.changed(node.submitted({"id": "a"}), RunState.RUNNING)
    node.ended(run, node.started(run, "a"))
    node.changed(run, RunState.COMPLETED)

    answer = node.call("POST", f"/api/v1/runs/{run.run_id}/rerun")

    assert answer.status_code == 202
    assert set(answer.json()) >= {"run_id", "scope_source", "delivery"}
    assert node.get(f"/api/v1/runs/{answer.json()['run_id']}")["tasks"][0]["status"] == "pending"


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{", 400, "usage"),
        (b"[]", 400, "usage"),
        (b'{"from_faild": true}', 422, "query.invalid"),
        (b'{"from_failed": "yes"}', 422, "query.invalid"),
        (b" " * 70_000, 413, "document.too_large"),
    ],
)
def test_a_rerun_with_a_wrong_body_is_refused(node: NodeUnderTest, content: bytes, status: int, code: str) -> None:
    run = node.submitted()

    assert_problem(node.call("POST", f"/api/v1/runs/{run.run_id}/rerun", content=content), status, code)
    assert ids(node.get("/api/v1/runs")) == [run.run_id]


HOSTILE = ("' OR '1'='1", "x'; DROP TABLE dag_runs; --", '" OR ""="', "%", "_", "*", "?1", ":a", "$1", "a\\' --")


@pytest.mark.parametrize("text", HOSTILE)
def test_sql_in_a_parameter_is_only_a_text_that_nothing_is_named_by(node: NodeUnderTest, text: str) -> None:
    run_id = node.submitted().run_id
    quoted = quote(text, safe="")
    for path in (f"runs?dag_id={quoted}", f"runs?node={quoted}"):
        assert node.get(f"/api/v1/{path}")["items"] == []
    for path in (f"runs/{quoted}", f"dags/{quoted}", f"workers/{quoted}", f"runs/{quoted}/logs"):
        assert node.call("GET", f"/api/v1/{path}").status_code == 404
    assert node.call("GET", f"/api/v1/runs/{run_id}/logs?task={quoted}").status_code == 404
    assert node.call("POST", f"/api/v1/runs/{quoted}/cancel").status_code == 404

    assert [run["run_id"] for run in node.get("/api/v1/runs")["items"]] == [run_id]
