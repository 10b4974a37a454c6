"""A task that takes its worker down each time: it is found and failed, and the others of its scope go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.worlds.harness import Sandbox, write_dag


@pytest.fixture(autouse=True)
def short_lease(sandbox: Sandbox) -> None:
    """Give workers a lease of two seconds, and tasks one second to end."""
    sandbox.home.mkdir(mode=0o700)
    (sandbox.home / "cis.toml").write_text('[worker]\nlease = "2s"\ngrace = "1s"\n')


def poison(folder: Path) -> dict[str, object]:
    """Return a DAG whose task kills its worker, once the innocent one runs as well."""
    command = f"until test -e {folder}/innocent; do sleep 0.05; done; echo x >> {folder}/tries; kill -9 $PPID; sleep 60"
    return {"dag_id": "poison", "tasks": [{"id": "a", "command": command, "max_losses": 2}]}


def test_a_task_that_kills_its_worker_is_failed_after_its_bound_and_an_innocent_one_of_its_scope_ends(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    innocent = {
        "dag_id": "innocent",
        "tasks": [{"id": "a", "command": f"touch {tmp_path}/innocent; sleep 2; echo fine"}],
    }
    with sandbox.node() as node:
        good, bad = node.execute(innocent).body["run_id"], node.execute(poison(tmp_path)).body["run_id"]
        ended = node.finished(bad)
        fine = node.finished(good)

    (task,) = ended["tasks"]
    assert fine["status"] == "completed"
    assert task["status"] == "failed"
    assert "its worker died 2 times in a row while this task ran alone" in task["error"]
    assert (tmp_path / "tries").read_text() == "x\n" * 3  # once beside the innocent one, twice alone


def test_without_a_node_it_is_failed_as_well(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "innocent").touch()
    answer = sandbox.json("dag", "run", write_dag(tmp_path, poison(tmp_path)), expect=1)

    assert answer["status"] == "failed"
    assert (tmp_path / "tries").read_text() == "x\n" * 2
