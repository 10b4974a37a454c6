"""A document asks for secrets by name, and only a task can."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from cis.errors import DocumentError
from cis.model.dag import DagSpec
from cis.model.document import dag_from_plain, parse_dag
from cis.model.formats import Format, dump_document
from cis.model.schema import dag_schema


def dag(**task: Any) -> dict[str, Any]:
    """Return a document of one task."""
    what = {} if "skill" in task else {"command": "true"}
    return {"dag_id": "d", "tasks": [{"id": "a", **what, **task}]}


def fault(document: dict[str, Any]) -> str:
    """Return the only fault of a document, with its place."""
    with pytest.raises(DocumentError) as refused:
        dag_from_plain(document)
    (found,) = refused.value.faults
    return f"{found.place}: {found.message}"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (["A", "B_2"], {"A": "A", "B_2": "B_2"}),
        ({"PGPASSWORD": "DB_PASSWORD"}, {"PGPASSWORD": "DB_PASSWORD"}),
        ([], {}),
    ],
)
@pytest.mark.parametrize("notation", list(Format))
def test_names_are_read_from_every_notation_and_written_back(written: Any, read: Any, notation: Format) -> None:
    document = dag(secrets=written)
    jsonschema.validate(document, dag_schema())

    spec = parse_dag(dump_document(document, notation).encode(), format=notation)

    assert spec.tasks[0].secrets == read
    assert DagSpec.from_dict(spec.to_dict()) == spec
    assert dag_from_plain(spec.to_dict()) == spec


def test_a_document_without_secrets_is_stored_as_it_was_before_there_were_any() -> None:
    assert "secrets" not in dag_from_plain(dag()).to_dict()["tasks"][0]


@pytest.mark.parametrize(
    "secrets",
    ["A", 3, [3], ["a-b"], ["CIS_TOKEN"], ["PATH"], ["LD_PRELOAD"], {"HOME": "A"}, {"A": "b c"}, {"A": 3}, ["A" * 129]],
)
def test_wrong_names_are_faults_for_the_schema_too(secrets: Any) -> None:
    assert fault(dag(secrets=secrets)).startswith("tasks[0].secrets")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(dag(secrets=secrets), dag_schema())


def test_names_that_only_begin_like_taken_ones_are_fine() -> None:
    assert dag_from_plain(dag(secrets=["PATH_TO_KEY", "HOME_TOKEN"])).tasks[0].secrets.keys() == {
        "PATH_TO_KEY",
        "HOME_TOKEN",
    }


def test_too_many_are_a_fault() -> None:
    assert "64 at most" in fault(dag(secrets=[f"S{n}" for n in range(65)]))


def test_a_variable_has_one_value() -> None:
    assert "keep one" in fault(dag(secrets=["A"], env={"A": "b"}))


def test_a_whole_dag_and_a_dag_as_a_task_ask_for_none() -> None:
    assert "is not a field" in fault({**dag(), "secrets": ["A"]})
    assert "tasks[0].secrets: are not handed" in fault(dag(skill="dag", params={"dag_id": "x"}, secrets=["A"]))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"params": {"url": "http://x/${secrets.A}"}}, "add it to the task's secrets"),
        ({"params": {"url": "http://x/${secrets.B}"}, "secrets": ["A"]}, "secret B; add it"),
        ({"params": {"url": "http://x/${secrets.A-B}"}, "secrets": ["A"]}, "not as ${secrets.NAME}"),
        ({"params": {"url": "http://x/"}, "env": {"E": "${secrets.A}"}, "secrets": ["A"]}, "only in params"),
    ],
)
def test_a_request_refers_only_to_secrets_that_its_task_asks_for(task: dict[str, Any], message: str) -> None:
    assert message in fault(dag(skill="http", **task))
