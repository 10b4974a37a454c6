"""What a task with ``foreach`` or ``matrix`` is made into: how many, what each is given, and how each is called."""

from __future__ import annotations

from typing import Any

import pytest

from cis.errors import DocumentError
from cis.model.document import dag_from_plain
from cis.model.instances import of_list, of_matrix
from cis.model.many import MAX_INSTANCES


def faults_of(plain: dict[str, Any]) -> dict[str, str]:
    """Return what is wrong with a document, by place."""
    with pytest.raises(DocumentError) as raised:
        dag_from_plain(plain)
    return {fault.place: fault.message for fault in raised.value.faults}


def keys(made: Any) -> list[str]:
    """Return the keys of instances."""
    return [one.key for one in made]


@pytest.mark.parametrize(
    ("items", "called"),
    [
        (["f007", "b"], ["f007", "b"]),
        ([1, 2.5, True], ["1", "2.5", "true"]),
        (["a b", "c"], ["0", "1"]),
        (["a", "a"], ["0", "1"]),
        ([{"a": 1}], ["0"]),
        (["x" * 32], ["x" * 32]),
        (["x" * 33], ["0"]),
        (["", "a"], ["0", "1"]),
        ([None], ["0"]),
        (["1", 1], ["0", "1"]),
        ([], []),
    ],
)
def test_instances_are_called_by_their_items_where_these_are_short_plain_and_distinct(items: Any, called: Any) -> None:
    assert keys(of_list(items)) == called
    assert [one.given for one in of_list(items)] == [{"item": item} for item in items]


def test_a_matrix_is_every_combination_less_what_is_excluded() -> None:
    made = of_matrix({"os": ["linux", "mac"], "v": ["3.11", "3.13"], "exclude": [{"os": "mac", "v": "3.11"}]})

    assert keys(made) == ["linux,3.11", "linux,3.13", "mac,3.13"]
    assert made[2].given == {"matrix": {"os": "mac", "v": "3.13"}}
    assert of_matrix({"os": ["linux"], "exclude": [{"os": "linux"}]}) == []
    assert keys(of_matrix({"os": ["a", "b"], "exclude": [{"cpu": "arm"}]})) == ["a", "b"]


def test_what_is_included_is_added_where_it_changes_nothing_that_the_lists_gave_else_it_is_one_more() -> None:
    # As the workflow syntax of GitHub Actions describes it.
    made = of_matrix(
        {
            "fruit": ["apple", "pear"],
            "animal": ["cat", "dog"],
            "include": [
                {"color": "green"},
                {"color": "pink", "animal": "cat"},
                {"fruit": "apple", "shape": "circle"},
                {"fruit": "banana"},
                {"fruit": "banana", "animal": "cat"},
            ],
        }
    )

    assert [one.given["matrix"] for one in made] == [
        {"fruit": "apple", "animal": "cat", "color": "pink", "shape": "circle"},
        {"fruit": "apple", "animal": "dog", "color": "green", "shape": "circle"},
        {"fruit": "pear", "animal": "cat", "color": "pink"},
        {"fruit": "pear", "animal": "dog", "color": "green"},
        {"fruit": "banana"},
        {"fruit": "banana", "animal": "cat"},
    ]
    assert keys(made)[:2] == ["apple,cat", "apple,dog"]
    assert keys(of_matrix({"include": [{"site": "a"}, {"site": "b"}]})) == ["a", "b"]


def test_what_is_no_list_or_too_much_is_refused_before_it_is_made() -> None:
    for items, said in (("abc", "text"), ({}, "an object"), (None, "null"), (3, "a number"), (True, "true or false")):
        with pytest.raises(ValueError, match=f"must be a list, not {said}"):
            of_list(items)
    with pytest.raises(ValueError, match="makes 10,001 instances; 10,000 at most"):
        of_list([0] * (MAX_INSTANCES + 1))
    assert len(of_list([0] * MAX_INSTANCES)) == MAX_INSTANCES
    with pytest.raises(ValueError, match="makes 1,000,000 instances"):
        of_matrix({name: list(range(100)) for name in ("a", "b", "c")})
    with pytest.raises(ValueError, match="include must be a list of mappings"):
        of_matrix({"a": [1], "include": ["x"]})


@pytest.mark.parametrize(
    ("task", "place", "said"),
    [
        ({"foreach": "abc"}, "tasks[0].foreach", "must be a list, or one reference to a list"),
        ({"foreach": "x ${run.id}"}, "tasks[0].foreach", "one reference"),
        ({"foreach": {"a": 1}}, "tasks[0].foreach", "not a mapping"),
        ({"foreach": [0] * 10_001}, "tasks[0].foreach", "10,000 at most"),
        ({"matrix": {}}, "tasks[0].matrix", "is empty"),
        ({"matrix": {"a": "x"}}, "tasks[0].matrix", "a must be a list"),
        ({"matrix": {"1a": []}}, "tasks[0].matrix", "is not a name"),
        ({"matrix": {"include": ["x"]}}, "tasks[0].matrix", "list of mappings"),
        ({"matrix": {"a": [0] * 101, "b": [0] * 101}}, "tasks[0].matrix", "makes 10,201 instances"),
        ({"foreach": [1], "matrix": {"a": [1]}}, "tasks[0]", "both foreach and matrix"),
        ({"max_parallel": 2}, "tasks[0].max_parallel", "goes with foreach or matrix"),
        ({"fail_fast": True}, "tasks[0].fail_fast", "goes with foreach or matrix"),
        ({"foreach": [1], "max_parallel": 0}, "tasks[0].max_parallel", "from 1 to 10000"),
        ({"foreach": [1], "env": {"A": "${matrix.a}"}}, "tasks[0].env.A", "no name"),
        ({"matrix": {"os": [1]}, "env": {"A": "${matrix.oss}"}}, "tasks[0].env.A", "did you mean 'os'"),
        ({"matrix": {"os": [1]}, "env": {"A": "${item}"}}, "tasks[0].env.A", "has no foreach"),
        ({"foreach": [1], "env": {"A": "${item.}"}}, "tasks[0].env.A", "but not as ${item}"),
        ({"foreach": "${tasks.a.outputs.x}"}, "tasks[0].foreach", "of its own task"),
        ({"foreach": "${tasks.b.outputs.x}"}, "tasks[0].foreach", "does not exist"),
        ({"foreach": "${params.typo}"}, "tasks[0].foreach", "names nothing"),
        ({"foreach": [1], "command": "echo ${item}"}, "tasks[0].command", "never pasted into a command"),
    ],
)
def test_what_is_wrong_with_them_in_a_document_is_told_with_its_place(task: Any, place: str, said: str) -> None:
    found = faults_of({"dag_id": "d", "tasks": [{"id": "a", "command": ["true"], **task}]})

    assert said in found[place]


def test_references_to_items_are_references_in_such_a_task_alone() -> None:
    plain = {"id": "a", "command": ["echo", "${item}", "${matrix.x}"]}
    spec = dag_from_plain({"dag_id": "d", "tasks": [plain]})

    assert spec.tasks[0].command == ("echo", "${item}", "${matrix.x}")
    many = {"id": "b", "foreach": [1], "command": ["echo", "$${item}", "${item}"]}
    whole = {"id": "c", "command": ["echo", "${tasks.b.instances}", "${tasks.b.instances[0].key}"], "depends_on": "b"}
    assert dag_from_plain({"dag_id": "d", "tasks": [many, whole]}).tasks[0].is_many
    single = {**whole, "command": ["echo", "${tasks.b.instances}"]}
    found = faults_of({"dag_id": "d", "tasks": [{"id": "b", "command": "true"}, single]})
    assert "has no foreach or matrix" in found["tasks[1].command[1]"]
