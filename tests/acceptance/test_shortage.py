"""Few descriptors: more tasks than they are enough for all complete, none of them fails."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

from tests.acceptance.harness import Sandbox, write_dag


def test_more_tasks_at_once_than_there_are_descriptors_for_all_complete(sandbox: Sandbox, tmp_path: Path) -> None:
    document = {"dag_id": "many", "tasks": [{"id": f"t{number}", "command": "sleep 0.2"} for number in range(60)]}
    done = subprocess.run(
        [sys.executable, "-m", "cis", "dag", "run", write_dag(tmp_path, document), "--json"],
        env={**sandbox.env, "CIS_SLOTS": "60"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
    )

    tries = sandbox.rows("SELECT DISTINCT status, attempt FROM task_executions")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "completed"
    assert tries == [("completed", 1)]
    assert sandbox.rows("SELECT sum(failures), max(attempts) FROM run_tasks") == [(0, 1)]
