"""Running again what ran before: what failed, one task, what a mended document changed; and only a part of a DAG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.worlds.harness import Sandbox, write_dag

CHAIN: dict[str, Any] = {
    "dag_id": "d",
    "tasks": [
        {"id": "fetch", "command": "echo fetch"},
        {"id": "build", "command": "echo build", "depends_on": "fetch"},
        {"id": "test", "command": "test -e fixed", "depends_on": "build"},
        {"id": "docs", "command": "echo docs", "depends_on": "fetch"},
        {"id": "ship", "command": "echo ship", "depends_on": ["test", "docs"]},
    ],
}


@pytest.fixture
def failed(sandbox: Sandbox, tmp_path: Path) -> Sandbox:
    """A home in which ``test`` of the chain has failed."""
    sandbox.json("dag", "run", write_dag(tmp_path, CHAIN), expect=1)
    return sandbox


def ran(sandbox: Sandbox, dag_id: str = "d") -> dict[str, tuple[str, int]]:
    """Return the status of each task of the latest run, and how often it was tried there."""
    tasks = sandbox.json("dag", "status", dag_id)["runs"][0]["tasks"]
    return {task["id"]: (task["status"], task["attempts"]) for task in tasks}


def test_from_failed_keeps_what_completed_and_says_why_the_rest_runs_again(failed: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "fixed").touch()
    answer = failed.json("dag", "rerun", "d", "--from-failed")

    assert answer["kept"] == ["fetch", "build", "docs"]
    assert answer["again"] == {"test": "it failed", "ship": "it was skipped"}
    assert ran(failed)["test"] == ("completed", 1)
    assert ran(failed)["build"] == ("completed", 0)
    assert failed.cis("dag", "rerun", "d", "--from-failed").returncode == 4


def test_one_task_runs_again_with_all_that_follows_and_nothing_else(failed: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "fixed").touch()
    failed.json("dag", "rerun", "d", "--from-failed")
    done = failed.cis("dag", "rerun", "d", "--task", "docs")

    assert done.returncode == 0
    assert "keeps fetch, build, test" in done.stderr
    assert "ship runs again: docs before it runs again" in done.stderr
    assert {name: tries for name, (_, tries) in ran(failed).items()} == {
        "fetch": 0,
        "build": 0,
        "test": 0,
        "docs": 1,
        "ship": 1,
    }


def test_a_task_that_is_not_there_or_whose_needs_failed_is_refused(failed: Sandbox) -> None:
    unknown = failed.cis("dag", "rerun", "d", "--task", "dosc")
    blocked = failed.cis("dag", "rerun", "d", "--task", "ship")

    assert (unknown.returncode, blocked.returncode) == (3, 4)
    assert "did you mean 'docs'?" in unknown.stderr
    assert "task 'test', which 'ship' needs, is failed" in blocked.stderr


def test_a_mended_document_runs_what_it_changed_and_what_follows(failed: Sandbox, tmp_path: Path) -> None:
    tasks = [{**task, **({"command": "true"} if task["id"] == "test" else {})} for task in CHAIN["tasks"]]
    mended = write_dag(tmp_path, {**CHAIN, "tasks": [*tasks, {"id": "new", "command": "true"}]}, name="mended.json")
    answer = failed.json("dag", "rerun", "d", "--with", mended)
    changed = [{**task, **({"env": {"A": "1"}} if task["id"] == "fetch" else {})} for task in tasks]
    all_of_it = failed.json(
        "dag", "rerun", "d", "--with", write_dag(tmp_path, {**CHAIN, "tasks": changed}, name="m.json")
    )
    other = failed.cis("dag", "rerun", "d", "--with", write_dag(tmp_path, {**CHAIN, "dag_id": "e"}, name="e.json"))

    assert answer["status"] == "completed"
    assert answer["kept"] == ["fetch", "build", "docs"]
    assert answer["again"] == {"test": "it failed", "ship": "it was skipped", "new": "it is new"}
    assert all_of_it["kept"] == []
    assert all_of_it["again"]["fetch"] == "its env changed"
    assert other.returncode == 2


def test_from_failed_goes_down_into_a_dag_as_a_task(sandbox: Sandbox, tmp_path: Path) -> None:
    child = {
        "dag_id": "child",
        "tasks": [
            {"id": "long", "command": f"echo long >> {tmp_path}/ran"},
            {"id": "fails", "command": f"test -e {tmp_path}/fixed", "depends_on": "long"},
        ],
    }
    parent = {"dag_id": "parent", "tasks": [{"id": "c", "skill": "dag", "params": {"document": child}}]}
    sandbox.json("dag", "run", write_dag(tmp_path, parent), expect=1)
    (tmp_path / "fixed").touch()
    answer = sandbox.json("dag", "rerun", "parent", "--from-failed")

    assert answer["status"] == "completed"
    assert (tmp_path / "ran").read_text() == "long\n"
    assert ran(sandbox, "child") == {"long": ("completed", 0), "fails": ("completed", 1)}


def test_a_dag_as_a_task_that_was_changed_begins_anew(sandbox: Sandbox, tmp_path: Path) -> None:
    def parent(text: str, status: int) -> dict[str, Any]:
        tasks = [{"id": "a", "command": f"echo {text} >> {tmp_path}/ran"}, {"id": "b", "command": f"exit {status}"}]
        document = {"dag_id": "child", "tasks": tasks}
        return {"dag_id": "parent", "tasks": [{"id": "c", "skill": "dag", "params": {"document": document}}]}

    sandbox.json("dag", "run", write_dag(tmp_path, parent("one", 1)), expect=1)
    mended = write_dag(tmp_path, parent("two", 0), name="mended.json")
    sandbox.json("dag", "rerun", "parent", "--from-failed", "--with", mended)

    assert (tmp_path / "ran").read_text() == "one\ntwo\n"


def test_only_runs_a_task_and_what_it_needs(sandbox: Sandbox, tmp_path: Path) -> None:
    path = write_dag(tmp_path, CHAIN)
    answer = sandbox.json("dag", "run", path, "--only", "docs")
    unknown = sandbox.cis("dag", "run", path, "--only", "dosc")

    assert answer["status"] == "completed"
    assert set(ran(sandbox)) == {"fetch", "docs"}
    assert unknown.returncode == 3
    assert "did you mean 'docs'?" in unknown.stderr
