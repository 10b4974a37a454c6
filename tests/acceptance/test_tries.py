"""Rows 5.1 and 5.3, and control: retries, skips, reruns, time limits, cancel, pause and resume."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from tests.worlds.harness import Sandbox, write_dag
from tests.worlds.waiting import wait_for


def flaky(folder: Path, *, max_retries: int) -> dict[str, object]:
    """Return a DAG whose middle task fails twice, ever, and then succeeds."""
    command = f"echo x >> {folder}/tries; test $(wc -l < {folder}/tries) -ge 3"
    return {
        "dag_id": "flaky",
        "tasks": [
            {"id": "before", "command": f"echo b >> {folder}/before"},
            {
                "id": "middle",
                "command": command,
                "depends_on": ["before"],
                "max_retries": max_retries,
                "retry_delay": "300ms",
            },
            {"id": "after", "command": f"echo a >> {folder}/after", "depends_on": ["middle"]},
        ],
    }


def test_a_task_that_fails_twice_has_three_attempts_at_the_stated_times(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.json("dag", "run", write_dag(tmp_path, flaky(tmp_path, max_retries=2)))

    attempts = sandbox.rows(
        "SELECT attempt, status, started_at_us, finished_at_us FROM task_executions"
        " WHERE task_id = 'middle' ORDER BY attempt"
    )
    gaps_s = [(after[2] - before[3]) / 1e6 for before, after in pairwise(attempts)]
    assert [(number, status) for number, status, _, _ in attempts] == [(1, "failed"), (2, "failed"), (3, "completed")]
    assert all(0.3 <= gap < 1.5 for gap in gaps_s), gaps_s


def test_rerun_from_failed_runs_only_what_is_left(sandbox: Sandbox, tmp_path: Path) -> None:
    path = write_dag(tmp_path, flaky(tmp_path, max_retries=1))
    first = sandbox.json("dag", "run", path, expect=1)
    tasks = {task["id"]: task for task in sandbox.json("dag", "status", "flaky")["runs"][0]["tasks"]}
    second = sandbox.json("dag", "rerun", "flaky", "--from-failed")
    again = {task["id"]: task for task in sandbox.json("dag", "status", "flaky")["runs"][0]["tasks"]}

    assert first["status"] == "failed"
    assert [tasks[name]["status"] for name in ("before", "middle", "after")] == ["completed", "failed", "skipped"]
    assert tasks["middle"]["attempts"] == 2
    assert tasks["after"]["skipped_because"] == "middle"
    assert second["run_id"] != first["run_id"]
    assert {name: task["status"] for name, task in again.items()} == dict.fromkeys(again, "completed")
    assert (tmp_path / "before").read_text() == "b\n"
    assert (tmp_path / "after").read_text() == "a\n"


def test_a_time_limit_ends_the_whole_process_group(sandbox: Sandbox, tmp_path: Path) -> None:
    command = f"sleep 600 & echo $! > {tmp_path}/child; wait"
    dag = {"dag_id": "slow", "tasks": [{"id": "t", "command": command, "timeout": "500ms"}]}
    answer = sandbox.json("dag", "run", write_dag(tmp_path, dag), expect=1)

    child = int((tmp_path / "child").read_text())
    log = sandbox.json("dag", "logs", "slow")[0]
    task = sandbox.json("dag", "status", "slow")["runs"][0]["tasks"][0]
    wait_for(lambda: not Path(f"/proc/{child}").exists(), what="the end of the child")
    assert answer["status"] == "failed"
    assert log["status"] == "failed"
    assert "timed out after 0.5 s" in task["error"]


def test_cancel_ends_a_running_task_and_what_waits(sandbox: Sandbox) -> None:
    tasks = [{"id": "a", "command": "sleep 600"}, {"id": "b", "command": "true", "depends_on": ["a"]}]
    with sandbox.node() as node:
        run_id = node.execute({"dag_id": "long", "tasks": tasks}).body["run_id"]
        wait_for(lambda: node.run(run_id)["tasks"][0]["status"] == "running", what="the task to run")
        waiting = node.run(run_id)["tasks"][1]["waiting"]
        done = sandbox.cis("dag", "cancel", "long")
        run = node.finished(run_id, timeout_s=20)
        repeated = sandbox.cis("dag", "cancel", "long")

    assert waiting["reason"] == "dependency"
    assert waiting["on"] == ["a"]
    assert done.returncode == 0
    assert run["status"] == "cancelled"
    assert [task["status"] for task in run["tasks"]] == ["cancelled", "cancelled"]
    assert repeated.returncode == 4


def test_a_paused_run_starts_nothing_and_goes_on_when_resumed(sandbox: Sandbox, tmp_path: Path) -> None:
    hold = f"for i in $(seq 600); do test -e {tmp_path}/go && exit 0; sleep 0.05; done; exit 1"
    tasks = [{"id": "a", "command": hold}, {"id": "b", "command": "true", "depends_on": ["a"]}]
    with sandbox.node() as node:
        run_id = node.execute({"dag_id": "held", "tasks": tasks}).body["run_id"]
        wait_for(lambda: node.run(run_id)["tasks"][0]["status"] == "running", what="the task to run")
        paused = node.call("POST", f"/api/v1/runs/{run_id}/pause").body
        (tmp_path / "go").touch()
        wait_for(lambda: node.run(run_id)["tasks"][0]["status"] == "completed", what="the first task's end")
        still = node.run(run_id)
        node.call("POST", f"/api/v1/runs/{run_id}/resume")
        run = node.finished(run_id)

    assert paused["status"] == "paused"
    assert still["tasks"][1]["status"] == "pending"
    assert still["tasks"][1]["waiting"]["reason"] == "paused"
    assert run["status"] == "completed"


def test_a_dag_as_a_task_runs_in_its_own_scope_and_holds_no_slot(sandbox: Sandbox, tmp_path: Path) -> None:
    inner = {"dag_id": "proj-in-x", "tasks": [{"id": "i", "command": "echo found=42 >> $CIS_OUTPUT"}]}
    outer = {
        "dag_id": "outer",
        "tasks": [
            {"id": "nest", "skill": "dag", "params": {"document": inner}},
            {
                "id": "use",
                "command": f"printf %s $FOUND > {tmp_path}/found",
                "depends_on": ["nest"],
                "env": {"FOUND": "${tasks.nest.outputs.found}"},
            },
        ],
    }
    sandbox.home.mkdir(mode=0o700)
    (sandbox.home / "cis.toml").write_text("[worker]\nslots = 1\n")
    answer = sandbox.json("dag", "run", write_dag(tmp_path, outer))

    workers = sandbox.rows("SELECT DISTINCT worker_id FROM task_executions ORDER BY worker_id")
    assert answer["status"] == "completed"
    assert (tmp_path / "found").read_text() == "42"
    assert workers == [("worker-global",), ("worker-project-proj-in",)]


def test_a_higher_priority_takes_the_free_slots_first(sandbox: Sandbox, tmp_path: Path) -> None:
    def dag(name: str, priority: str, command: str) -> dict[str, object]:
        return {"dag_id": name, "priority": priority, "tasks": [{"id": "t", "command": command}]}

    hold = f"for i in $(seq 600); do test -e {tmp_path}/go && exit 0; sleep 0.05; done; exit 1"
    with sandbox.node(CIS_SLOTS="1") as node:
        first = node.execute(dag("first", "low", hold)).body["run_id"]
        wait_for(lambda: node.run(first)["tasks"][0]["status"] == "running", what="the slot to be taken")
        ids = [
            node.execute(dag(name, priority, "true")).body["run_id"]
            for name, priority in (("low", "low"), ("normal", "medium"), ("critical", "Urgent"))
        ]
        waiting = node.run(ids[0])["tasks"][0]["waiting"]
        (tmp_path / "go").touch()
        for run_id in ids:
            node.finished(run_id)

    order = [row[0] for row in sandbox.rows("SELECT dag_id FROM dag_runs ORDER BY started_at_us")]
    assert waiting["reason"] in ("slot", "worker")
    assert order == ["first", "critical", "normal", "low"]
