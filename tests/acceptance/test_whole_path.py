"""Rows 7.1 and 7.2: one machine, whole path; two projects at once, apart from each other."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.worlds.harness import Sandbox


def test_a_dag_posted_with_curl_is_run_by_a_worker_and_its_state_can_be_asked_for(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Row 7.1, with curl itself."""
    marker = tmp_path / "done"
    document = {
        "dag_id": "proj-a-hello",
        "tasks": [
            {"id": "one", "command": "echo to-out; echo to-err >&2; echo version=1.2 >> $CIS_OUTPUT"},
            {
                "id": "two",
                "command": f'printf %s "$SEEN" > {marker}',
                "env": {"SEEN": "${tasks.one.outputs.version}"},
                "depends_on": ["one"],
            },
        ],
    }
    with sandbox.node() as node:
        curl = ["curl", "--silent", "--show-error", "-H", f"Authorization: Bearer {node.token}"]
        posted = subprocess.run(
            [*curl, "-H", "Content-Type: application/json", "-d", json.dumps(document),
             f"{node.url}/api/v1/dag/execute"],
            capture_output=True, check=True, timeout=30,
        )  # fmt: skip
        answer = json.loads(posted.stdout)
        run = node.finished(answer["run_id"])
        status = sandbox.json("dag", "status", "proj-a-hello")
        logs = sandbox.json("dag", "logs", "proj-a-hello")
        workers = sandbox.json("dag", "worker", "list")

    assert answer["scope"] == {"type": "project", "id": "proj-a"}
    assert answer["scope_source"] == "dag_id"
    assert answer["worker_id"] == "worker-project-proj-a"
    assert answer["delivery"] == "local"
    assert run["status"] == "completed"
    assert marker.read_text() == "1.2"
    assert [task["status"] for task in status["runs"][0]["tasks"]] == ["completed", "completed"]
    assert status["runs"][0]["tasks"][0]["outputs"] == {"version": "1.2"}
    assert (logs[0]["output"], logs[0]["error"]) == ("to-out\n", "to-err\n")
    assert [worker["worker_id"] for worker in workers] == ["worker-project-proj-a"]


def test_two_projects_run_at_once_in_two_workers_and_neither_sees_the_other(sandbox: Sandbox, tmp_path: Path) -> None:
    """Row 7.2: each waits for the other to have started, so both overlap or neither ends."""

    def document(mine: str, other: str) -> dict[str, object]:
        meet = (
            f"touch {tmp_path}/{mine}.up; for i in $(seq 600); do "
            f"test -e {tmp_path}/{other}.up && break; sleep 0.05; done; test -e {tmp_path}/{other}.up"
        )
        look = "env | sort; pwd; echo ppid=$PPID; echo secret=$MINE >> $CIS_OUTPUT"
        return {
            "dag_id": f"proj-{mine}-job",
            "env": {"MINE": f"secret-of-{mine}"},
            "tasks": [
                {"id": "meet", "command": meet, "timeout": "40s"},
                {"id": "look", "command": look, "depends_on": ["meet"]},
            ],
        }

    with sandbox.node() as node:
        ids = {name: node.execute(document(name, other)).body["run_id"] for name, other in (("a", "b"), ("b", "a"))}
        runs = {name: node.finished(run_id) for name, run_id in ids.items()}
        workers = {worker["worker_id"]: worker for worker in sandbox.json("dag", "worker", "list")}
        output = {name: sandbox.json("dag", "logs", f"proj-{name}-job")[-1]["output"] for name in ids}

    meets = {name: run["tasks"][0] for name, run in runs.items()}
    assert [run["status"] for run in runs.values()] == ["completed", "completed"]
    assert meets["a"]["started_at"] < meets["b"]["finished_at"]
    assert meets["b"]["started_at"] < meets["a"]["finished_at"]
    assert workers["worker-project-proj-a"]["pid"] != workers["worker-project-proj-b"]["pid"]
    for mine, other in (("a", "b"), ("b", "a")):
        lines = output[mine].splitlines()
        assert f"MINE=secret-of-{mine}" in lines
        assert f"secret-of-{other}" not in output[mine]
        assert f"proj-{other}" not in output[mine]
        assert f"ppid={workers[f'worker-project-proj-{mine}']['pid']}" in lines
        assert runs[mine]["tasks"][1]["outputs"] == {"secret": f"secret-of-{mine}"}
        assert f"CIS_HOME={sandbox.home}" in lines
        assert (sandbox.home / "token").read_text().strip() not in output[mine]
