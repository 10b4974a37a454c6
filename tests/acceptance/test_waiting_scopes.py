"""Scopes whose runs only wait, more of them than may have a worker: others start all the same, and they come back."""

from __future__ import annotations

from cis.worker.supervisor import MAX_WAITING
from tests.worlds.harness import Sandbox

MORE = 4


def test_scopes_whose_runs_only_wait_keep_no_other_from_starting_and_go_on_when_they_are_resumed(
    sandbox: Sandbox,
) -> None:
    with sandbox.node(CIS_MAX_WORKERS="2") as node:
        ids = []
        for number in range(MAX_WAITING + MORE):
            run_id = node.execute(
                {"dag_id": f"w{number}", "scope": f"user:u{number}", "tasks": [{"id": "a", "command": "true"}]}
                | {"priority": "high"}
            ).body["run_id"]
            node.call("POST", f"/api/v1/runs/{run_id}/pause")
            ids.append(run_id)
        victim = node.execute({"dag_id": "victim", "scope": "project:v", "tasks": [{"id": "a", "command": "true"}]})
        done = node.finished(victim.body["run_id"], timeout_s=90)
        held = sandbox.rows("SELECT count(*) FROM workers WHERE status NOT IN ('dead', 'stopped')")[0][0]
        parked = sandbox.rows("SELECT count(*) FROM worker_queue WHERE status = 'parked'")[0][0]
        first = ids[0]
        for run_id in ids:
            node.call("POST", f"/api/v1/runs/{run_id}/resume")
        ended = [node.finished(run_id, timeout_s=90)["status"] for run_id in ids]

    assert done["status"] == "completed"
    assert held <= MAX_WAITING + 2
    assert parked >= MORE - 2
    assert first in ids
    assert ended == ["completed"] * len(ids)
