"""A token of some scopes sees and uses nothing of others, whichever route it asks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from cis.model.scope import parse_worker_id
from cis.model.states import RunState
from cis.store.access_records import TokenRecord
from cis.store.records import RunRecord
from tests.worlds.serving import NodeUnderTest, assert_problem, served

TOKEN = "a-token-of-project-a"
ALL_BUT_SKILLS = ("/api/v1/skills", "/openapi.json", "/docs", "/health", "/ready", "/metrics", "/api/v1/events")
HIDDEN = "hidden-dag"


@pytest.fixture
def other(node: NodeUnderTest) -> RunRecord:
    """A run of a scope that the token may not see, with a worker, a log and a stored document; and one that it may."""
    with node.store.transaction():
        node.store.tokens.put(
            TokenRecord(
                name="a",
                sha256=hashlib.sha256(TOKEN.encode()).hexdigest(),
                may=("read", "execute", "control"),
                created_at_us=0,
                scopes=("project:a", "user:*"),
            )
        )
    mine = node.submitted(dag_id="own-dag", scope="project:a")
    node.with_worker(mine)
    run = node.submitted(dag_id=HIDDEN, scope="project:b")
    node.wrote(node.started(run, "a"), out=b"hidden words\n")
    node.with_worker(run)
    return run


def reads(node: NodeUnderTest, run: RunRecord) -> Iterator[str]:
    """Yield each path that can be read, filled in with what belongs to *run*."""
    names = {"{run_id}": run.run_id, "{dag_id}": run.dag_id, "{worker_id}": run.worker_id}
    for path, operations in node.app.openapi()["paths"].items():
        if "get" in operations and path not in ALL_BUT_SKILLS:
            for name, value in names.items():
                path = path.replace(name, value)  # noqa: PLW2901 - it is filled in
            yield path


def test_no_route_tells_of_a_run_a_dag_or_a_worker_of_another_scope(node: NodeUnderTest, other: RunRecord) -> None:
    for path in reads(node, other):
        everything = node.call("GET", path)
        assert everything.status_code == 200, path

        for query in ("", "?follow=true", f"?dag_id={HIDDEN}", "?scope=project:b"):
            if "follow" in query and not path.endswith("/logs"):
                continue
            told = node.call("GET", path + query, token=TOKEN)
            assert told.status_code in (200, 404), path
            for word in (other.run_id, HIDDEN, "project-b", "hidden words"):
                assert told.status_code == 404 or word not in told.text, path


def test_what_is_its_own_it_sees(node: NodeUnderTest, other: RunRecord) -> None:
    user = node.submitted(dag_id="of-a-user", scope="user:u")

    runs = node.call("GET", "/api/v1/runs", token=TOKEN).json()["items"]
    dags = node.call("GET", "/api/v1/dags", token=TOKEN).json()["items"]
    workers = node.call("GET", "/api/v1/workers", token=TOKEN).json()["items"]

    assert [run["dag_id"] for run in runs] == ["of-a-user", "own-dag"]
    assert [dag["dag_id"] for dag in dags] == ["of-a-user", "own-dag"]
    assert [worker["worker_id"] for worker in workers] == ["worker-project-a"]
    for path in (f"/api/v1/runs/{user.run_id}", f"/api/v1/runs/{user.run_id}/logs", "/api/v1/dags/own-dag"):
        assert node.call("GET", path, token=TOKEN).status_code == 200
    assert other.run_id not in str(runs)


def test_pages_of_what_may_be_seen_are_whole_whatever_lies_between(node: NodeUnderTest, other: RunRecord) -> None:
    wanted = []
    for number in range(12):
        node.submitted(dag_id="d", scope=f"project:b{number % 2}")
        wanted.append(node.submitted(dag_id="d", scope=f"user:u{number % 5}").run_id)
    for narrowed in ("", "&dag_id=d", "&status=pending"):
        found: list[str] = []
        cursor = ""
        while True:
            page = node.call("GET", f"/api/v1/runs?limit=5{narrowed}{cursor}", token=TOKEN).json()
            found += [run["run_id"] for run in page["items"] if run["dag_id"] == "d"]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"

        assert found == wanted[::-1]
    one = node.call("GET", "/api/v1/runs?scope=user:u3", token=TOKEN).json()["items"]
    assert {run["scope"]["id"] for run in one} == {"u3"}
    assert other.run_id not in str(one)


@pytest.mark.parametrize("action", ["cancel", "pause", "resume", "rerun"])
def test_it_cannot_act_on_a_run_of_another_scope(node: NodeUnderTest, other: RunRecord, action: str) -> None:
    before = node.store.events.last_seq()

    assert_problem(node.call("POST", f"/api/v1/runs/{other.run_id}/{action}", token=TOKEN), 404, "not_found")

    assert node.store.events.last_seq() == before
    own = next(iter(node.call("GET", "/api/v1/runs", token=TOKEN).json()["items"]))["run_id"]
    assert node.call("POST", f"/api/v1/runs/{own}/{action}", token=TOKEN).status_code in (200, 202)


@pytest.mark.parametrize(
    "document",
    [
        {"dag_id": "x", "scope": "project:b"},
        {"dag_id": "x", "env": {"PROJECT_ID": "b"}},
        {"dag_id": "project-b-nightly"},
        {"dag_id": "x"},
    ],
)
def test_it_cannot_run_in_another_scope_whichever_rule_gives_it(
    node: NodeUnderTest, other: RunRecord, document: dict[str, object]
) -> None:
    whole = {**document, "tasks": [{"id": "a", "command": "true"}]}
    before = node.store.queue.waiting_count(node.this_node.node_id)

    refused = node.call("POST", "/api/v1/dag/execute", token=TOKEN, json=whole)

    detail = assert_problem(refused, 403, "scope.forbidden")["detail"]
    assert "token 'a' may not run DAGs of scope" in detail
    assert "project:a, user:*" in detail
    assert node.store.queue.waiting_count(node.this_node.node_id) == before
    assert other.status is RunState.PENDING


def test_a_key_of_another_scope_gives_nothing_away(node: NodeUnderTest, other: RunRecord) -> None:
    document = {"dag_id": "x", "scope": "project:b", "tasks": [{"id": "a", "command": "true"}]}
    first = node.call("POST", "/api/v1/dag/execute", json=document, headers={"Idempotency-Key": "k"})
    assert first.status_code == 202

    again = node.call("POST", "/api/v1/dag/execute", token=TOKEN, json=document, headers={"Idempotency-Key": "k"})

    assert_problem(again, 403, "scope.forbidden")
    assert first.json()["run_id"] not in again.text
    assert other.run_id not in again.text


def test_events_are_those_of_its_scopes_alone(node: NodeUnderTest, other: RunRecord) -> None:
    import httpx  # noqa: PLC0415 - a stream wants a server

    seen = []
    with served(node) as url:
        headers = {"Authorization": f"Bearer {TOKEN}", "Last-Event-ID": "0"}
        with httpx.stream("GET", f"{url}/api/v1/events", headers=headers, timeout=20) as answer:
            node.changed(other, RunState.CANCELLED)
            last = node.submitted(dag_id="last", scope="user:u")
            node.hub.poke()
            for line in answer.iter_lines():
                seen.append(line)
                if last.run_id in line:
                    break

    told = "\n".join(seen)
    assert "worker-project-a" in told
    assert other.run_id not in told
    assert str(parse_worker_id(other.worker_id)) == "project:b"
    assert other.worker_id not in told
