"""What reads a command that is text: ``/bin/sh -e``, another shell, or any program."""

from __future__ import annotations

from pathlib import Path

from tests.worlds.harness import Sandbox, write_dag


def test_the_first_line_that_fails_fails_the_task(sandbox: Sandbox, tmp_path: Path) -> None:
    tasks = [
        {"id": "lines", "command": "echo begun\nfalse\necho went on"},
        {"id": "skill", "skill": "shell", "params": {"command": "false\ntrue"}},
        {"id": "bash", "command": "false | true", "shell": "bash -euo pipefail"},
        {"id": "own", "command": "false\ntrue", "shell": "sh"},
        {"id": "handled", "command": "false || echo handled\nif false; then true; fi"},
    ]
    sandbox.json("dag", "run", write_dag(tmp_path, {"dag_id": "lines", "tasks": tasks}), expect=1)

    found = {task["id"]: task["status"] for task in sandbox.json("dag", "status", "lines")["runs"][0]["tasks"]}
    said = sandbox.json("dag", "logs", "lines", "--task", "lines")[0]["output"]
    assert [name for name, status in found.items() if status == "failed"] == ["lines", "skill", "bash"]
    assert said == "begun\n"


def test_any_program_reads_a_command_from_a_file_that_is_gone_afterwards(sandbox: Sandbox, tmp_path: Path) -> None:
    script = "import os, stat, sys\nprint(oct(stat.S_IMODE(os.stat(sys.argv[-1]).st_mode)), __file__ == sys.argv[-1])"
    document = {
        "dag_id": "scripts",
        "defaults": {"shell": "python3 -B"},
        "tasks": [
            {"id": "python", "command": script},
            {"id": "adopted", "command": "raise SystemExit(7)", "on_lost": "adopt"},
            {"id": "listed", "command": ["echo", "no shell"]},
            {"id": "shell", "command": "echo $0", "shell": "/bin/sh"},
            {"id": "none", "command": "x", "shell": "no-such-program"},
        ],
    }
    sandbox.json("dag", "run", write_dag(tmp_path, document), expect=1)

    tasks = {task["id"]: task for task in sandbox.json("dag", "status", "scripts")["runs"][0]["tasks"]}
    said = {log["task_id"]: log["output"] for log in sandbox.json("dag", "logs", "scripts")}
    assert said["python"] == "0o700 True\n"
    assert (tasks["adopted"]["status"], tasks["adopted"]["exit_code"]) == ("failed", 7)
    assert (said["listed"], said["shell"]) == ("no shell\n", "/bin/sh\n")
    assert "no-such-program" in tasks["none"]["error"]
    assert list((sandbox.home / "logs" / ".live").iterdir()) == []


def test_validate_warns_of_a_pipe_whose_failure_goes_unseen(sandbox: Sandbox, tmp_path: Path) -> None:
    tasks = [
        {"id": "blind", "command": "curl x | tar xz"},
        {"id": "sees", "command": "curl x | tar xz", "shell": "bash -euo pipefail"},
    ]
    (warning,) = sandbox.json("dag", "validate", write_dag(tmp_path, {"dag_id": "d", "tasks": tasks}))["warnings"]

    assert warning.startswith("task 'blind': of a pipe")
    assert "bash -euo pipefail" in warning


def test_a_shell_that_cannot_be_one_is_refused_where_it_stands(sandbox: Sandbox, tmp_path: Path) -> None:
    tasks = [
        {"id": "a", "command": ["true"], "shell": "bash"},
        {"id": "b", "skill": "http", "params": {"url": "http://x"}, "shell": "bash"},
        {"id": "c", "command": "true", "shell": "-e"},
        {"id": "d", "command": "true", "shell": "bash '"},
        {"id": "e", "command": "true", "shell": "${tasks.a.outputs.x}", "depends_on": ["a"]},
    ]
    done = sandbox.cis("dag", "validate", write_dag(tmp_path, {"dag_id": "d", "tasks": tasks}))

    assert done.returncode == 2
    for number, said in enumerate(
        [
            "goes with a command that is text",
            "the skill 'http' has none",
            "begins with an option",
            "cannot be split",
            "cannot hold",
        ]
    ):
        (line,) = [line for line in done.stderr.splitlines() if f"tasks[{number}].shell" in line]
        assert said in line
