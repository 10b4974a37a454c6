"""Handing a DAG in over HTTP: what is accepted, what is refused, and that accepted means stored."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from cis.store import open_store
from tests.worlds.serving import NodeUnderTest, assert_problem, node_under_test

DAG = {"dag_id": "proj-a-nightly", "tasks": [{"id": "a", "command": "true"}]}
YAML = "dag_id: proj-a-nightly\ntasks:\n  - id: a\n    command: 'true'\n"
TOML = 'dag_id = "proj-a-nightly"\n[[tasks]]\nid = "a"\ncommand = "true"\n'


def test_an_accepted_dag_is_answered_with_its_submission_and_is_stored(node: NodeUnderTest) -> None:
    answer = node.execute(DAG)

    assert answer.status_code == 202
    assert answer.json() == {
        "run_id": "run-000001",
        "dag_id": "proj-a-nightly",
        "status": "pending",
        "scope": {"type": "project", "id": "proj-a"},
        "scope_source": "dag_id",
        "worker_id": "worker-project-proj-a",
        "node_id": "node-1",
        "target_node": None,
        "delivery": "local",
        "warnings": [],
    }
    assert node.store.runs.get("run-000001") is not None
    assert node.pokes == ["worker-project-proj-a"]


def test_who_is_to_be_woken_often_in_one_turn_of_the_loop_is_woken_once(node: NodeUnderTest) -> None:
    async def wake() -> None:
        for worker_id in ("worker-user-a", "worker-global", "worker-user-a"):
            node.services.wake([worker_id])
        await asyncio.sleep(0)
        assert sorted(node.pokes) == ["worker-global", "worker-user-a"]
        node.services.wake(["worker-global"])
        await asyncio.sleep(0)

    asyncio.run(wake())

    assert sorted(node.pokes) == ["worker-global", "worker-global", "worker-user-a"]


@pytest.mark.parametrize(
    ("content_type", "text"),
    [
        ("application/json", json.dumps(DAG)),
        ("application/vnd.cis+json; charset=utf-8", json.dumps(DAG)),
        ("application/yaml", YAML),
        ("text/yaml", YAML),
        ("application/x-yaml", YAML),
        ("application/toml", TOML),
        ("application/x-www-form-urlencoded", json.dumps(DAG)),
        ("application/x-www-form-urlencoded", YAML),
        ("application/octet-stream", TOML),
        ("", YAML),
    ],
)
def test_the_content_type_says_the_form_and_without_one_the_document_does(
    node: NodeUnderTest, content_type: str, text: str
) -> None:
    answer = node.execute(text, **({"Content-Type": content_type} if content_type else {}))

    assert answer.status_code == 202, answer.text
    assert answer.json()["dag_id"] == "proj-a-nightly"


def test_a_large_document_takes_the_same_way(node: NodeUnderTest) -> None:
    tasks = [{"id": f"t{number}", "command": "true"} for number in range(2000)]

    answer = node.execute({"dag_id": "large", "tasks": tasks})

    assert answer.status_code == 202
    assert len(node.get(f"/api/v1/runs/{answer.json()['run_id']}")["tasks"]) == 2000


def test_a_repeated_key_answers_with_the_first_run_and_makes_no_other(node: NodeUnderTest) -> None:
    first = node.execute(DAG, **{"Idempotency-Key": "k"})
    again = node.execute(YAML, **{"Idempotency-Key": "k", "Content-Type": "application/yaml"})

    assert (first.status_code, again.status_code) == (202, 200)
    assert again.json() == first.json()
    assert len(node.get("/api/v1/runs")["items"]) == 1
    assert len(node.pokes) == 1
    assert len(node.store.audit.page(limit=10)) == 1


def test_a_key_that_belongs_to_another_document_is_a_conflict(node: NodeUnderTest) -> None:
    node.execute(DAG, **{"Idempotency-Key": "k"})

    answer = node.execute({**DAG, "description": "other"}, **{"Idempotency-Key": "k"})

    assert_problem(answer, 409, "submit.idempotency_conflict")


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_a_key_has_1_to_255_characters(node: NodeUnderTest, key: str) -> None:
    assert_problem(node.execute(DAG, **{"Idempotency-Key": key}), 400, "usage")


def test_the_longest_key_is_accepted(node: NodeUnderTest) -> None:
    assert node.execute(DAG, **{"Idempotency-Key": "k" * 255}).status_code == 202


@pytest.mark.parametrize("data", [b"", b"\x00\x01\x02\xff", b"{", b"[1, 2]", b'"text"'])
def test_what_is_no_document_is_malformed(node: NodeUnderTest, data: bytes) -> None:
    for content_type in ("application/json", "application/yaml"):
        answer = node.call("POST", "/api/v1/dag/execute", content=data, headers={"Content-Type": content_type})

        assert_problem(answer, 400, "document.malformed")
    assert node.get("/api/v1/runs")["items"] == []


def test_a_faulty_document_is_answered_with_every_fault_and_its_place(node: NodeUnderTest) -> None:
    tasks: list[dict[str, Any]] = [{"id": "a", "command": "true", "depend_on": []}, {"id": "b"}]

    problem = assert_problem(node.execute({"dag_id": "x", "tasks": tasks}), 422, "document.invalid")

    places = [error["place"] for error in problem["errors"]]
    assert any(place.startswith("tasks[0]") for place in places)
    assert any(place.startswith("tasks[1]") for place in places)
    assert "depends_on" in json.dumps(problem["errors"])
    assert all(set(error) == {"place", "message", "line"} for error in problem["errors"])


def test_an_unknown_skill_and_its_parameters_are_refused_with_their_place(node: NodeUnderTest) -> None:
    document = {"dag_id": "x", "tasks": [{"id": "a", "skill": "htpp", "params": {}}]}

    problem = assert_problem(node.execute(document), 422, "document.invalid")

    assert [error["place"] for error in problem["errors"]] == ["tasks[0].skill"]


@pytest.mark.parametrize("reference", ["${tasks.a.outputs.x}", "${secrets.X}"])
def test_a_dag_as_a_task_is_written_out_and_no_reference(node: NodeUnderTest, reference: str) -> None:
    tasks: list[dict[str, Any]] = [
        {"id": "a", "command": "true"},
        {"id": "b", "depends_on": ["a"], "skill": "dag", "params": {"document": reference}},
    ]

    problem = assert_problem(node.execute({"dag_id": "x", "tasks": tasks}), 422, "document.invalid")

    assert {error["place"] for error in problem["errors"]} == {"tasks[1].params.document"}


def test_two_tasks_of_two_projects_are_a_conflict(node: NodeUnderTest) -> None:
    tasks = [{"id": name, "command": "true", "env": {"PROJECT_ID": f"proj-{name}"}} for name in "ab"]

    assert_problem(node.execute({"dag_id": "x", "tasks": tasks}), 409, "scope.ambiguous")


def test_an_unknown_target_node_is_refused(node: NodeUnderTest) -> None:
    assert_problem(node.execute({**DAG, "target_node": "elsewhere"}), 422, "node.unknown")


def test_a_body_over_the_limit_is_refused_whether_or_not_its_length_is_declared(tmp_path: Path) -> None:
    async def chunks() -> Any:
        for _ in range(30):
            yield b" " * 1000

    with node_under_test(tmp_path, max_body_bytes=10_000) as node:
        exact = json.dumps(DAG).encode().ljust(10_000)
        assert node.call("POST", "/api/v1/dag/execute", content=exact).status_code == 202
        for method, path in (("POST", "dag/execute"), ("PUT", f"dags/{DAG['dag_id']}")):
            assert_problem(node.call(method, f"/api/v1/{path}", content=exact + b" "), 413, "document.too_large")
            assert_problem(node.call(method, f"/api/v1/{path}", content=chunks()), 413, "document.too_large")


def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    with node_under_test(tmp_path, max_queued=1) as node:
        assert node.execute(DAG).status_code == 202

        answer = node.execute(DAG)

        assert_problem(answer, 503, "overloaded")
        assert int(answer.headers["retry-after"]) > 0


def test_who_handed_a_dag_in_is_written_down(node: NodeUnderTest) -> None:
    run_id = node.execute(DAG).json()["run_id"]

    (entry,) = node.store.audit.page(limit=10)
    assert (entry.actor, entry.action, entry.subject, entry.source) == ("owner", "dag.execute", run_id, "127.0.0.9")


def test_an_answer_means_that_the_run_is_on_disk(tmp_path: Path) -> None:
    with node_under_test(tmp_path) as node:
        run_id = node.execute(DAG).json()["run_id"]
        other = open_store(tmp_path / "cis.db")

        assert other.runs.get(run_id) is not None
        assert other.queue.get(run_id) is not None
        other.close()
