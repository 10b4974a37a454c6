"""Nothing that one run holds or does keeps others from running."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.worlds.harness import Sandbox, write_dag
from tests.worlds.waiting import wait_for

QUICK = {"dag_id": "quick", "tasks": [{"id": "t", "command": "true"}]}


def nested(dag_id: str, child: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return a DAG whose one task is *child*."""
    return {"dag_id": dag_id, "tasks": [{"id": "nest", "skill": "dag", "params": child, **fields}]}


def hold(folder: Path) -> str:
    """Return a command that runs until the file ``go`` is there."""
    return f"touch {folder}/up; for i in $(seq 600); do test -e {folder}/go && exit 0; sleep 0.05; done; exit 1"


def test_a_cancelled_run_whose_task_makes_a_success_of_term_is_done_again_by_a_rerun(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    stubborn = f"trap 'exit 0' TERM; touch {tmp_path}/up; for i in $(seq 600); do sleep 0.05; done"
    with sandbox.node() as node:
        run_id = node.execute({"dag_id": "trap", "tasks": [{"id": "t", "command": stubborn}]}).body["run_id"]
        wait_for((tmp_path / "up").exists, what="the task")
        sandbox.json("dag", "cancel", "trap")
        cancelled = node.finished(run_id)
        (tmp_path / "up").unlink()
        again = sandbox.json("dag", "rerun", "trap", "--from-failed")["run_id"]
        wait_for((tmp_path / "up").exists, what="the task of the rerun")
        sandbox.json("dag", "cancel", "trap", "--run", again)
        node.finished(again)
        after = node.finished(node.execute(QUICK).body["run_id"], timeout_s=20)

    assert (cancelled["status"], cancelled["tasks"][0]["status"]) == ("cancelled", "cancelled")
    assert after["status"] == "completed"


def test_a_dag_waits_for_a_child_of_another_scope_even_if_only_one_worker_is_allowed(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.home.mkdir(mode=0o700)
    (sandbox.home / "cis.toml").write_text("[worker]\nmax_workers = 1\n")
    child = {"dag_id": "proj-b-x", "tasks": [{"id": "t", "command": "true"}]}
    answer = sandbox.json("dag", "run", write_dag(tmp_path, nested("proj-a-x", {"document": child})))

    assert answer["status"] == "completed"


def test_a_paused_run_takes_no_worker_from_another_scope(sandbox: Sandbox, tmp_path: Path) -> None:
    tasks = [{"id": "a", "command": hold(tmp_path)}, {"id": "b", "command": "true", "depends_on": ["a"]}]
    with sandbox.node(CIS_MAX_WORKERS="1") as node:
        held = node.execute({"dag_id": "proj-a-x", "tasks": tasks}).body["run_id"]
        wait_for((tmp_path / "up").exists, what="the task")
        node.call("POST", f"/api/v1/runs/{held}/pause")
        (tmp_path / "go").touch()
        other = node.finished(node.execute({**QUICK, "dag_id": "proj-b-x"}).body["run_id"], timeout_s=20)
        waiting = {one["worker_id"]: one["status"] for one in sandbox.json("dag", "worker", "list")}
        node.call("POST", f"/api/v1/runs/{held}/resume")
        resumed = node.finished(held, timeout_s=20)

    assert other["status"] == "completed"
    assert waiting["worker-project-proj-a"] == "waiting"
    assert resumed["status"] == "completed"


@pytest.mark.parametrize("spoil", ["document", "child row"])
def test_what_a_dag_refers_to_may_be_unreadable_and_fails_that_task_alone(
    sandbox: Sandbox, tmp_path: Path, spoil: str
) -> None:
    kid = {"dag_id": "proj-k-kid", "tasks": [{"id": "t", "command": hold(tmp_path)}]}
    sandbox.json("dag", "save", write_dag(tmp_path, kid, name="kid.json"))
    connection = apsw.Connection(str(sandbox.home / "cis.db"))
    if spoil == "document":
        connection.execute("UPDATE dag_definitions SET document = '{'")
    with sandbox.node() as node:
        parent = node.execute(nested("parent", {"dag_id": "proj-k-kid"})).body["run_id"]
        if spoil == "child row":
            wait_for((tmp_path / "up").exists, what="the child's task")
            connection.set_busy_timeout(10_000)
            connection.execute("UPDATE dag_runs SET priority = 7, version = version + 1 WHERE dag_id = 'proj-k-kid'")
            (tmp_path / "go").touch()
        after = node.finished(node.execute(QUICK).body["run_id"], timeout_s=20)
        failed = node.finished(parent, timeout_s=20)
    connection.close()

    assert after["status"] == "completed"
    assert failed["status"] == "failed"
    assert "cannot be read" in failed["tasks"][0]["error"]


def test_ctrl_c_of_one_command_leaves_the_tasks_of_another_alone(sandbox: Sandbox, tmp_path: Path) -> None:
    first = write_dag(tmp_path, {"dag_id": "first", "tasks": [{"id": "t", "command": "sleep 600"}]}, name="first.json")
    held = {"dag_id": "second", "tasks": [{"id": "t", "command": hold(tmp_path), "on_lost": "fail"}]}
    second = write_dag(tmp_path, held, name="second.json")
    commands = []
    try:
        for path in (first, second):
            commands.append(subprocess.Popen([sys.executable, "-m", "cis", "dag", "run", path], env=dict(sandbox.env)))
            wait_for(lambda: sandbox.json("dag", "worker", "list"), timeout_s=20, what="the worker")
        wait_for((tmp_path / "up").exists, timeout_s=20, what="the second task")
        commands[0].send_signal(signal.SIGINT)
        wait_for(
            lambda: sandbox.json("dag", "list", "--status", "cancelled"), timeout_s=30, what="the end of the first"
        )
        (tmp_path / "go").touch()
        statuses = [command.wait(timeout=40) for command in commands]
    finally:
        for command in commands:
            command.kill()
            command.wait()

    assert statuses == [130, 0]
    assert sandbox.rows("SELECT count(*) FROM task_executions WHERE status = 'lost'") == [(0,)]


def test_a_full_queue_refuses_new_dags_but_not_the_dags_of_accepted_ones(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.home.mkdir(mode=0o700)
    (sandbox.home / "cis.toml").write_text("[queue]\nmax_queued = 1\n")
    tasks = [
        {"id": f"n{number}", "skill": "dag", "params": {"document": {**QUICK, "dag_id": f"proj-{number}-x"}}}
        for number in range(4)
    ]
    answer = sandbox.json("dag", "run", write_dag(tmp_path, {"dag_id": "burst", "tasks": tasks}))

    assert answer["status"] == "completed"


def test_the_time_limit_of_a_dag_as_a_task_cancels_its_run(sandbox: Sandbox, tmp_path: Path) -> None:
    child = {"dag_id": "slow", "tasks": [{"id": "t", "command": "sleep 600"}]}
    sandbox.json("dag", "run", write_dag(tmp_path, nested("outer", {"document": child}, timeout="500ms")), expect=1)

    task = sandbox.json("dag", "status", "outer")["runs"][0]["tasks"][0]
    assert task["status"] == "failed"
    assert task["error"].startswith("timed out after 0.5 s")
    assert [one["status"] for one in sandbox.json("dag", "status", "slow")["runs"]] == ["cancelled"]
