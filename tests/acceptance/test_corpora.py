"""Recorded workflows of other tools, imported and run: every edge of every DAG holds in the database."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.worlds.harness import Sandbox

FOLDER = Path(os.environ.get("CIS_CORPORA", Path(__file__).parents[3] / "shared" / "corpora")) / "wfinstances"
NAMES = sorted(path.name for path in FOLDER.glob("*-*.json") if "schema" not in path.name)


@pytest.mark.skipif(not NAMES, reason=f"LOUD: no recorded workflows in {FOLDER}; set CIS_CORPORA")
@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_workflow_completes_and_no_task_starts_before_its_parents_ended(
    name: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    out = tmp_path / "dag.yaml"
    imported = sandbox.cis(
        "dag", "import", str(FOLDER / name), "--from", "wfformat", "--scale", "0.001", "-o", str(out)
    )
    assert imported.returncode == 0, imported.stderr
    answer = sandbox.json("dag", "run", str(out))

    edges, early = _edges_and_violations(sandbox, answer["run_id"])
    recorded = json.loads((FOLDER / name).read_text())["workflow"]["specification"]["tasks"]
    assert answer["status"] == "completed"
    assert edges == len({(parent, task["id"]) for task in recorded for parent in task["parents"]})
    assert early == []


def _edges_and_violations(sandbox: Sandbox, run_id: str) -> tuple[int, list[tuple[str, str]]]:
    document = json.loads(
        sandbox.rows(
            "SELECT document FROM dag_definitions JOIN dag_runs USING (definition_id) WHERE run_id = ?", (run_id,)
        )[0][0]
    )
    times = {
        task_id: (started, finished)
        for task_id, started, finished in sandbox.rows(
            "SELECT task_id, started_at_us, finished_at_us FROM task_executions WHERE run_id = ?", (run_id,)
        )
    }
    edges = [(parent, task["id"]) for task in document["tasks"] for parent in task.get("depends_on", ())]
    return len(edges), [(parent, task) for parent, task in edges if times[task][0] < times[parent][1]]
