"""What began a run is kept with it, shown, and told to its tasks: through the real command, on both stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.worlds.harness import Sandbox, write_dag


def shown(sandbox: Sandbox, dag_id: str) -> tuple[dict[str, Any], str]:
    """Return the latest run of a DAG, and what its task read of its trigger."""
    run: dict[str, Any] = sandbox.json("dag", "status", dag_id)["runs"][0]
    return run, sandbox.json("dag", "logs", dag_id, "--task", "say")[-1]["output"]


def test_a_run_says_whether_somebody_another_run_or_a_rerun_began_it(sandbox: Sandbox, tmp_path: Path) -> None:
    say = {"id": "say", "command": "echo $CIS_TRIGGER"}
    child = {"dag_id": "below", "tasks": [say]}
    document = {"dag_id": "above", "tasks": [say, {"id": "deep", "skill": "dag", "params": {"document": child}}]}
    assert sandbox.cis("dag", "run", write_dag(tmp_path, document), "--wait").returncode == 0
    first, told = shown(sandbox, "above")
    below, below_told = shown(sandbox, "below")
    assert sandbox.cis("dag", "rerun", "above", "--wait").returncode == 0
    again, again_told = shown(sandbox, "above")

    assert first["trigger"] == {"kind": "manual", "id": None, "at": first["created_at"], "by": None}
    assert (below["trigger"]["kind"], below["trigger"]["id"]) == ("dag", first["run_id"])
    assert (again["trigger"]["kind"], again["trigger"]["id"]) == ("rerun", first["run_id"])
    assert (told, below_told, again_told) == ("manual\n", "dag\n", "rerun\n")
