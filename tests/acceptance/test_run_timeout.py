"""The time limit of a whole run, through the real node, on both stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw
import psycopg

from tests.worlds.harness import Sandbox, write_dag
from tests.worlds.waiting import wait_for

SLEEPS = {"id": "long", "command": ["sleep", "600"]}


def latest(sandbox: Sandbox, dag_id: str) -> dict[str, Any]:
    """Return the latest run of a DAG, as ``status`` shows it."""
    run: dict[str, Any] = sandbox.json("dag", "status", dag_id)["runs"][0]
    return run


def ended(sandbox: Sandbox, dag_id: str) -> dict[str, Any]:
    """Return the latest run of a DAG once it is over."""
    wait_for(lambda: latest(sandbox, dag_id)["finished_at"] is not None, what=f"the end of {dag_id}", timeout_s=60.0)
    return latest(sandbox, dag_id)


def an_hour_passes(sandbox: Sandbox) -> None:
    """Have all that was stored lie an hour further back."""
    changes = (
        "UPDATE dag_runs SET started_at_us = started_at_us - 3600000000",
        "UPDATE worker_queue SET due_at_us = due_at_us - 3600000000",
    )
    if "CIS_STORE" in sandbox.env:
        with psycopg.connect(sandbox.env["CIS_STORE"]) as there:
            for change in changes:
                there.execute(change.encode())
        return
    connection = apsw.Connection(str(sandbox.home / "cis.db"))
    try:
        for change in changes:
            connection.execute(change)
    finally:
        connection.close()


def states(run: dict[str, Any]) -> dict[str, str]:
    """Return the states of a run's tasks."""
    return {task["id"]: task["status"] for task in run["tasks"]}


def test_a_run_is_failed_when_its_time_is_over_whether_it_works_or_waits_and_tells_so(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    child = {"dag_id": "below", "tasks": [SLEEPS]}
    works = [
        {"id": "done", "command": "true"},
        {**SLEEPS, "depends_on": "done"},
        {"id": "after", "command": "true", "depends_on": "long"},
    ]
    waits = [{"id": "again", "command": "false", "max_retries": 9, "retry_delay": "1h"}]
    deep = [{"id": "child", "skill": "dag", "params": {"document": child}}]
    with sandbox.node():
        for dag_id, tasks, limit in (("works", works, 1), ("waits", waits, 1), ("deep", deep, 1.5)):
            path = write_dag(tmp_path, {"dag_id": dag_id, "timeout": limit, "tasks": tasks})
            assert sandbox.cis("dag", "run", path).returncode == 0
        runs = {dag_id: ended(sandbox, dag_id) for dag_id in ("works", "waits", "deep", "below")}

    assert {dag_id: (run["status"], run["error"]) for dag_id, run in runs.items()} == {
        "works": ("failed", "timed out after 1 s"),
        "waits": ("failed", "timed out after 1 s"),
        "deep": ("failed", "timed out after 1.5 s"),
        "below": ("cancelled", None),
    }
    assert states(runs["works"]) == {"done": "completed", "long": "cancelled", "after": "cancelled"}
    assert states(runs["waits"]) == {"again": "cancelled"}


def test_a_run_whose_time_ended_while_no_node_ran_ends_when_one_is_back_paused_or_not(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    waits = [{"id": "again", "command": "false", "max_retries": 9, "retry_delay": "1d"}]
    with sandbox.node():
        for dag_id in ("slept", "held"):
            path = write_dag(tmp_path, {"dag_id": dag_id, "timeout": "1h", "tasks": waits})
            assert sandbox.cis("dag", "run", path).returncode == 0
            wait_for(
                lambda dag_id=dag_id: latest(sandbox, dag_id)["tasks"][0]["attempts"] == 1,  # type: ignore[misc]
                what="the first attempt",
                timeout_s=60.0,
            )
        assert sandbox.cis("dag", "pause", "held").returncode == 0
    assert [latest(sandbox, dag_id)["status"] for dag_id in ("slept", "held")] == ["running", "paused"]
    an_hour_passes(sandbox)
    with sandbox.node():
        runs = [ended(sandbox, dag_id) for dag_id in ("slept", "held")]

    assert [(run["status"], run["error"]) for run in runs] == [("failed", "timed out after 3600 s")] * 2


def test_what_is_over_in_time_is_not_touched_and_a_limit_of_nothing_is_refused(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    fine = {"dag_id": "fine", "timeout": "1h", "tasks": [{"id": "a", "command": "true"}]}
    assert sandbox.json("dag", "run", write_dag(tmp_path, fine), "--wait")["status"] == "completed"
    done = sandbox.cis("dag", "validate", write_dag(tmp_path, {**fine, "timeout": 0}))

    assert done.returncode == 2
    assert "timeout" in done.stderr
    assert "must be over 0" in done.stderr
