"""Conditions and trigger rules, through the real command and over HTTP, on both stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.worlds.cluster import befriend, ended, make_nodes, running
from tests.worlds.harness import Sandbox, write_dag

SAYS = 'printf "n=87\\nwhere=eu\\n" >> "$CIS_OUTPUT"'
JSON = """echo '{"files": ["a.csv", "b.txt"], "ready": true, "n": 3}' > "$CIS_OUTPUT" """


def shown(sandbox: Sandbox, dag_id: str = "conditions") -> dict[str, Any]:
    """Return the tasks of the latest run as ``status`` shows them, by their ids."""
    return {task["id"]: task for task in sandbox.json("dag", "status", dag_id)["runs"][0]["tasks"]}


def document(*tasks: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return a document of tasks that have a command each."""
    return {"dag_id": "conditions", "tasks": [{"command": "true", **task} for task in tasks], **fields}


def refused(sandbox: Sandbox, folder: Path, plain: dict[str, Any]) -> str:
    """Return what is said of a document that is refused."""
    done = sandbox.cis("dag", "run", write_dag(folder, plain), "--wait")
    assert done.returncode == 2, done.stdout
    return done.stderr


def test_a_condition_sees_parameters_outputs_the_run_and_its_node_and_what_is_false_is_skipped(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    tasks: list[dict[str, Any]] = [
        {"id": "test-it", "command": SAYS},
        {"id": "plan", "command": JSON},
        {"id": "bare"},
        {"id": "high", "when": 'params.env == "production" && int(tasks["test-it"].outputs.n) > 80', "depends_on": "test-it"},
        {"id": "low", "when": 'int(tasks["test-it"].outputs.n) < 80', "depends_on": "test-it", "command": "false"},
        {"id": "typed", "when": "tasks.plan.outputs.ready && tasks.plan.outputs.n == 3 && tasks.plan.outputs.files.exists(f, f.endsWith('.csv'))", "depends_on": "plan"},
        {"id": "has", "when": "!has(tasks.bare.outputs.x) && tasks.bare.status == 'completed'", "depends_on": "bare"},
        {"id": "where", "when": "run.dag_id == 'conditions' && run.trigger == 'manual' && run.scheduled_at == null && node.os == 'linux' && size(node.id) > 0"},
        {"id": "after", "depends_on": ["low", "high"], "command": "false"},
        {"id": "last", "depends_on": "after", "command": "false"},
    ]  # fmt: skip
    plain = document(*tasks, params={"env": {"default": "production"}})
    done = sandbox.json("dag", "run", write_dag(tmp_path, plain), "--wait")
    found = shown(sandbox)

    assert (done["status"], done["error"]) == ("completed", None)
    assert {name: (task["status"], task["skip_reason"], task["skipped_because"]) for name, task in found.items()} == {
        **dict.fromkeys(("test-it", "plan", "bare", "high", "typed", "has", "where"), ("completed", None, None)),
        "low": ("skipped", "condition", None),
        "after": ("skipped", "upstream_skipped", "low"),
        "last": ("skipped", "upstream_skipped", "low"),
    }
    assert (found["low"]["attempts"], found["high"]["attempts"]) == (0, 1)
    assert "skipped by its condition" in sandbox.cis("dag", "status", "conditions").stdout

    # In staging `high` is not to run; `--from-failed` has nothing to do, since nothing failed.
    assert sandbox.cis("dag", "rerun", "conditions", "--from-failed").returncode == 4
    again = sandbox.json("dag", "rerun", "conditions", "-p", "env=staging", "--wait")
    assert again["status"] == "completed"
    assert shown(sandbox)["high"]["skip_reason"] == "condition"


def test_a_condition_that_has_no_value_fails_its_task_before_it_starts_and_a_rerun_mends_it(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    mended = tmp_path / "mended"
    tasks: list[dict[str, Any]] = [
        {"id": "a", "command": f'test -e {mended} && echo n=5 >> "$CIS_OUTPUT" || true'},
        {"id": "b", "when": "int(tasks.a.outputs.n) > 3", "depends_on": "a", "max_retries": 3},
        {"id": "allowed", "when": "tasks.a.outputs.n", "depends_on": "a", "allow_failure": True},
        {"id": "c", "depends_on": "b"},
    ]
    failed = sandbox.cis("dag", "run", write_dag(tmp_path, document(*tasks)), "--wait")
    found = shown(sandbox)

    assert failed.returncode == 1
    assert (found["b"]["status"], found["b"]["attempts"]) == ("failed", 0)
    assert "its condition failed: column" in found["b"]["error"]
    assert "there is no 'n' (there is: nothing): int(tasks.a.outputs^.n) > 3" in found["b"]["error"]
    assert (found["c"]["skip_reason"], found["c"]["skipped_because"]) == ("upstream_failed", "b")
    assert found["allowed"]["failure_allowed"]
    assert "b: failed (its condition failed" in failed.stderr
    looked = sandbox.cis("dag", "logs", "conditions", "--failed")
    followed = sandbox.cis("dag", "logs", "conditions", "--follow")
    for told in (looked, followed):
        assert "==> b <==\nits condition failed: column 20" in told.stderr

    mended.touch()
    again = sandbox.json("dag", "rerun", "conditions", "--task", "a", "--wait")
    found = shown(sandbox)
    assert (again["status"], found["b"]["status"], found["c"]["status"]) == ("completed",) * 3


def test_what_no_condition_may_say_is_refused_with_its_place_before_anything_runs(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    tasks: list[dict[str, Any]] = [
        {"id": "a", "when": "tasks.b.status == 'completed'"},
        {"id": "b", "when": "tasks.b.status == 'completed'", "depends_on": "a"},
        {"id": "build-x", "when": "parms.env == 1"},
        {"id": "d", "when": "tasks.build.status == 'failed'", "depends_on": "build-x"},
        {"id": "e", "when": "params.evn == 'x' && ("},
        {"id": "f", "when": "params.evn == 'x'"},
        {"id": "g", "when": "true || " * 1280 + "true"},
        {"id": "h", "when": "size(params.env)"},
        {"id": "i", "when": "params.env > 3"},
        {"id": "j", "when": "1 / 0 == 1"},
        {"id": "k", "when": "item == 'x'"},
        {"id": "l", "when": "tasks.a.stats == 'x'", "depends_on": "a"},
        {"id": "m", "when": "${params.env} == 'x'"},
        {"id": "n", "when": "(" * 40 + "true" + ")" * 40},
        {"id": "o", "when": True},
        {"id": "p", "when": "matrix.arch == 'x'", "matrix": {"os": ["linux"]}},
    ]
    handlers = {"exit": {"command": "true", "when": "params.env == 'x'"}}
    said = refused(sandbox, tmp_path, document(*tasks, params={"env": {"default": "x"}}, handlers=handlers))

    for place, words in {
        "tasks[0].when": "column 8: 'b' does not come before this task; add it to depends_on: tasks.b^.status ==",
        "tasks[1].when": "'b' is the task itself, which has neither before it ran",
        "tasks[2].when": "there is no 'parms'; did you mean 'params'?: parms^.env == 1",
        "tasks[3].when": "there is no task 'build'; an id with \"-\" or \".\" is written tasks['build-x']",
        "tasks[4].when": "column 23: the expression ends where a value is to follow: params.evn == 'x' && (^",
        "tasks[5].when": "params.evn names nothing; did you mean 'env'?",
        "tasks[6].when": "has 10,244 characters; 4,096 at most",
        "tasks[7].when": "a condition is true or false, and this is an int",
        "tasks[8].when": "> does not take a string and an int; int(…) and double(…) make numbers of strings",
        "tasks[9].when": "this fails whatever happens: division by zero",
        "tasks[10].when": "item is known in a task with foreach alone",
        "tasks[11].when": "a task has no 'stats' here; did you mean 'status'?",
        "tasks[12].when": "column 1: '$' has no place here: names are written without ${…}",
        "tasks[13].when": "the expression is nested more than 32 deep",
        "tasks[14].when": 'must be a string, as "true"',
        "tasks[15].when": "the matrix has no name 'arch'; known: os",
        "handlers.exit.when": "is not a field of a handler: its name says when it runs",
    }.items():
        assert any(place in line and words in line for line in said.splitlines()), f"{place}: {words}\n{said}"


def test_an_expression_that_costs_without_bound_fails_its_task_and_the_rest_runs(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    many = f'{{"many": {json.dumps(list(range(20_000)))}}}'
    (tmp_path / "many.json").write_text(many)
    tasks: list[dict[str, Any]] = [
        {"id": "a", "command": f'cat {tmp_path}/many.json > "$CIS_OUTPUT"'},
        {"id": "cost", "when": "tasks.a.outputs.many.map(x, tasks.a.outputs.many.map(y, x * y)).size() > 1", "depends_on": "a"},
        {"id": "grow", "when": "tasks.a.outputs.many.map(x, tasks.a.outputs.many + tasks.a.outputs.many).size() > 1", "depends_on": "a"},
        {"id": "fine", "when": "tasks.a.outputs.many.exists(x, x == 19999)", "depends_on": "a"},
    ]  # fmt: skip
    sandbox.cis("dag", "run", write_dag(tmp_path, document(*tasks)), "--wait")
    found = shown(sandbox)

    assert "it takes more than 250,000 steps; have a task work it out" in found["cost"]["error"]
    assert "it makes strings and lists of more than 1,048,576" in found["grow"]["error"]
    assert {name: task["status"] for name, task in found.items()} == {
        "a": "completed",
        "cost": "failed",
        "grow": "failed",
        "fine": "completed",
    }


def test_validate_shows_conditions_and_warns_of_those_that_never_hold(sandbox: Sandbox, tmp_path: Path) -> None:
    tasks: list[dict[str, Any]] = [
        {"id": "a", "when": "params.on"},
        {"id": "b", "when": "params.on && 1 > 2"},
        {"id": "c", "when": "tasks.a.status == 'success'", "depends_on": "a"},
        {"id": "d", "when": "!(1 > 2)"},
    ]
    path = write_dag(tmp_path, document(*tasks, params={"on": {"type": "boolean"}}))
    done, checked = sandbox.cis("dag", "validate", path), sandbox.json("dag", "validate", path)

    assert "  a runs when params.on\n" in done.stdout
    assert checked["conditions"] == {task["id"]: task["when"] for task in tasks}
    warned = [one for one in checked["warnings"] if "when is" in one]
    assert [one.partition(":")[0] for one in warned] == ["task 'b'", "task 'c'", "task 'd'"]
    assert "always false, so the task never runs" in warned[0]
    assert "has the status 'success' (cancelled, completed, failed, skipped)" in warned[1]
    assert "always true" in warned[2]


def test_everything_may_be_skipped_a_dag_as_a_task_has_conditions_and_a_task_of_it_is_judged_by_its_own(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    child = {
        "dag_id": "below",
        "tasks": [
            {"id": "x", "command": "echo n=1 >> $CIS_OUTPUT", "when": "run.trigger == 'dag'"},
            {"id": "y", "command": "false", "when": "tasks.x.outputs.n == '2'", "depends_on": "x"},
        ],
    }
    tasks: list[dict[str, Any]] = [
        {"id": "off", "when": "params.n > 1"},
        {"id": "child", "when": "params.n == 1"},
        {"id": "never", "when": "params.n == 2"},
    ]
    for one in tasks[1:]:
        one |= {"skill": "dag", "params": {"document": child}}
    tasks[0]["command"] = "true"
    plain = {"dag_id": "conditions", "params": {"n": {"type": "integer", "default": 1}}, "tasks": tasks}
    done = sandbox.json("dag", "run", write_dag(tmp_path, plain), "--wait")
    found = shown(sandbox)

    assert done["status"] == "completed"
    assert [found[name]["status"] for name in ("off", "child", "never")] == ["skipped", "completed", "skipped"]
    assert {name: task["skip_reason"] for name, task in shown(sandbox, "below").items()} == {
        "x": None,
        "y": "condition",
    }

    alone = document({"id": "a", "when": "1 > 2"}, {"id": "b", "depends_on": "a"})
    assert sandbox.json("dag", "run", write_dag(tmp_path, alone), "--wait")["status"] == "completed"
    assert {task["status"] for task in shown(sandbox).values()} == {"skipped"}


def test_a_condition_that_names_the_item_is_judged_for_each_instance_and_any_other_once_for_all(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    tasks: list[dict[str, Any]] = [
        {"id": "find", "command": """echo '{"files": ["a.csv", "b.txt", "c.csv"]}' > "$CIS_OUTPUT" """},
        {"id": "none"},
        {
            "id": "each",
            "foreach": "${tasks.find.outputs.files}",
            "when": "item.endsWith('.csv') && size(tasks.find.outputs.files) == 3",
            "command": 'echo "name=$NAME" >> "$CIS_OUTPUT"',
            "env": {"NAME": "${item}"},
            "max_parallel": 1,
            "depends_on": "find",
        },
        {"id": "guarded", "foreach": "${tasks.none.outputs.x}", "when": "has(tasks.none.outputs.x)", "depends_on": "none"},
        {"id": "grid", "matrix": {"n": [1, 2], "os": ["linux", "mac"]}, "when": "matrix.os == 'linux' && matrix.n > 5"},
        {"id": "wrong", "foreach": [1, "x"], "when": "item > 0"},
        {
            "id": "all",
            "when": "tasks.each.outputs.name == ['a.csv', null, 'c.csv'] && tasks.each.instances.filter(i, i.status == 'skipped').size() == 1",
            "depends_on": "each",
        },
        {"id": "after", "depends_on": "grid", "trigger_rule": "none_failed"},
    ]  # fmt: skip
    sandbox.json("dag", "run", write_dag(tmp_path, document(*tasks)), "--wait", expect=1)
    found = shown(sandbox)

    assert {name: (task["status"], task["skip_reason"]) for name, task in found.items()} == {
        **dict.fromkeys(
            ("find", "none", "each", "each[a.csv]", "each[c.csv]", "wrong[1]", "all", "after"), ("completed", None)
        ),
        "each[b.txt]": ("skipped", "condition"),
        "guarded": ("skipped", "condition"),
        "grid": ("skipped", "condition"),
        **{f"grid[{n},{os}]": ("skipped", "condition") for os in ("linux", "mac") for n in (1, 2)},
        "wrong": ("failed", None),
        "wrong[x]": ("failed", None),
    }
    assert "> does not take a string and an int" in found["wrong[x]"]["error"]


@pytest.mark.parametrize("rule", ["one_failed", "all_done"])
def test_a_trigger_rule_decides_whether_a_task_runs_after_a_failure(
    sandbox: Sandbox, tmp_path: Path, rule: str
) -> None:
    gate = tmp_path / "gate"
    tasks: list[dict[str, Any]] = [
        {"id": "bad", "command": "exit 3"},
        {"id": "slow", "command": f"until test -e {gate}; do sleep 0.05; done"},
        {"id": "off", "when": "1 > 2"},
        # What fires at once opens the gate that the rest waits for.
        {"id": "mend", "command": f"touch {gate}", "trigger_rule": "one_failed", "depends_on": ["bad", "slow"]},
        {"id": "asked", "trigger_rule": rule, "depends_on": ["bad", "slow", "off"], "when": "tasks.bad.status == 'failed'"},
        {"id": "no_failure", "trigger_rule": "one_failed", "depends_on": ["slow", "off"]},
        {"id": "after", "depends_on": "no_failure"},
        {"id": "plain", "depends_on": ["bad", "off"]},
    ]  # fmt: skip
    sandbox.json("dag", "run", write_dag(tmp_path, document(*tasks)), "--wait", expect=1)
    found = shown(sandbox)

    assert {name: (task["status"], task["skip_reason"], task["skipped_because"]) for name, task in found.items()} == {
        "bad": ("failed", None, None),
        "slow": ("completed", None, None),
        "off": ("skipped", "condition", None),
        "mend": ("completed", None, None),
        "asked": ("completed", None, None),
        "no_failure": ("skipped", "rule", None),
        "after": ("skipped", "upstream_skipped", "no_failure"),
        "plain": ("skipped", "upstream_failed", "bad"),
    }


def test_a_peer_that_executes_a_run_judges_its_conditions_and_reports_what_they_came_to(tmp_path: Path) -> None:
    one, two = make_nodes(tmp_path, 2)
    befriend(one, two)
    tasks: list[dict[str, Any]] = [
        {"id": "here", "when": "node.id == 'node-2'"},
        {"id": "there", "when": "node.id == 'node-1'"},
        {"id": "wrong", "when": "tasks.here.outputs.n == '1'", "depends_on": "here"},
        {"id": "after", "trigger_rule": "all_done", "depends_on": ["wrong", "there"]},
    ]
    with running(one, two):
        done = ended(one, one.api.execute(document(*tasks, target_node="node-2")).body["run_id"])

    found = {task["id"]: task for task in done["tasks"]}
    assert {name: (task["status"], task["skip_reason"]) for name, task in found.items()} == {
        "here": ("completed", None),
        "there": ("skipped", "condition"),
        "wrong": ("failed", None),
        "after": ("completed", None),
    }
    assert "its condition failed" in found["wrong"]["error"]


def test_a_rerun_judges_again_what_uses_a_parameter_that_changed_and_repeats_a_task_whose_rule_asks_for_no_success(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    tasks = [
        {"id": "bad", "command": "exit 3"},
        {"id": "on", "when": "params.on"},
        {"id": "other", "when": "run.id == ''"},
        {"id": "mend", "depends_on": "bad", "trigger_rule": "one_failed"},
        {"id": "plain", "depends_on": "bad"},
    ]
    plain = document(*tasks, params={"on": {"type": "boolean", "default": False}})
    sandbox.json("dag", "run", write_dag(tmp_path, plain), "--wait", expect=1)
    assert shown(sandbox)["on"]["status"] == "skipped"

    again = sandbox.json("dag", "rerun", "conditions", "--from-failed", "-p", "on=true", "--wait", expect=1)
    assert again["again"] == {
        "bad": "it failed",
        "on": "it uses the parameter on",
        "mend": "bad before it runs again",
        "plain": "it was skipped",
    }
    assert (shown(sandbox)["on"]["status"], shown(sandbox)["other"]["skip_reason"]) == ("completed", "condition")

    alone = sandbox.json("dag", "rerun", "conditions", "--task", "mend", "--wait", expect=1)
    assert alone["again"] == {"mend": "it was asked for"}
    assert shown(sandbox)["mend"]["status"] == "completed"
    refused = sandbox.cis("dag", "rerun", "conditions", "--task", "plain")
    assert refused.returncode == 4
    assert "which 'plain' needs, is failed" in refused.stderr
