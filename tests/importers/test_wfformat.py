"""Workflows recorded by other tools, as DAGs."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cis.errors import DocumentError
from cis.importers.wfformat import dag_from_wfformat
from cis.model.ids import id_fault


def workflow(*tasks: dict[str, Any], version: str = "1.5", **execution: dict[str, Any]) -> dict[str, Any]:
    """Return a recorded workflow; *execution* maps a task's id to its record."""
    return {
        "name": "proj x/1",
        "schemaVersion": version,
        "workflow": {
            "specification": {"tasks": [{"name": "n", "parents": [], "children": [], **task} for task in tasks]},
            "execution": {"tasks": [{"id": task_id, **record} for task_id, record in execution.items()]},
        },
    }


@pytest.mark.parametrize("version", ["1.5", "1.6"])
def test_edges_are_what_parents_and_children_say_together_and_each_stands_once(version: str) -> None:
    recorded = workflow(
        {"id": "a", "children": ["b", "c"]}, {"id": "b"}, {"id": "c", "parents": ["a", "b"]}, version=version
    )
    spec = dag_from_wfformat(recorded)

    assert {task.id: task.depends_on for task in spec.tasks} == {"a": (), "b": ("a",), "c": ("a", "b")}
    assert spec.dag_id == "proj-x-1"


def test_a_task_sleeps_for_its_scaled_run_time_and_not_at_all_without_a_record() -> None:
    spec = dag_from_wfformat(workflow({"id": "a"}, {"id": "b"}, a={"runtimeInSeconds": 52.991}), scale=0.001)

    assert [task.command for task in spec.tasks] == [("sleep", "0.052991"), ("sleep", "0.000000")]


def test_recorded_commands_are_kept_on_request_as_they_stand() -> None:
    record = {"runtimeInSeconds": 1, "command": {"program": "blast", "arguments": ["-x", "'a b'", "> out"]}}

    assert dag_from_wfformat(workflow({"id": "a"}, a=record), commands=True).tasks[0].command == "blast -x 'a b' > out"
    with pytest.raises(DocumentError, match="has no command"):
        dag_from_wfformat(workflow({"id": "a"}), commands=True)


@pytest.mark.parametrize("arguments", [1.5, "-x", {"-x": 1}])
def test_recorded_arguments_that_are_no_list_are_refused(arguments: Any) -> None:
    record = {"command": {"program": "blast", "arguments": arguments}}

    with pytest.raises(DocumentError, match="not a list"):
        dag_from_wfformat(workflow({"id": "a"}, a=record), commands=True)


@given(st.lists(st.text(min_size=1, max_size=200), min_size=1, max_size=8, unique=True))
def test_every_id_becomes_one_of_ours_and_no_two_become_the_same(ids: list[str]) -> None:
    spec = dag_from_wfformat(
        workflow(*({"id": one, "parents": ids[:1] if number else []} for number, one in enumerate(ids)))
    )
    names = [task.id for task in spec.tasks]

    assert len(set(names)) == len(ids)
    assert all(id_fault(name) is None for name in names)
    assert all(name == old for name, old in zip(names, ids, strict=True) if id_fault(old) is None)
    assert all(task.depends_on == (names[0],) for task in spec.tasks[1:])


def test_many_ids_that_look_the_same_once_cleaned_are_kept_apart_quickly() -> None:
    started_s = time.monotonic()
    spec = dag_from_wfformat(workflow(*({"id": chr(0x4E00 + number)} for number in range(20_000))))

    assert len({task.id for task in spec.tasks}) == 20_000
    assert time.monotonic() - started_s < 20


@pytest.mark.parametrize(
    ("recorded", "place"),
    [
        ({}, "schemaVersion"),
        (workflow({"id": "a"}, version="1.4"), "schemaVersion"),
        ({"schemaVersion": "1.5", "workflow": []}, "workflow.specification.tasks"),
        ({"schemaVersion": "1.5", "workflow": {"specification": {"tasks": [1]}}}, "workflow.specification.tasks"),
        (workflow({"name": "n"}), "workflow.specification.tasks[0].id"),
        (workflow({"id": "a"}, {"id": "a"}), "workflow.specification.tasks[1].id"),
        (workflow({"id": "a", "parents": ["b"]}), "workflow.specification.tasks[0]"),
        (workflow({"id": "a", "children": "b"}), "workflow.specification.tasks[0].children"),
        (workflow({"id": "a"}, a={"runtimeInSeconds": float("nan")}), "workflow.execution task 'a'"),
        (workflow({"id": "a"}, a={"runtimeInSeconds": -1}), "workflow.execution task 'a'"),
        (workflow({"id": "a"}, a={"runtimeInSeconds": "1"}), "workflow.execution task 'a'"),
        (workflow({"id": "a", "parents": ["b"]}, {"id": "b", "parents": ["a"]}), "tasks[0].depends_on"),
    ],
)
def test_what_is_no_workflow_is_refused_with_its_place(recorded: dict[str, Any], place: str) -> None:
    with pytest.raises(DocumentError) as caught:
        dag_from_wfformat(recorded)

    assert caught.value.faults[0].place == place
