"""Which tasks and parameters a condition uses, what is known of it beforehand, and that nothing else loads CEL."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from cis.errors import DocumentError
from cis.model.conditions import Uses, judge, uses
from cis.model.document import dag_from_plain

NAMES: dict[str, Any] = {"params": {"n": 1}, "tasks": {"a": {"status": "completed", "outputs": {}}}}


def test_what_a_condition_uses_is_told_by_name_and_the_whole_of_params_is_any_of_them() -> None:
    found = uses("""tasks.a.status == params.x && has(tasks["b-c"].outputs.n) && params["y z"] == 1""")

    assert found == Uses(frozenset({"a", "b-c"}), frozenset({"x", "y z"}), given=False)
    assert uses("size(params) > 1 && params.x").params is None
    assert uses("params[tasks.a.status]") == Uses(frozenset({"a"}), None)
    assert uses("no condition (") == Uses(frozenset(), frozenset())
    assert [uses(text).given for text in ("item > 1", "matrix.os == 'x'", "size(item) > 1", "params.item")] == [
        True,
        True,
        True,
        False,
    ]


def test_a_condition_is_judged_whatever_is_stored_and_its_error_names_the_place() -> None:
    assert judge("params.n == 1", NAMES)[:2] == (True, None)
    assert judge("params.n", NAMES).error == "column 7: a condition is true or false, and this is an int: params^.n"
    assert "there is no 'm' (there is: n)" in str(judge("params.m == 1", NAMES).error)
    assert "column 2" in str(judge("(", NAMES).error)
    assert "item is not known" in str(judge("item == 1", NAMES).error)


def test_a_name_that_a_macro_binds_hides_what_has_that_name() -> None:
    task = {"id": "a", "command": "true", "when": "[1].all(tasks, tasks > 0) && [1].exists(item, item == 1)"}

    assert dag_from_plain({"dag_id": "d", "tasks": [task]}).tasks[0].when == task["when"]


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("tasks.all(t, true)", "tasks is followed by an id"),
        ("tasks[params.x].status == 'a'", "tasks is followed by an id"),
        ("tasks.b == 1", "say what of the task: tasks.b.status or tasks.b.outputs.NAME"),
        ("run.dagid == 'a'", "run has no 'dagid'; did you mean 'dag_id'?"),
        ("node.label == 'a'", "node has no 'label'; did you mean 'labels'?"),
        ("node.labels == 'a'", "== does not take a list and a string"),
        ("status == 'a'", "there is no 'status'; known: params, tasks, run, node"),
        ("tasks.b.status", "a condition is true or false, and this is a string"),
        ("matrix.x == 1", "matrix is known in a task with matrix alone"),
    ],
)
def test_names_are_checked_when_a_document_is_read(when: str, said: str) -> None:
    tasks = [{"id": "b", "command": "true"}, {"id": "a", "command": "true", "depends_on": "b", "when": when}]
    with pytest.raises(DocumentError) as raised:
        dag_from_plain({"dag_id": "d", "params": {"x": {}}, "tasks": tasks})

    assert [fault.place for fault in raised.value.faults] == ["tasks[1].when"]
    assert said in raised.value.faults[0].message


def test_a_dag_without_a_condition_loads_nothing_of_the_language() -> None:
    code = (
        "import sys, cis.node.worker_main\n"
        "from cis.engine.accept.warnings import document_warnings\n"
        "from cis.model.document import dag_from_plain\n"
        "def loaded(**task):\n"
        "    document_warnings(dag_from_plain({'dag_id': 'd', 'tasks': [{'id': 'a', 'command': 'true', **task}]}))\n"
        "    return any(name.startswith(('cis.model.cel', 'cis.model.conditions')) for name in sys.modules)\n"
        "print(loaded(), loaded(when='run.id != \"\"'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.split() == ["False", "True"]
