"""Parameters through the real command and over HTTP: given, kept, shown, changed, and never read as code."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

from tests.worlds.harness import Sandbox, write_dag

RELEASE: dict[str, Any] = {
    "dag_id": "release",
    "params": {
        "version": {"type": "string", "pattern": r"^\d+\.\d+$", "default": "1.0"},
        "count": {"type": "integer", "minimum": 1},
        "where": {"enum": ["staging", "production"], "default": "staging"},
        "names": {"type": "array", "default": ["a b"]},
    },
    "env": {"WHERE": "to-${params.where}"},
    "tasks": [
        {
            "id": "build",
            "command": 'echo "$CIS_PARAM_VERSION $V $WHERE $CIS_PARAM_NAMES"; echo made=$CIS_PARAM_COUNT > $CIS_OUTPUT',
            "env": {"V": "v${params.version}-${params.count}"},
        },
        {
            "id": "ship",
            "command": ["printf", "%s\n", "${params.names[0]}", "${tasks.build.outputs.made}", "${run.id}"],
            "depends_on": "build",
        },
    ],
}


def params_of(sandbox: Sandbox, dag_id: str = "release") -> Any:
    """Return what ``status`` says that the latest run was given."""
    return sandbox.json("dag", "status", dag_id)["runs"][0]["params"]


def log_of(sandbox: Sandbox, task: str, dag_id: str = "release") -> str:
    """Return what a task of the latest run wrote."""
    return sandbox.cis("dag", "logs", dag_id, "--task", task).stdout


def test_values_come_from_flags_over_a_file_over_defaults_and_are_shown(sandbox: Sandbox, tmp_path: Path) -> None:
    path = write_dag(tmp_path, RELEASE)
    (tmp_path / "given.yaml").write_text("count: 3\nnames: [from file]\nwhere: production\n")
    answer = sandbox.json(
        "dag",
        "run",
        path,
        "--params-file",
        str(tmp_path / "given.yaml"),
        "-p",
        "where=staging",
        "-p",
        'names:=["x y", 2]',
    )

    assert answer["status"] == "completed"
    assert params_of(sandbox) == {"version": "1.0", "count": 3, "where": "staging", "names": ["x y", 2]}
    assert log_of(sandbox, "build") == '1.0 v1.0-3 to-staging ["x y",2]\n'
    assert log_of(sandbox, "ship") == f"x y\n3\n{answer['run_id']}\n"
    assert "parameters: " in sandbox.cis("dag", "status", "release").stdout


def test_every_fault_of_what_is_given_is_told_at_once_and_nothing_runs(sandbox: Sandbox, tmp_path: Path) -> None:
    path = write_dag(tmp_path, RELEASE)
    done = sandbox.cis("dag", "run", path, "-p", "version=new", "-p", "cuont=1", "--json")
    checked = sandbox.cis("dag", "validate", path, "-p", "count=0")

    assert (done.returncode, checked.returncode) == (2, 2)
    faults = {fault["place"]: fault["message"] for fault in json.loads(done.stdout)["error"]["faults"]}
    assert set(faults) == {"params.cuont", "params.version", "params.count"}
    assert "did you mean 'count'?" in faults["params.cuont"]
    assert "params.count" in checked.stderr
    assert sandbox.json("dag", "list") == []
    assert sandbox.json("dag", "validate", path, "-p", "count=2")["params"]["count"] == 2


def test_a_rerun_has_the_same_values_unless_it_is_told_others(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.json("dag", "run", write_dag(tmp_path, RELEASE), "-p", "count=3", "-p", "version=2.0")
    sandbox.json("dag", "rerun", "release")
    same = params_of(sandbox)
    sandbox.json("dag", "rerun", "release", "-p", "count=4")

    assert (same["count"], same["version"]) == (3, "2.0")
    assert (params_of(sandbox)["count"], params_of(sandbox)["version"]) == (4, "2.0")
    assert log_of(sandbox, "ship").splitlines()[1] == "4"


def test_from_failed_with_another_value_runs_what_uses_it_and_keeps_the_rest(sandbox: Sandbox, tmp_path: Path) -> None:
    tasks = [
        {"id": "kept", "command": "echo kept"},
        {"id": "uses", "command": 'echo "$CIS_PARAM_CODE"'},
        {"id": "after", "command": "echo after", "depends_on": "uses"},
        {"id": "fails", "command": ["sh", "-c", 'exit "$1"', "sh", "${params.code}"], "depends_on": ["kept", "after"]},
    ]
    path = write_dag(tmp_path, {"dag_id": "d", "params": {"code": {"type": "integer"}}, "tasks": tasks})
    sandbox.json("dag", "run", path, "-p", "code=3", expect=1)
    again = sandbox.json("dag", "rerun", "d", "--from-failed", "-p", "code=0")
    attempts = {task["id"]: task["attempts"] for task in sandbox.json("dag", "status", "d")["runs"][0]["tasks"]}

    assert again["status"] == "completed"
    assert attempts == {"kept": 0, "uses": 1, "after": 1, "fails": 1}


def test_the_same_key_with_other_values_is_a_conflict(sandbox: Sandbox, tmp_path: Path) -> None:
    path = write_dag(tmp_path, RELEASE)
    first = sandbox.json("dag", "run", path, "-p", "count=3", "--idempotency-key", "k")
    same = sandbox.json("dag", "run", path, "-p", "count:=3", "--idempotency-key", "k")
    other = sandbox.cis("dag", "run", path, "-p", "count=4", "--idempotency-key", "k")

    assert same["run_id"] == first["run_id"]
    assert other.returncode == 4
    assert "parameters" in other.stderr


def test_over_http_a_document_or_a_stored_dag_is_given_values(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.json("dag", "save", write_dag(tmp_path, RELEASE))
    with sandbox.node() as node:
        key = {"Idempotency-Key": "k"}
        by_id = node.execute({"dag": "release", "params": {"count": 7}}, **key)
        written = node.execute({"dag": {**RELEASE, "dag_id": "written"}, "params": {"count": 8, "names": ["n"]}})
        conflict = node.execute({"dag": "release", "params": {"count": 8}}, **key)
        missing = node.execute(RELEASE)
        unknown = node.execute({"dag": "nothing", "params": {}})
        runs = [node.finished(answer.body["run_id"]) for answer in (by_id, written)]
        again = node.call("POST", f"/api/v1/runs/{by_id.body['run_id']}/rerun", body={"params": {"count": 9}})
        rerun = node.finished(again.body["run_id"])

    assert [answer.status for answer in (by_id, written, conflict, missing, unknown)] == [202, 202, 409, 422, 404]
    assert [run["status"] for run in runs] == ["completed"] * 2
    assert [run["params"]["count"] for run in (*runs, rerun)] == [7, 8, 9]
    assert "is required" in missing.body["errors"][0]["message"]


def test_a_dag_as_a_task_is_given_values_with_their_types(sandbox: Sandbox, tmp_path: Path) -> None:
    child = {
        "dag_id": "child",
        "params": {"n": {"type": "integer"}, "list": {"type": "array"}, "word": {"default": "own"}},
        "tasks": [{"id": "t", "command": ["echo", "${params.n}", "${params.list}", "${params.word}"]}],
    }
    parent = {
        "dag_id": "parent",
        "params": {"n": {"type": "integer"}, "list": {"type": "array"}},
        "tasks": [
            {
                "id": "c",
                "skill": "dag",
                "params": {"document": child, "params": {"n": "${params.n}", "list": "${params.list}"}},
            }
        ],
    }
    sandbox.json("dag", "run", write_dag(tmp_path, parent), "-p", "n=5", "-p", 'list:=["${params.n}"]')
    short = write_dag(tmp_path, {**parent, "tasks": [{"id": "c", "skill": "dag", "params": {"document": child}}]})
    refused = sandbox.cis("dag", "validate", short)

    assert params_of(sandbox, "child") == {"n": 5, "list": ["${params.n}"], "word": "own"}
    assert log_of(sandbox, "t", "child") == '5 ["${params.n}"] own\n'
    assert refused.returncode == 2
    assert "tasks[0].params.params.n" in refused.stderr


def test_a_value_is_handed_over_byte_by_byte_and_changes_no_command(sandbox: Sandbox, tmp_path: Path) -> None:
    """As an argument, in the environment and in a longer string; whatever it holds."""
    chance = random.Random(20261201)  # noqa: S311 - not a secret
    pieces = [
        "$(id)",
        "`id`",
        "${params.v}",
        "${tasks.a.outputs.x}",
        "$${",
        "';",
        '"',
        "\\",
        "\n",
        "\t",
        "ü",
        "\x1b[0m",
        "-c",
        " ",
        "*",
    ]
    values = ["".join(chance.choice(pieces) for _ in range(chance.randint(0, 12))) for _ in range(24)]
    show = "import json,os,sys; json.dump([sys.argv[1:], os.environ['V'], os.environ['CIS_PARAM_V']], open(sys.argv[1], 'w'))"
    tasks = [
        {
            "id": "show",
            "command": [sys.executable, "-c", show, "${params.file}", "${params.v}", "<${params.v}>"],
            "env": {"V": "${params.v}"},
        }
    ]
    given = {"file": {"type": "string"}, "v": {"type": "string"}}
    path = write_dag(tmp_path, {"dag_id": "bytes", "params": given, "tasks": tasks})
    with sandbox.node() as node:
        document = json.loads(Path(path).read_text())
        for number, value in enumerate(values):
            file = str(tmp_path / f"{number}.json")
            answer = node.execute({"dag": document, "params": {"file": file, "v": value}})
            assert node.finished(answer.body["run_id"])["status"] == "completed"
            assert json.loads(Path(file).read_text()) == [[file, value, f"<{value}>"], value, value]


def test_a_value_too_long_for_a_variable_has_none_and_fails_only_where_it_is_put_into_one(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    tasks = [
        {"id": "fine", "command": 'echo "${CIS_PARAM_TEXT-none}"'},
        {"id": "long", "command": "true", "env": {"V": "${params.text}"}},
        {"id": "by-stdin", "command": "wc -c | tr -d ' '", "stdin": "${params.text}"},
    ]
    (tmp_path / "given.json").write_text(json.dumps({"text": "x" * 1_000_000}))
    path = write_dag(tmp_path, {"dag_id": "d", "params": {"text": {"type": "string"}}, "tasks": tasks})
    sandbox.json("dag", "run", path, "--params-file", str(tmp_path / "given.json"), expect=1)
    found = {task["id"]: task for task in sandbox.json("dag", "status", "d")["runs"][0]["tasks"]}

    assert (found["fine"]["status"], found["long"]["status"]) == ("completed", "failed")
    assert log_of(sandbox, "fine", "d") == "none\n"
    assert "the variable V" in found["long"]["error"]
    assert "stdin" in found["long"]["error"]
    assert found["by-stdin"]["status"] == "completed"
    assert log_of(sandbox, "by-stdin", "d") == "1000000\n"
