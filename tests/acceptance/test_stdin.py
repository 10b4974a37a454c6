"""What a task reads from standard input, through the real command."""

from __future__ import annotations

from pathlib import Path

from tests.worlds.harness import Sandbox, write_dag

LONG = "x" * 300_000


def test_a_task_reads_a_text_with_references_or_a_file_and_else_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "in.csv").write_bytes(b"a,b\n\xff\x00")
    tasks = [
        {"id": "none", "command": "wc -c"},
        {"id": "make", "command": "cat > $CIS_OUTPUT", "stdin": "n=$(touch pwned)\n"},
        {
            "id": "text",
            "command": "cat",
            "stdin": "${params.long} ${tasks.make.outputs.n}$${params.x}",
            "depends_on": "make",
        },
        {"id": "list", "command": ["cat"], "stdin": "${params.list}", "on_lost": "adopt"},
        {"id": "file", "command": ["od", "-An", "-tx1"], "stdin": {"file": "in.csv"}, "cwd": "data"},
        {"id": "kept", "command": ["wc", "-c"], "stdin": {"file": "data/${params.name}"}, "on_lost": "adopt"},
        {"id": "python", "command": "print(input())", "shell": "python3", "stdin": "line\n"},
    ]
    params = {"long": {"default": LONG}, "list": {"type": "array", "default": [1, "a"]}, "name": {"default": "in.csv"}}
    document = {"dag_id": "reads", "params": params, "tasks": tasks}
    with sandbox.node():
        done = sandbox.cis("dag", "run", write_dag(tmp_path, document), "--wait")
    logs = {one["task_id"]: one["output"] for one in sandbox.json("dag", "logs", "reads")}

    assert done.returncode == 0, done.stderr
    assert logs["none"].strip() == "0"
    assert logs["text"] == f"{LONG} $(touch pwned)${{params.x}}"
    assert logs["list"] == '[1,"a"]'
    assert logs["file"].split() == ["61", "2c", "62", "0a", "ff", "00"]
    assert logs["kept"].strip() == "6"
    assert logs["python"] == "line\n"
    assert not (tmp_path / "pwned").exists()


def test_a_file_that_cannot_be_read_fails_its_task_and_says_which(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    tasks = [
        {"id": "gone", "command": "cat", "stdin": {"file": "gone.csv"}},
        {"id": "folder", "command": "cat", "stdin": {"file": "folder"}},
    ]
    done = sandbox.cis("dag", "run", write_dag(tmp_path, {"dag_id": "reads", "tasks": tasks}), "--wait")
    errors = {one["id"]: one["error"] for one in sandbox.json("dag", "status", "reads")["runs"][0]["tasks"]}

    assert done.returncode == 1
    assert str(tmp_path / "gone.csv") in errors["gone"]
    assert "No such file" in errors["gone"]
    assert "is not a regular file" in errors["folder"]


def test_input_that_makes_no_sense_is_refused_with_its_place(sandbox: Sandbox, tmp_path: Path) -> None:
    tasks = [
        {"id": "a", "command": "cat", "stdin": 3},
        {"id": "b", "command": "cat", "stdin": {"fil": "x"}},
        {"id": "c", "skill": "http", "params": {"url": "http://127.0.0.1"}, "stdin": "x"},
        {"id": "d", "command": ["/bin/sh", "-s"], "stdin": "echo ${params.x}"},
    ]
    params = {"x": {"default": "y"}}
    done = sandbox.cis("dag", "validate", write_dag(tmp_path, {"dag_id": "reads", "params": params, "tasks": tasks}))

    assert done.returncode == 2
    assert "tasks[0].stdin" in done.stderr
    assert "must be a string, or {file: path}, not a number" in done.stderr
    assert "did you mean 'file'?" in done.stderr
    assert "the skill 'http' has its params" in done.stderr
    assert "tasks[3].stdin" in done.stderr
