"""What people write who know another tool is answered with the word that stands for it here; nothing hides other faults."""

from __future__ import annotations

from typing import Any

import pytest

from cis.errors import DocumentError
from cis.model.document import dag_from_plain, parse_dag
from cis.model.references import fill

TASK: dict[str, Any] = {"id": "a", "command": "true"}


def faults(plain: dict[str, Any]) -> dict[str, str]:
    """Return the faults of a document by their places."""
    with pytest.raises(DocumentError) as raised:
        dag_from_plain(plain)
    return {fault.place: fault.message for fault in raised.value.faults}


def of_task(**fields: Any) -> dict[str, str]:
    return faults({"dag_id": "d", "tasks": [{**TASK, **fields}]})


def test_one_id_is_a_list_of_one() -> None:
    spec = dag_from_plain({"dag_id": "d", "tasks": [TASK, {"id": "b", "command": "true", "depends_on": "a"}]})
    numbered = parse_dag(b"dag_id: d\ntasks: [{id: 7, command: x}, {id: b, command: x, depends_on: 7}]")

    assert spec.tasks[1].depends_on == ("a",)
    assert numbered.tasks[1].depends_on == ("7",)


def test_an_unknown_single_dependency_and_one_on_itself_are_faults() -> None:
    assert "depends on itself" in of_task(depends_on="a")["tasks[0].depends_on"]
    assert "no task 'other'" in of_task(depends_on="other")["tasks[0].depends_on"]


def test_defaults_give_env_name_by_name_and_cwd() -> None:
    spec = dag_from_plain(
        {
            "dag_id": "d",
            "env": {"A": "dag"},
            "defaults": {"env": {"A": "defaults", "B": "defaults"}, "cwd": "src"},
            "tasks": [TASK, {"id": "b", "command": "true", "env": {"B": "task"}, "cwd": "other"}],
        }
    )

    assert [dict(task.env) for task in spec.tasks] == [
        {"A": "defaults", "B": "defaults"},
        {"A": "defaults", "B": "task"},
    ]
    assert [task.cwd for task in spec.tasks] == ["src", "other"]


def test_what_is_for_every_task_cannot_refer_to_one() -> None:
    found = faults(
        {
            "dag_id": "d",
            "defaults": {"env": {"A": "${tasks.a.outputs.x}"}, "cwd": "${tasks.a.outputs.x}"},
            "tasks": [TASK],
        }
    )

    assert set(found) == {"defaults.env.A", "defaults.cwd"}


@pytest.mark.parametrize(
    ("field", "word"),
    [("needs", "depends_on"), ("run", "command"), ("name", "id"), ("environment", "env"), ("retries", "max_retries")],
)
def test_a_tasks_field_of_another_tool_is_answered_with_the_word_that_stands_for_it(field: str, word: str) -> None:
    plain = {"dag_id": "d", "tasks": [{**{key: value for key, value in TASK.items() if key != word}, field: "x"}]}

    assert faults(plain) == {f"tasks[0].{field}": f"is another tool's word; here it is {word!r}"}


@pytest.mark.parametrize(("field", "word"), [("name", "dag_id"), ("steps", "tasks"), ("jobs", "tasks")])
def test_a_dags_field_of_another_tool_is_answered_with_the_word_that_stands_for_it(field: str, word: str) -> None:
    plain: dict[str, Any] = {"dag_id": "d", "tasks": [TASK]}
    plain[field] = plain.pop(word)

    assert faults(plain) == {field: f"is another tool's word; here it is {word!r}"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("${task.a.outputs.v}", "did you mean ${tasks.a.outputs.v}?"),
        ("${env.HOME}", 'reads "$HOME"'),
        ("${params.x}", "params: declares them"),
        ("${run.scope}", "${tasks.ID.outputs.NAME}"),
    ],
)
def test_what_begins_like_a_reference_and_names_nothing_is_refused_with_the_nearest(text: str, said: str) -> None:
    cases: dict[str, dict[str, Any]] = {
        "tasks[0].env.A": {"env": {"A": f"x {text} y"}},
        "tasks[0].cwd": {"cwd": text},
        "tasks[0].command": {"command": f"echo {text}"},
    }
    for place, fields in cases.items():
        message = of_task(**fields)[place]
        assert text in message
        assert said in message
    assert said in faults({"dag_id": "d", "env": {"A": text}, "tasks": [TASK]})["env.A"]
    assert said in faults({"dag_id": "d", "defaults": {"env": {"A": text}}, "tasks": [TASK]})["defaults.env.A"]


@pytest.mark.parametrize("text", ["${HOME}", "${x.y}", "$${env.HOME}", "$${tasks.a.outputs.x}", "$${params.x} ${V:-1}"])
def test_anything_else_in_braces_stays_as_it_is(text: str) -> None:
    plain = {"dag_id": "d", "env": {"B": text}, "tasks": [{**TASK, "env": {"A": text}}]}
    (task,) = dag_from_plain(plain).tasks

    assert fill(task.env["A"], lambda _: "never") == text.replace("$${", "${")


def test_a_doubled_dollar_before_a_reference_keeps_it_from_being_filled_in() -> None:
    value = "${tasks.a.outputs.x} $${tasks.a.outputs.x} $${other}"

    assert fill(value, lambda one: f"<{one.task} {one.output} $${{env.A}}>") == (
        "<a x $${env.A}> ${tasks.a.outputs.x} $${other}"
    )


def test_text_that_another_program_reads_may_hold_them() -> None:
    dag_from_plain({"dag_id": "d", "tasks": [{**TASK, "command": "console.log(`${env.A}`)", "shell": "node"}]})


@pytest.mark.parametrize(
    "text",
    [
        "dag_id: d\ntasks:\n- {id: a, command: x, timeout: .inf}\n- {id: b, comand: x}\n",
        '{"dag_id": "d", "tasks": [{"id": "a", "command": "x", "timeout": Infinity}, {"id": "b", "comand": "x"}]}',
        'dag_id = "d"\n[[tasks]]\nid = "a"\ncommand = "x"\ntimeout = inf\n[[tasks]]\nid = "b"\ncomand = "x"\n',
    ],
)
def test_a_number_that_is_not_finite_hides_no_other_fault_and_is_one_itself(text: str) -> None:
    with pytest.raises(DocumentError) as raised:
        parse_dag(text.encode())

    found = [(fault.place, fault.message) for fault in raised.value.faults]
    assert ("tasks[0].timeout", "is not a finite number") in found
    assert [place for place, _ in found].count("tasks[0].timeout") == 1
    assert any(place == "tasks[1].comand" and "'command'" in message for place, message in found)
