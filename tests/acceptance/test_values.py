"""Outputs with their types from task to task, and from a DAG as a task up to its parent."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.worlds.harness import Sandbox, write_dag
from tests.worlds.waiting import wait_for

WRITE = """printf '{"n": 4, "list": [{"name": "a b"}], "yes": true, "none": null}' > "$CIS_OUTPUT"; echo ' 1.2.3 '"""
SHOW = (
    "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ['N'], os.environ['LIST'], os.environ['NONE']]))"
)


def document(dag_id: str, *tasks: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return a DAG."""
    return {"dag_id": dag_id, "tasks": list(tasks), **fields}


def outputs_of(sandbox: Sandbox, dag_id: str) -> dict[str, Any]:
    """Return the outputs of each task of the latest run."""
    return {task["id"]: task["outputs"] for task in sandbox.json("dag", "status", dag_id)["runs"][0]["tasks"]}


def test_outputs_keep_their_types_and_become_text_in_variables_and_arguments(sandbox: Sandbox, tmp_path: Path) -> None:
    show = {
        "id": "show",
        "command": [sys.executable, "-c", SHOW, "${tasks.make.outputs.version}", "${tasks.make.outputs.list[0].name}"],
        "env": {
            "N": "<${tasks.make.outputs.n}>",
            "LIST": "${tasks.make.outputs.list}",
            "NONE": "${tasks.make.outputs.none}",
        },
        "depends_on": "make",
    }
    path = write_dag(tmp_path, document("d", {"id": "make", "command": WRITE, "output": "version"}, show))
    sandbox.json("dag", "run", path)

    made = outputs_of(sandbox, "d")["make"]
    assert made == {"version": "1.2.3", "n": 4, "list": [{"name": "a b"}], "yes": True, "none": None}
    shown = json.loads(sandbox.cis("dag", "logs", "d", "--task", "show").stdout)
    assert shown == [["1.2.3", "a b"], "<4>", '[{"name":"a b"}]', ""]


def test_a_way_that_leads_nowhere_fails_the_task_before_it_starts(sandbox: Sandbox, tmp_path: Path) -> None:
    bad = [
        {"id": f"t{number}", "command": "true", "env": {"A": text}, "depends_on": "make"}
        for number, text in enumerate(
            ["${tasks.make.outputs.list[3]}", "${tasks.make.outputs.none.x}", "${tasks.make.outputs.version.x}"]
        )
    ]
    path = write_dag(tmp_path, document("d", {"id": "make", "command": WRITE, "output": "version"}, *bad))
    sandbox.json("dag", "run", path, expect=1)
    tasks = sandbox.json("dag", "status", "d")["runs"][0]["tasks"]

    assert [task["status"] for task in tasks] == ["completed", "failed", "failed", "failed"]
    for task, why in zip(tasks[1:], ["has 1 items", "is null", "is text"], strict=True):
        assert why in task["error"]


def test_a_dag_hands_up_what_it_names_with_its_types_and_else_what_its_tasks_gave(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    made = {"id": "make", "command": WRITE, "output": "version"}
    named = document(
        "named", made, outputs={"first": "${tasks.make.outputs.list[0]}", "at": "v${tasks.make.outputs.version}"}
    )
    tasks: list[dict[str, Any]] = [
        {"id": "named", "skill": "dag", "params": {"document": named}},
        {"id": "all", "skill": "dag", "params": {"document": document("all", made)}},
        {"id": "use", "command": ["echo", "${tasks.named.outputs.first.name}"], "depends_on": "named"},
    ]
    sandbox.json("dag", "run", write_dag(tmp_path, document("parent", *tasks)))
    found = outputs_of(sandbox, "parent")

    assert {name: value for name, value in found["named"].items() if name != "run_id"} == {
        "first": {"name": "a b"},
        "at": "v1.2.3",
    }
    assert found["all"]["n"] == 4
    assert sandbox.cis("dag", "logs", "parent", "--task", "use").stdout == "a b\n"


def test_faults_of_what_is_handed_up_are_told_with_the_document(sandbox: Sandbox, tmp_path: Path) -> None:
    task = {"id": "make", "command": "true"}
    path = write_dag(tmp_path, document("d", task, outputs={"a-b": 1, "x": "${tasks.maek.outputs.v}"}))
    done = sandbox.cis("dag", "validate", path)

    assert done.returncode == 2
    assert "is not a name of an output" in done.stderr
    assert "did you mean 'make'?" in done.stderr


def test_a_parents_status_shows_the_tasks_of_its_children(sandbox: Sandbox, tmp_path: Path) -> None:
    child = document("child", {"id": "one", "command": "true"}, {"id": "two", "command": "exit 3"})
    path = write_dag(tmp_path, document("parent", {"id": "c", "skill": "dag", "params": {"document": child}}))
    sandbox.json("dag", "run", path, expect=1)
    lines = [line.split() for line in sandbox.cis("dag", "status", "parent").stdout.splitlines()]

    assert [line[:2] for line in lines if line and line[0] in ("c", "child/one", "child/two")] == [
        ["c", "failed"],
        ["child/one", "completed"],
        ["child/two", "failed"],
    ]


def test_a_parent_that_is_paused_pauses_what_is_below_it_until_it_goes_on(sandbox: Sandbox, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    first = {"id": "first", "command": f"touch {tmp_path}/begun; until test -e {gate}; do sleep 0.02; done"}
    child = document("child", first, {"id": "then", "command": "true", "depends_on": "first"})
    path = write_dag(tmp_path, document("parent", {"id": "c", "skill": "dag", "params": {"document": child}}))

    def state(dag_id: str) -> tuple[str, list[str]]:
        run = sandbox.json("dag", "status", dag_id)["runs"][0]
        return run["status"], [task["status"] for task in run["tasks"]]

    with sandbox.node():
        sandbox.json("dag", "run", path)
        wait_for((tmp_path / "begun").exists, timeout_s=30, what="the child's first task")
        sandbox.json("dag", "pause", "parent")
        gate.touch()
        wait_for(lambda: state("child")[1][0] == "completed", timeout_s=30, what="its end")
        paused = (state("parent")[0], state("child"))
        sandbox.json("dag", "resume", "parent")
        wait_for(lambda: state("parent")[0] == "completed", timeout_s=30, what="the end")

    assert paused == ("paused", ("paused", ["completed", "pending"]))
    assert state("child") == ("completed", ["completed", "completed"])


def test_values_keep_their_types_down_through_dags_eight_deep_and_up_again(sandbox: Sandbox) -> None:
    """Whatever they hold: what looks like a reference in one is never filled in."""
    values: dict[str, list[Any]] = {
        "integer": [0, -(2**53)],
        "number": [0.5, 1e300],
        "boolean": [True, False],
        "string": ["", "${params.v} $(id) `id`", "ü\n\t'\""],
        "array": [[], [1, "${tasks.c.outputs.v}", [None, {"k": []}]]],
        "object": [{}, {"a": {"b": [None, 1.5, "$${run.id}"]}}],
    }

    def nested(kind: str, depth: int) -> dict[str, Any]:
        declared = {"v": {"type": kind}}
        if depth == 0:
            leaf = {"id": "t", "command": ["true"], "env": {"V": "${params.v}"}}
            return document(f"{kind}-0", leaf, params=declared, outputs={"v": "${params.v}"})
        below = {"document": nested(kind, depth - 1), "params": {"v": "${params.v}"}}
        task = {"id": "c", "skill": "dag", "params": below}
        return document(f"{kind}-{depth}", task, params=declared, outputs={"v": "${tasks.c.outputs.v}"})

    with sandbox.node() as node:
        sent = [
            (value, node.execute({"dag": nested(kind, 8), "params": {"v": value}}).body["run_id"])
            for kind, some in values.items()
            for value in some
        ]
        ended = [(value, node.finished(run_id)) for value, run_id in sent]

    for value, run in ended:
        assert run["status"] == "completed", run["tasks"]
        handed_up = run["tasks"][0]["outputs"]["v"]
        assert (handed_up, type(handed_up)) == (value, type(value))


def test_what_is_the_authors_own_is_ignored_and_a_folder_of_the_dag_is_that_of_each_task_that_says_none(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    for name in ("of-dag", "of-defaults", "of-task"):
        (tmp_path / name).mkdir()
    tells = {"command": 'basename "$PWD"', "x-note": "of a task"}
    fields = {"cwd": "of-dag", "x-env": {"A": "1"}}
    first = document("own", {"id": "a", **tells}, {"id": "b", **tells, "cwd": "of-task"}, **fields)
    second = document("shared", {"id": "a", **tells}, **fields, defaults={"cwd": "of-defaults", "x-of-these": 1})
    for one in (first, second):
        assert sandbox.cis("dag", "run", write_dag(tmp_path, one), "--wait").returncode == 0
    said = {
        dag_id: {log["task_id"]: log["output"] for log in sandbox.json("dag", "logs", dag_id)}
        for dag_id in ("own", "shared")
    }

    assert said == {"own": {"a": "of-dag\n", "b": "of-task\n"}, "shared": {"a": "of-defaults\n"}}
