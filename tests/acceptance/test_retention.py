"""A node forgets what is old while it works: files and rows go, nothing that lives is touched."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import apsw

from tests.worlds.harness import Sandbox, write_dag
from tests.worlds.waiting import wait_for

QUICK = {"dag_id": "quick", "tasks": [{"id": "t", "command": "echo said"}]}


def hold(folder: Path) -> str:
    """Return a command that says something, and ends once the file ``go`` is there."""
    return f"echo begun; touch {folder}/up; for i in $(seq 1200); do test -e {folder}/go && exit 0; sleep 0.05; done"


def make_older(sandbox: Sandbox, seconds: float) -> None:
    """Move the ends of all runs into the past."""
    connection = apsw.Connection(str(sandbox.home / "cis.db"))
    connection.set_busy_timeout(10_000)
    connection.execute("UPDATE dag_runs SET finished_at_us = finished_at_us - ?", (round(seconds * 1e6),))
    connection.close()


def folders(sandbox: Sandbox) -> set[str]:
    """Return the runs that have logs."""
    return {path.name for path in (sandbox.home / "logs").iterdir()} - {"workers", ".live"}


def test_old_runs_go_with_their_files_while_new_ones_run_and_one_that_runs_stays(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    settings = {"CIS_MAX_AGE": "4", "CIS_PRUNE_EVERY": "1", "CIS_MAX_RUNS": "all"}
    nest = [{"id": "nest", "skill": "dag", "params": {"document": {**QUICK, "dag_id": "kid"}}}]
    with sandbox.node(**settings) as node:
        live = node.execute({"dag_id": "live", "tasks": [{"id": "t", "command": hold(tmp_path)}]}).body["run_id"]
        nested = node.execute(
            {"dag_id": "outer", "tasks": [*nest, {"id": "wait", "command": hold(tmp_path), "depends_on": ["nest"]}]}
        ).body["run_id"]
        child = wait_for(lambda: node.run(nested)["tasks"][0]["child_run_id"], what="the child")
        first = node.execute(QUICK).body["run_id"]
        assert node.finished(first)["status"] == "completed"
        ends = []
        deadline_s = time.monotonic() + 60
        while first in folders(sandbox) or node.call("GET", f"/api/v1/runs/{first}").status != 404:
            assert time.monotonic() < deadline_s, "the first run was not pruned"
            ends.append(node.finished(node.execute(QUICK).body["run_id"])["status"])
        alive = node.run(live)
        log = node.call("GET", f"/api/v1/runs/{live}/logs").body["items"]
        kept_child = node.run(child)
        (tmp_path / "go").touch()
        last, last_nested = node.finished(live), node.finished(nested)

    assert set(ends) == {"completed"}
    assert (alive["status"], last["status"], last_nested["status"]) == ("running", "completed", "completed")
    assert "begun" in log[0]["output"]
    assert kept_child["status"] == "completed"  # older than max_age, but the run of a live one's task
    assert sandbox.json("db", "check")["ok"]


def test_of_each_dag_the_newest_runs_are_kept(sandbox: Sandbox) -> None:
    with sandbox.node(CIS_MAX_RUNS="3", CIS_PRUNE_EVERY="1") as node:
        runs = [node.execute({**QUICK, "dag_id": f"d{number % 2}"}).body["run_id"] for number in range(10)]
        for run_id in runs:
            assert node.finished(run_id)["status"] == "completed"
        ended = sandbox.rows("SELECT dag_id, run_id FROM dag_runs ORDER BY finished_at_us DESC, run_id DESC")
        newest = {run_id for dag_id in ("d0", "d1") for run_id in [run for of, run in ended if of == dag_id][:3]}
        make_older(sandbox, 120)
        wait_for(lambda: folders(sandbox) == newest, what="the old logs to go")
        left = {run["run_id"] for run in node.call("GET", "/api/v1/runs?limit=100").body["items"]}

    assert left == newest
    assert sandbox.rows("SELECT count(*) FROM run_tasks") == [(6,)]
    assert sandbox.rows("SELECT count(*) FROM task_executions") == [(6,)]


def test_without_a_node_a_command_prunes_and_says_before_what_would_go(sandbox: Sandbox, tmp_path: Path) -> None:
    file = write_dag(tmp_path, QUICK)
    old = sandbox.json("dag", "run", file, "--idempotency-key", "k")["run_id"]
    make_older(sandbox, 3 * 86400)
    young = sandbox.json("dag", "run", file)["run_id"]
    nothing = sandbox.json("db", "prune")
    dry = sandbox.json("db", "prune", "--dry-run", "--older-than", "2d")
    assert folders(sandbox) == {old, young}
    wet = sandbox.json("db", "prune", "--older-than", "2d")
    again: Any = sandbox.json("dag", "run", file, "--idempotency-key", "k")

    assert nothing == {"dry_run": False, "runs": 0, "folders": 0, "documents": 0}
    assert dry == {"dry_run": True, "runs": 1, "folders": 1, "documents": 0}
    assert wet == {"dry_run": False, "runs": 1, "folders": 1, "documents": 0}
    assert again["run_id"] not in (old, young)  # a key is forgotten with its run
    assert sandbox.cis("dag", "logs", "quick", "--run", old).returncode == 3
    assert sandbox.cis("db", "prune", "--older-than", "soon").returncode == 2


def test_named_outputs_leave_no_file_whether_their_task_fails_or_not(sandbox: Sandbox) -> None:
    give = {"dag_id": "silent", "tasks": [{"id": "t", "command": 'echo x=1 >> "$CIS_OUTPUT"'}]}
    fail = {"dag_id": "failing", "tasks": [{"id": "t", "command": 'echo x=1 >> "$CIS_OUTPUT"; exit 3'}]}
    with sandbox.node() as node:
        silent = node.finished(node.execute(give).body["run_id"])
        node.finished(node.execute(fail).body["run_id"])

    assert silent["tasks"][0]["outputs"] == {"x": "1"}
    assert list((sandbox.home / "logs" / ".live").iterdir()) == []
