"""A task that waits for a run of its own scope holds the slot that this run waits for; that is said, not suffered."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.worlds.harness import Sandbox, write_dag
from tests.worlds.waiting import wait_for

INNER = {"dag_id": "inner", "tasks": [{"id": "made", "command": "true"}]}


def test_a_task_that_waits_for_its_own_slot_says_so_and_with_another_slot_there_is_nothing_to_say(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    inner = write_dag(tmp_path, INNER, name="inner.json")
    command = f"{sys.executable} -m cis dag run {inner} --wait"
    outer = {"dag_id": "outer", "tasks": [{"id": "asks", "command": command}]}

    with sandbox.node(CIS_SLOTS="1") as node:
        run_id = node.execute(outer).body["run_id"]

        def said() -> str:
            return sandbox.cis("dag", "logs", "outer", "--run", run_id).stderr

        wait_for(lambda: "holds one while it waits" in said(), timeout_s=60, what="a word about the slot")
        assert f"this task, asks of run {run_id}" in said()
        assert said().count("holds one while it waits") == 1
        sandbox.cis("dag", "cancel", "outer", "--run", run_id)
        (free,) = sandbox.json("dag", "status", "inner")["runs"]
        assert node.finished(free["run_id"])["status"] == "completed"
    with sandbox.node(CIS_SLOTS="2") as node:
        done = node.finished(node.execute(outer).body["run_id"])
        assert done["status"] == "completed"
        assert "holds one" not in sandbox.cis("dag", "logs", "outer", "--run", done["run_id"]).stderr
