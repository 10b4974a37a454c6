"""DAGs, workers, skills, nodes, metrics and the description of it all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from cis.api import schemas
from cis.engine.accept.submit import MAX_DESCRIPTION
from cis.model.states import RunState
from cis.store.cluster import PeerRecord
from tests.worlds.serving import NodeUnderTest


def test_dags_are_listed_by_id_and_one_comes_with_its_document(node: NodeUnderTest) -> None:
    for dag_id in ("b", "a", "c"):
        node.submitted({"id": "t"}, dag_id=dag_id, description=f"about {dag_id}")

    first = node.get("/api/v1/dags?limit=2")
    second = node.get(f"/api/v1/dags?limit=2&cursor={first['next_cursor']}")
    one = node.get("/api/v1/dags/b")

    assert [item["dag_id"] for item in first["items"] + second["items"]] == ["a", "b", "c"]
    assert one["document"] == {"dag_id": "b", "description": "about b", "tasks": [{"command": "true", "id": "t"}]}
    assert (one["description"], one["task_count"], one["saved_at"]) == ("about b", 1, None)
    assert node.get("/api/v1/dags?saved=true")["items"] == []


def test_workers_are_listed_and_one_is_shown(node: NodeUnderTest) -> None:
    worker = node.with_worker(node.submitted(dag_id="proj-a-x"))

    (listed,) = node.get("/api/v1/workers")["items"]
    one = node.get(f"/api/v1/workers/{worker.worker_id}")

    assert listed == one
    assert (one["worker_id"], one["pid"], one["epoch"]) == ("worker-project-proj-a", 4711, 1)
    assert one["scope"] == {"type": "project", "id": "proj-a"}


def test_skills_say_where_they_come_from_and_what_triggers_them(node: NodeUnderTest) -> None:
    skills = {skill["name"]: skill for skill in node.get("/api/v1/skills")["items"]}

    assert {"shell", "http", "python", "dag"} <= set(skills)
    assert {"http", "cli"} <= {trigger.lower().split()[0].strip(":") for trigger in skills["dag"]["triggers"]}


def test_this_node_comes_first_and_then_those_that_it_trusts(node: NodeUnderTest) -> None:
    with node.store.transaction():
        node.store.peers.put(
            PeerRecord(
                node_id="node-2",
                public_key="k",
                may=("read",),
                trusted_at_us=1,
                clock_ahead_us=90_000_000,
                contact_at_us=node.this_node.clock_us(),
            )
        )
    page = node.get("/api/v1/nodes")
    own, peer = page["items"]

    assert page["next_cursor"] is None
    assert (own["node_id"], own["url"], own["self"]) == ("node-1", "http://127.0.0.1:6767", True)
    assert (peer["node_id"], peer["self"], peer["may"], peer["reachable"]) == ("node-2", False, ["read"], True)
    assert (peer["clock_difference_s"], peer["warning"]) == (90.0, "its clock is off by +90 s")
    schemas.NodeModel.model_validate(own)
    schemas.NodeModel.model_validate(peer)


def test_metrics_count_runs_workers_the_queue_and_requests(node: NodeUnderTest) -> None:
    node.submitted()
    node.with_worker(node.changed(node.submitted(dag_id="proj-a-x"), RunState.RUNNING))
    node.get("/api/v1/runs")
    node.call("GET", "/api/v1/runs", token=None)
    node.call("GET", "/nowhere")

    answer = node.call("GET", "/metrics")

    assert answer.headers["content-type"].startswith("text/plain")
    samples = dict(line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#"))
    assert samples["cis_queue_depth"] == "1"
    assert samples['cis_runs_unfinished{status="running"}'] == "1"
    assert samples['cis_runs_unfinished{status="paused"}'] == "0"
    assert samples['cis_workers{status="busy"}'] == "1"
    assert samples['cis_http_requests_total{method="GET",route="/api/v1/runs",status="200"}'] == "1"
    assert samples['cis_http_requests_total{method="GET",route="other",status="401"}'] == "1"
    assert samples['cis_http_requests_total{method="GET",route="other",status="404"}'] == "1"
    names = set(re.findall(r"^# TYPE (\S+) (?:gauge|counter)$", answer.text, re.MULTILINE))
    assert {sample.partition("{")[0] for sample in samples} <= names


def test_metrics_have_the_names_types_and_labels_that_the_reference_lists(node: NodeUnderTest) -> None:
    reference = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "http.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(cis_\w+)` \| (\w+) \| (.*?) ?\|", reference, re.MULTILINE)

    answer = node.call("GET", "/metrics")

    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert [(name, kind) for name, kind, _ in rows] == re.findall(r"^# TYPE (\S+) (\S+)$", answer.text, re.MULTILINE)
    labels = {name: re.findall(r"`(\w+)`", listed) for name, _, listed in rows}
    for sample in re.findall(r"^(cis_.*) \d+$", answer.text, re.MULTILINE):
        assert re.findall(r'(\w+)="', sample) == labels[sample.partition("{")[0]]


def test_a_list_shows_the_beginning_of_a_long_description_and_the_document_has_all_of_it(node: NodeUnderTest) -> None:
    node.submitted(dag_id="wordy", description="x" * 100_000)

    (listed,) = node.get("/api/v1/dags")["items"]
    assert listed["description"] == "x" * MAX_DESCRIPTION
    assert node.get("/api/v1/dags/wordy")["document"]["description"] == "x" * 100_000


def test_the_description_names_every_route_its_answers_and_the_token(node: NodeUnderTest) -> None:
    described = node.get("/openapi.json")

    assert {
        "/api/v1/dag/execute",
        "/api/v1/dag/validate",
        "/api/v1/dags",
        "/api/v1/dags/{dag_id}",
        "/api/v1/runs",
        "/api/v1/runs/{run_id}",
        "/api/v1/runs/{run_id}/logs",
        "/api/v1/runs/{run_id}/cancel",
        "/api/v1/runs/{run_id}/pause",
        "/api/v1/runs/{run_id}/resume",
        "/api/v1/runs/{run_id}/rerun",
        "/api/v1/workers",
        "/api/v1/workers/{worker_id}",
        "/api/v1/nodes",
        "/api/v1/skills",
        "/api/v1/peers/messages",
        "/api/v1/events",
        "/health",
        "/ready",
        "/metrics",
    } == set(described["paths"])
    assert described["security"] == [{"token": []}]
    assert set(described["paths"]["/api/v1/dag/execute"]["post"]["responses"]) >= {
        "200", "202", "400", "401", "403", "409", "413", "422", "503"
    }  # fmt: skip
    references = set(re.findall(r"#/components/schemas/(\w+)", str(described)))
    assert references <= set(described["components"]["schemas"])
    parameters = {each["name"] for each in described["paths"]["/api/v1/runs"]["get"]["parameters"]}
    assert parameters == {"status", "scope", "node", "dag_id", "limit", "cursor"}


def test_the_description_can_be_browsed(node: NodeUnderTest) -> None:
    assert "/openapi.json" in node.call("GET", "/docs").text


def same_keys(model: type[BaseModel], view: dict[str, Any]) -> None:
    """Check that a view has the fields of its model, no less and no more, and values that it allows."""
    assert set(model.model_fields) == set(view)
    model.model_validate(view)


def test_every_view_is_what_the_description_says(node: NodeUnderTest) -> None:
    run = node.changed(node.submitted({"id": "a"}, {"id": "b", "depends_on": ["a"]}), RunState.RUNNING)
    node.with_worker(run)
    node.started(run, "a")
    view = node.get(f"/api/v1/runs/{run.run_id}")
    submission = node.execute({"dag_id": "x", "tasks": [{"id": "a", "command": "true"}]}).json()

    same_keys(schemas.SubmissionModel, submission)
    same_keys(schemas.RunModel, view)
    document = {"dag_id": "d", "tasks": [{"id": "a", "command": "true"}]}
    same_keys(schemas.ValidationModel, node.call("POST", "/api/v1/dag/validate", json=document).json())
    same_keys(schemas.TaskModel, view["tasks"][1])
    same_keys(schemas.WaitingModel, view["tasks"][1]["waiting"])
    same_keys(schemas.RunItemModel, node.get("/api/v1/runs")["items"][0])
    same_keys(schemas.DagModel, node.get("/api/v1/dags")["items"][0])
    same_keys(schemas.DagDocumentModel, node.get("/api/v1/dags/x"))
    same_keys(schemas.WorkerModel, node.get("/api/v1/workers")["items"][0])
    same_keys(schemas.SkillModel, node.get("/api/v1/skills")["items"][0])
    same_keys(schemas.NodeModel, node.get("/api/v1/nodes")["items"][0])
    same_keys(schemas.AttemptLogModel, node.get(f"/api/v1/runs/{run.run_id}/logs")["items"][0])
    same_keys(schemas.PageModel, node.get("/api/v1/runs"))


@pytest.mark.parametrize("path", ["/api/v1/runs/none", "/api/v1/runs?limit=0"])
def test_a_problem_is_what_the_description_says(node: NodeUnderTest, path: str) -> None:
    schemas.ProblemModel.model_validate(node.call("GET", path).json())
