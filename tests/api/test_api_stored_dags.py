"""``PUT`` and ``DELETE /api/v1/dags/{dag_id}``: what is stored, to be run by name."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from cis.engine.accept.staging import SMALL_TASKS
from cis.store.access_records import TokenRecord
from tests.worlds.serving import NodeUnderTest, assert_problem

SCOPED = "a-token-of-project-a"


def put(node: NodeUnderTest, dag_id: str, document: Any, **options: Any) -> Any:
    """Store a document, given as a mapping or as text."""
    content = json.dumps(document) if isinstance(document, dict) else document
    return node.call("PUT", f"/api/v1/dags/{dag_id}", content=content, **options)


def dag(dag_id: str = "nightly", *commands: str, **fields: Any) -> dict[str, Any]:
    """Return a document of these commands."""
    tasks = [{"id": f"t{number}", "command": command} for number, command in enumerate(commands or ("true",))]
    return {"dag_id": dag_id, "tasks": tasks, **fields}


def audited(node: NodeUnderTest) -> list[tuple[str, str]]:
    return [(one.action, one.subject) for one in node.store.audit.page(limit=99)]


def test_a_dag_that_is_put_is_stored_and_put_again_takes_the_place_of_the_one_before(node: NodeUnderTest) -> None:
    first = put(node, "nightly", dag())
    again = put(node, "nightly", dag())
    other = put(node, "nightly", "dag_id: nightly\ntasks: [{id: new, command: date}]\n")

    assert [first.status_code, again.status_code, other.status_code] == [201, 200, 200]
    assert first.json()["sha256"] == again.json()["sha256"] != other.json()["sha256"]
    assert node.get("/api/v1/dags/nightly")["document"]["tasks"] == [{"command": "date", "id": "new"}]
    (listed,) = node.get("/api/v1/dags?saved=true")["items"]
    assert listed == other.json()
    assert audited(node) == [("dag.save", "nightly")] * 3


def test_what_takes_the_place_of_a_dag_that_never_ran_leaves_nothing_of_it(node: NodeUnderTest) -> None:
    put(node, "nightly", dag())
    put(node, "nightly", dag("nightly", "date"))
    node.call("DELETE", "/api/v1/dags/nightly")

    assert_problem(node.call("GET", "/api/v1/dags/nightly"), 404, "not_found")


def test_a_dag_that_never_ran_is_gone_when_it_is_deleted_and_one_that_ran_is_only_stored_no_longer(
    node: NodeUnderTest,
) -> None:
    put(node, "never", dag("never"))
    node.submitted(dag_id="ran")
    put(node, "ran", dag("ran", "true", "date"))
    put(node, "ran", node.get("/api/v1/dags/ran")["document"])

    assert node.call("DELETE", "/api/v1/dags/never").status_code == 200
    assert node.call("DELETE", "/api/v1/dags/ran").json()["dag_id"] == "ran"

    for dag_id in ("never", "ran"):
        assert_problem(node.call("DELETE", f"/api/v1/dags/{dag_id}"), 404, "not_found")
    assert_problem(node.call("GET", "/api/v1/dags/never"), 404, "not_found")
    assert node.get("/api/v1/dags/ran")["saved_at"] is None
    assert node.get("/api/v1/dags?saved=true")["items"] == []
    assert audited(node)[:2] == [("dag.delete", "ran"), ("dag.delete", "never")]


FAULTY = """\
dag_id: nightly
tasks:
  - id: a
    skill: http
    params:
      url: nowhere
"""


@pytest.mark.parametrize(("method", "path"), [("POST", "dag/execute"), ("PUT", "dags/nightly")])
@pytest.mark.parametrize("size", ["small", "large"])
def test_the_fault_of_a_skill_is_told_with_its_line(node: NodeUnderTest, method: str, path: str, size: str) -> None:
    document = FAULTY + f"# {'x' * 200_000}\n" if size == "large" else FAULTY

    answer = node.call(method, f"/api/v1/{path}", content=document, headers={"Content-Type": "application/yaml"})

    assert_problem(answer, 422, "document.invalid")
    assert [(each["place"], each["line"]) for each in answer.json()["errors"]] == [("tasks[0].params.url", 6)]


def test_a_method_that_the_path_does_not_know_is_told_all_that_it_does(node: NodeUnderTest) -> None:
    answer = node.call("PATCH", "/api/v1/dags/nightly")

    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "DELETE, GET, PUT"


def test_a_large_dag_is_stored_whole(node: NodeUnderTest) -> None:
    answer = put(node, "large", dag("large", *["true"] * (SMALL_TASKS + 1)))

    assert (answer.status_code, answer.json()["task_count"]) == (201, SMALL_TASKS + 1)


@pytest.mark.parametrize(
    ("document", "status", "code", "place"),
    [
        (dag("other"), 422, "document.invalid", "dag_id"),
        (dag("nightly", tasks=[{"id": "a", "skill": "none"}]), 422, "document.invalid", "tasks[0].skill"),
        (dag("nightly", tasks=[]), 422, "document.invalid", "tasks"),
        ("{", 400, "document.malformed", None),
        ("", 400, "document.malformed", None),
    ],
)
def test_what_cannot_be_stored_is_refused_with_its_place_and_changes_nothing(
    node: NodeUnderTest, document: Any, status: int, code: str, place: str | None
) -> None:
    before = put(node, "nightly", dag()).json()

    answer = put(node, "nightly", document)

    assert_problem(answer, status, code)
    if place is not None:
        assert [each["place"] for each in answer.json()["errors"]] == [place]
    assert node.get("/api/v1/dags?saved=true")["items"] == [before]


def test_a_token_of_some_scopes_stores_replaces_and_deletes_dags_of_these_alone(node: NodeUnderTest) -> None:
    digest = hashlib.sha256(SCOPED.encode()).hexdigest()
    with node.store.transaction():
        node.store.tokens.put(
            TokenRecord(name="a", sha256=digest, may=("execute",), created_at_us=0, scopes=("project:a",))
        )
    put(node, "of-b", dag("of-b", scope="project:b"))

    own = put(node, "of-a", dag("of-a", scope="project:a"), token=SCOPED)
    foreign = put(node, "new", dag("new", scope="project:b"), token=SCOPED)
    taken = put(node, "of-b", dag("of-b", scope="project:a"), token=SCOPED)
    deleted = node.call("DELETE", "/api/v1/dags/of-b", token=SCOPED)

    assert own.status_code == 201
    assert_problem(foreign, 403, "scope.forbidden")
    assert_problem(taken, 409, "conflict")
    assert_problem(deleted, 404, "not_found")
    assert [each["dag_id"] for each in node.get("/api/v1/dags?saved=true")["items"]] == ["of-a", "of-b"]
    assert node.call("DELETE", "/api/v1/dags/of-a", token=SCOPED).status_code == 200
