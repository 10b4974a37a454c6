"""Where a document comes from: file and line of its faults, the directory of its tasks, and what stays there."""

from __future__ import annotations

import base64
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.worlds.harness import Sandbox, write_dag

FAULTY = """dag_id: d
tasks:
  - id: a
    command: x
  - id: b
    skill: http
    params:
      url: nowhere
      expect: {satus: 200}
  - id: c
    skill: dag
    params:
      document: {dag_id: "..", tasks: [{id: x, command: y}]}
"""


def test_a_fault_in_the_parameters_of_a_skill_is_told_with_file_and_line(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "faulty.yaml"
    path.write_text(FAULTY)

    for words in (("validate",), ("run",), ("save",)):
        done = sandbox.cis("dag", *words, str(path))
        assert done.returncode == 2
        assert f"{path}: 3 faults" in done.stderr
        assert "tasks[1].params.url (line 8)" in done.stderr
        assert "tasks[1].params.expect.satus (line 9)" in done.stderr
        assert "tasks[2].params.document.dag_id (line 13)" in done.stderr


@pytest.mark.parametrize(("source", "name"), [("- < {}", "standard input"), ("<(cat {})", "/dev/fd/")])
def test_a_document_that_can_be_read_only_once_is_told_its_lines_too(
    sandbox: Sandbox, tmp_path: Path, source: str, name: str
) -> None:
    path = tmp_path / "faulty.yaml"
    path.write_text(FAULTY)

    for word in ("validate", "run", "save"):
        command = f"{sys.executable} -m cis dag {word} {source.format(path)}"
        done = subprocess.run(
            ["bash", "-c", command], env=dict(sandbox.env), check=False, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 2
        assert done.stderr.startswith(f"cis: {name}")
        assert "tasks[1].params.expect.satus (line 9)" in done.stderr


def test_a_stored_dag_whose_skill_is_gone_names_the_skill(sandbox: Sandbox, tmp_path: Path) -> None:
    document = write_dag(tmp_path, {"dag_id": "stored", "tasks": [{"id": "a", "command": "true"}]})
    sandbox.json("dag", "save", str(document))
    with sqlite3.connect(sandbox.home / "cis.db") as database:
        database.execute(
            "UPDATE dag_definitions SET document = replace(document, ?, ?)", ('"command":"true"', '"skill":"gone"')
        )

    done = sandbox.cis("dag", "run", "stored")

    assert done.returncode == 2
    assert "tasks[0].skill: no skill 'gone'" in done.stderr


def test_the_tasks_of_a_document_from_a_descriptor_run_in_the_current_directory(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    document = write_dag(tmp_path, {"dag_id": "ps", "tasks": [{"id": "a", "command": "pwd"}]})
    here = tmp_path / "here"
    here.mkdir()
    for source in ("<(cat {document})", "/dev/stdin < {document}", "/dev/stdin < <(cat {document})"):
        command = f"{sys.executable} -m cis dag run {source.format(document=document)}"
        subprocess.run(["bash", "-c", command], cwd=here, env=dict(sandbox.env), check=True, capture_output=True)
        (log,) = sandbox.json("dag", "logs", "ps")
        assert log["output"] == f"{here}\n", source


def test_what_a_dag_for_another_node_names_beside_its_document_is_warned_of(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "in.csv").touch()
    (tmp_path / "test").mkdir()
    tasks = [
        {"id": "listed", "command": ["python3", "train.py", "--out", "made.txt"]},
        {"id": "text", "command": "sort <data/in.csv >sorted.csv; make test"},
        {"id": "inside", "command": "cat in.csv", "cwd": "data"},
        {"id": "called", "skill": "python", "params": {"callable": "train:main"}},
        {"id": "whole", "command": f"cat {tmp_path}/train.py", "cwd": "/"},
    ]
    away = write_dag(tmp_path, {"dag_id": "away", "target_node": "node-2", "tasks": tasks})
    key = base64.b64encode(Ed25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
    sandbox.json("node", "trust", "node-2", key, "--url", "http://127.0.0.1:9")
    said = sandbox.json("dag", "validate", away)["warnings"]
    answer = sandbox.json("dag", "run", away)
    at_home = sandbox.json("dag", "validate", write_dag(tmp_path, {"dag_id": "here", "tasks": tasks}))["warnings"]

    assert [warning.partition(",")[0].partition(":")[0] for warning in said] == [
        "task 'inside'",
        "task 'listed' names train.py",
        "task 'text' names data/in.csv",
        "task 'inside' names in.csv",
    ]
    assert answer["warnings"] == said
    assert at_home == []


def test_a_name_that_no_output_can_have_is_told_as_that(sandbox: Sandbox, tmp_path: Path) -> None:
    tasks = [{"id": "a", "command": "echo image-tag=v1 >> $CIS_OUTPUT"}]
    sandbox.json("dag", "run", write_dag(tmp_path, {"dag_id": "names", "tasks": tasks}), expect=1)

    (task,) = sandbox.json("dag", "status", "names")["runs"][0]["tasks"]
    assert "'image-tag' is not a name of an output; use ASCII letters, digits and '_'" in task["error"]
