"""What is longer than the system takes for a new program: warned of beforehand, and not tried in vain."""

from __future__ import annotations

from pathlib import Path

from tests.worlds.harness import Sandbox, write_dag

LONG = "x" * 200_000


def test_validate_warns_of_a_text_that_no_program_can_be_given(sandbox: Sandbox, tmp_path: Path) -> None:
    tasks = [
        {"id": "text", "command": f": {LONG}"},
        {"id": "skill", "skill": "shell", "params": {"command": f": {LONG}"}},
        {"id": "word", "command": ["echo", LONG]},
        {"id": "variable", "command": "echo", "env": {"V": LONG}},
        {"id": "as-a-file", "command": f"x = '{LONG}'", "shell": "python3"},
        {"id": "by-stdin", "command": ["wc", "-c"], "stdin": LONG},
        {"id": "short", "command": f": {LONG[:130_000]}"},
    ]
    handlers = {"failure": {"command": f": {LONG}"}}
    path = write_dag(tmp_path, {"dag_id": "d", "env": {"W": LONG}, "tasks": tasks, "handlers": handlers})
    said = sandbox.json("dag", "validate", path)["warnings"]

    assert [warning.partition(" has ")[0] for warning in said] == [
        "env.W",
        "task 'text': its command",
        "task 'skill': its command",
        "task 'word': argument 1 of its command",
        "task 'variable': env.V",
        "task 'handlers.failure': its command",
    ]
    assert "195 KiB" in said[0]
    assert "by stdin, or in a file" in said[0]


def test_what_is_too_long_to_start_is_not_tried_again_and_says_so(sandbox: Sandbox, tmp_path: Path) -> None:
    again = {"max_retries": 2, "retry_delay": 0}
    tasks = [
        {"id": "text", "command": f": {LONG}", **again},
        {"id": "lasting", "command": f": {LONG}", "on_lost": "adopt", **again},
        {"id": "together", "command": ["true", *["x" * 1000] * 10_000], **again},
        {"id": "makes", "command": "head -c 200000 /dev/zero | tr '\\0' a", "output": "v"},
        {"id": "filled", "command": "true", "env": {"V": "${tasks.makes.outputs.v}"}, "depends_on": ["makes"], **again},
        {"id": "missing", "command": ["/no/such/program"], **again},
    ]
    sandbox.cis("dag", "run", write_dag(tmp_path, {"dag_id": "d", "tasks": tasks}))
    ended = {task["id"]: task for task in sandbox.json("dag", "status", "d")["runs"][0]["tasks"]}

    assert {name: task["attempts"] for name, task in ended.items()} == {
        **dict.fromkeys(ended, 1),
        "missing": 3,
    }
    for name in ("text", "lasting", "together", "filled"):
        assert ended[name]["status"] == "failed"
        assert "by stdin or in a file (it is not tried again)" in ended[name]["error"]
