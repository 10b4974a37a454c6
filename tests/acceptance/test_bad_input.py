"""Bad input from outside: a clear answer that names the place and the mend, and nothing else disturbed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.worlds.harness import Sandbox, write_dag

GOOD = {"dag_id": "good", "tasks": [{"id": "t", "command": "true"}]}
DEEP = '{"a":' * 5000
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(12)
)
CYCLE = json.dumps(
    {
        "dag_id": "c",
        "tasks": [{"id": f"t{n}", "command": "x", "depends_on": [f"t{(n + 1) % 10_000}"]} for n in range(10_000)],
    }
)


def one_task(**fields: Any) -> str:
    """Return a document of one task, or of one with other fields."""
    return json.dumps({"dag_id": "d", "tasks": [{"id": "t", "command": "true", **fields}]})


CASES = {
    "empty": (b"", 400, "is empty"),
    "binary": (b"\x7fELF\x00\x01", 400, "binary"),
    "no mapping": (b"[1, 2]", 400, "is a list"),
    "not utf-8": (b"dag_id: \xff", 400, "UTF-8"),
    "deep": (DEEP.encode(), 422, "nested"),
    "aliases": (BOMB.encode(), 422, "blow it up"),
    "doubled key": (b"dag_id: a\ndag_id: b\ntasks: []", 422, "twice"),
    "nan": (b"dag_id: a\nmax_parallel: .nan\ntasks: [{id: t, command: x}]", 422, "not a finite number"),
    "cycle of one": (one_task(depends_on=["t"]).encode(), 422, "depends on itself"),
    "long cycle": (CYCLE.encode(), 422, "10,000 tasks"),
    "unknown field": (one_task(depend_on=[]).encode(), 422, "depends_on"),
    "unknown task": (one_task(depends_on=["u"]).encode(), 422, "no task 'u'"),
    "id with slash": (one_task(id="a/b").encode(), 422, "tasks[0].id"),
    "id with dots": (one_task(id="a..b").encode(), 422, "tasks[0].id"),
    "id with NUL": (one_task(id="a\0b").encode(), 422, "tasks[0].id"),
    "id with newline": (one_task(id="a\nb").encode(), 422, "tasks[0].id"),
    "id too long": (one_task(id="x" * 129).encode(), 422, "129 characters"),
    "both": (one_task(skill="http").encode(), 422, "both command and skill"),
    "unknown skill": (json.dumps({"dag_id": "d", "tasks": [{"id": "t", "skill": "htpp"}]}).encode(), 422, "'http'"),
    "bad params": (json.dumps({"dag_id": "d", "tasks": [{"id": "t", "skill": "http"}]}).encode(), 422, "url"),
    "two projects": (
        json.dumps(
            {
                "dag_id": "d",
                "tasks": [{"id": n, "command": "true", "env": {"PROJECT_ID": n}} for n in ("a", "b")],
            }
        ).encode(),
        409,
        "PROJECT_ID",
    ),
    "unknown node": (json.dumps({**GOOD, "target_node": "elsewhere"}).encode(), 422, "elsewhere"),
    "shell reference": (one_task(command="echo ${tasks.t.outputs.x}").encode(), 422, "env"),
}


def test_every_bad_document_is_refused_over_http_and_the_node_goes_on(sandbox: Sandbox) -> None:
    with sandbox.node() as node:
        answers = {
            name: node.call("POST", "/api/v1/dag/execute", body=body, headers={"Content-Type": "application/yaml"})
            for name, (body, _, _) in CASES.items()
        }
        large = node.call("POST", "/api/v1/dag/execute", body=b" " * ((16 << 20) + 1))
        good = node.finished(node.execute(GOOD).body["run_id"])

    for name, (_, status, words) in CASES.items():
        answer = answers[name]
        assert answer.status == status, (name, answer)
        assert answer.headers.get("content-type", "").startswith("application/problem+json"), name
        assert words in json.dumps(answer.body, ensure_ascii=False), (name, answer.body)
        assert answer.body["code"], name
    assert large.status == 413
    assert good["status"] == "completed"
    assert sandbox.rows("SELECT DISTINCT dag_id FROM dag_runs") == [("good",)]


@pytest.mark.parametrize("name", CASES)
def test_every_bad_document_is_refused_by_the_shell(name: str, sandbox: Sandbox, tmp_path: Path) -> None:
    body, status, words = CASES[name]
    path = tmp_path / "bad.yaml"
    path.write_bytes(body)
    done = sandbox.cis("dag", "run", str(path))

    assert done.returncode == {400: 2, 422: 5 if name == "unknown node" else 2, 409: 4}[status], done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"command": "true", "cwd": "/nowhere/at/all"}, "cwd /nowhere/at/all does not exist"),
        ({"command": ["/nowhere/program"]}, "'/nowhere/program' does not exist"),
        ({"command": ["no-such-program-here"]}, "was not found in PATH"),
        ({"command": ["/etc/passwd"]}, "may not be executed"),
        ({"command": "echo nonsense >> $CIS_OUTPUT"}, "CIS_OUTPUT line 1 is not name=value"),
    ],
)
def test_a_task_that_cannot_be_started_says_why_and_the_others_run(
    task: dict[str, Any], words: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    dag = {"dag_id": "d", "tasks": [{"id": "bad", **task}, {"id": "good", "command": "true"}]}
    sandbox.json("dag", "run", write_dag(tmp_path, dag), expect=1)
    tasks = {one["id"]: one for one in sandbox.json("dag", "status", "d")["runs"][0]["tasks"]}

    assert words in tasks["bad"]["error"]
    assert (tasks["bad"]["status"], tasks["good"]["status"]) == ("failed", "completed")


def test_output_of_a_gigabyte_is_bounded_in_the_database_and_the_log_names_the_cap(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    dag = {"dag_id": "loud", "tasks": [{"id": "t", "command": "head -c 1000000000 /dev/zero | tr '\\0' x"}]}
    sandbox.home.mkdir(mode=0o700)
    (sandbox.home / "cis.toml").write_text('[worker]\nmax_log = "4MiB"\n')
    sandbox.json("dag", "run", write_dag(tmp_path, dag))
    tail, written = sandbox.rows("SELECT stdout_tail, stdout_bytes FROM task_executions")[0]
    (log,) = (sandbox.home / "logs").glob("*/0.1.out")

    assert len(tail) < 20_000
    assert written >= 4 << 20
    assert 4 << 20 <= log.stat().st_size < (4 << 20) + 500
    assert "max_log" in tail
    assert log.stat().st_mode & 0o777 == 0o600


def test_output_that_is_not_utf_8_is_shown_with_replacements(sandbox: Sandbox, tmp_path: Path) -> None:
    dag = {"dag_id": "odd", "tasks": [{"id": "t", "command": "printf 'a\\377b'"}]}
    sandbox.json("dag", "run", write_dag(tmp_path, dag))

    assert sandbox.json("dag", "logs", "odd")[0]["output"] == "a\ufffdb"
