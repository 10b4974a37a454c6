"""DAGs that are stored: run by name, shown, compared, deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.worlds.harness import Sandbox, write_dag

SAY = {"id": "say", "command": "echo hello; pwd"}
GREET = {"dag_id": "greet", "tasks": [SAY, {"id": "end", "command": "true"}]}


@pytest.fixture
def stored(sandbox: Sandbox, tmp_path: Path) -> Sandbox:
    """A home in which a DAG is stored."""
    folder = tmp_path / "documents"
    folder.mkdir()
    sandbox.json("dag", "save", write_dag(folder, GREET))
    return sandbox


def test_a_stored_dag_is_run_by_its_name_from_anywhere_and_its_fields_overridden(
    stored: Sandbox, tmp_path: Path
) -> None:
    answer = stored.json("dag", "run", "greet", "--priority", "high", "--idempotency-key", "k")
    again = stored.json("dag", "run", "greet", "--priority", "high", "--idempotency-key", "k")

    assert (answer["dag_id"], answer["status"]) == ("greet", "completed")
    assert again["run_id"] == answer["run_id"]
    assert stored.cis("dag", "logs", "greet", "--task", "say").stdout == f"hello\n{tmp_path / 'documents'}\n"
    assert [one["priority"] for one in stored.json("dag", "list")] == ["high"]


def test_a_file_goes_before_a_stored_dag_of_its_name_and_a_folder_does_not(
    stored: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("greet").mkdir()
    by_name = stored.json("dag", "run", "greet")
    Path("greet").rmdir()
    write_dag(tmp_path, {"dag_id": "from-a-file", "tasks": [{"id": "t", "command": "true"}]}, name="greet")
    by_file = stored.json("dag", "run", "greet")

    assert (by_name["dag_id"], by_file["dag_id"]) == ("greet", "from-a-file")


def test_a_name_of_nothing_is_not_found_and_a_missing_file_is_told_as_one(stored: Sandbox) -> None:
    nothing = stored.cis("dag", "run", "nothing")
    no_file = stored.cis("dag", "run", "nothing.yaml")

    assert nothing.returncode == 3
    assert "no file or stored DAG 'nothing'" in nothing.stderr
    assert no_file.returncode == 2
    assert "nothing.yaml cannot be read" in no_file.stderr


def test_a_dag_that_ran_and_was_not_stored_is_not_run_by_name(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.json("dag", "run", write_dag(tmp_path, GREET))

    done = sandbox.cis("dag", "run", "greet")

    assert done.returncode == 2
    assert "'cis dag save'" in done.stderr


def test_what_is_shown_is_the_stored_document_or_the_one_that_a_run_was_of(stored: Sandbox, tmp_path: Path) -> None:
    other = {**GREET, "description": "of the run", "tasks": [{"id": "other", "command": "true"}]}
    run_id = stored.json("dag", "run", write_dag(tmp_path, other))["run_id"]

    shown = stored.cis("dag", "show", "greet").stdout
    of_run = stored.json("dag", "show", run_id)
    (tmp_path / "shown.yaml").write_text(shown)

    assert [task["id"] for task in stored.json("dag", "show", "greet")["document"]["tasks"]] == ["say", "end"]
    assert [task["id"] for task in of_run["document"]["tasks"]] == ["other"]
    assert of_run["description"] == "of the run"
    assert (
        stored.json("dag", "save", str(tmp_path / "shown.yaml"))["sha256"]
        == stored.json("dag", "show", "greet")["sha256"]
    )
    assert stored.cis("dag", "show", "nothing").returncode == 3


def test_a_file_or_the_latest_run_is_compared_with_what_is_stored_task_by_task(stored: Sandbox, tmp_path: Path) -> None:
    changed = {**GREET, "tasks": [{**SAY, "command": "echo goodbye"}, {"id": "new", "command": "true"}]}
    path = write_dag(tmp_path / "documents", changed, name="changed.json")

    assert stored.cis("dag", "diff", "greet").returncode == 3
    stored.json("dag", "run", "greet")
    same = stored.json("dag", "diff", "greet")
    text = stored.cis("dag", "diff", "greet", path)
    told = stored.json("dag", "diff", "greet", path)

    assert (same["changed"], same["diff"]) == (False, [])
    assert text.returncode == 0
    assert "@@ task say @@" in text.stdout
    assert "-command: echo hello; pwd" in text.stdout
    assert "+command: echo goodbye" in text.stdout
    assert "@@ task end @@" in text.stdout
    assert "@@ task new @@" in text.stdout
    assert "the DAG itself" not in text.stdout
    assert told["changed"]
    assert told["diff"] == text.stdout.splitlines()[2:]


def test_the_order_of_names_in_a_mapping_is_no_difference(stored: Sandbox, tmp_path: Path) -> None:
    task = {"id": "a", "skill": "shell", "params": {"command": "true"}, "env": {"Z": "1", "A": "2"}}
    path = write_dag(tmp_path, {"dag_id": "mixed", "env": {"Y": "1", "B": "2"}, "tasks": [task]})
    stored.cis("dag", "save", path)

    assert stored.json("dag", "diff", "mixed", path)["diff"] == []


def test_a_stored_dag_is_deleted_and_its_runs_stay(stored: Sandbox) -> None:
    stored.json("dag", "run", "greet")

    assert stored.json("dag", "delete", "greet")["dag_id"] == "greet"
    assert stored.json("dag", "definitions") == []
    assert stored.cis("dag", "run", "greet").returncode == 2
    assert len(stored.json("dag", "list", "--dag", "greet")) == 1
    assert stored.cis("dag", "show", "greet").returncode == 0
    assert stored.json("dag", "delete", "greet", expect=3)["error"]["code"] == "not_found"
