"""Few descriptors: more tasks than they are enough for all complete, none of them fails, and people are told why they wait."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

from tests.worlds.harness import Sandbox, write_dag
from tests.worlds.waiting import wait_for


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


def test_status_and_doctor_say_what_the_machine_is_short_of_while_tasks_wait_for_it(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.json("init")
    hold = f"until test -e {tmp_path}/go; do sleep 0.05; done"
    document = {"dag_id": "many", "tasks": [{"id": f"t{number}", "command": hold} for number in range(60)]}
    run = subprocess.Popen(
        [sys.executable, "-m", "cis", "dag", "run", write_dag(tmp_path, document)],
        env={**sandbox.env, "CIS_SLOTS": "60"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),  # noqa: PLW1509 - no threads here
    )
    short = "SELECT 1 FROM workers WHERE short_of IS NOT NULL"
    wait_for(lambda: sandbox.rows(short), timeout_s=60, what="a shortage")
    (shown,) = sandbox.json("dag", "status", "many")["runs"]
    said = sandbox.json("doctor", expect=1)
    (tmp_path / "go").touch()
    status = run.wait(120)
    after = sandbox.json("doctor")

    waiting = [task["waiting"] for task in shown["tasks"] if task["status"] == "pending"]
    (wrong,) = [finding for finding in said["findings"] if not finding["ok"]]
    assert waiting
    assert {one["reason"] for one in waiting} == {"machine"}
    assert "too many open files" in waiting[0]["message"]
    assert (wrong["what"], wrong["fault"]) == ("worker-global waits for the machine", "too many open files")
    assert "ulimit -n" in wrong["mend"]
    assert (status, after["ok"]) == (0, True)
