"""Rows 3.1 and 3.2: one worker a scope, reused; never more than allowed; a busy one is never evicted."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cis.executors.platform import HAS_PROC, process_started
from cis.executors.processes import processes
from tests.worlds.harness import Sandbox, alive, write_dag
from tests.worlds.waiting import wait_for


def test_fifty_dags_of_one_scope_share_one_worker_process(sandbox: Sandbox) -> None:
    document = {"dag_id": "proj-a-x", "tasks": [{"id": "t", "command": "echo $PPID"}]}
    with sandbox.node() as node:
        ids = [node.execute(document).body["run_id"] for _ in range(50)]
        ended = [node.finished(run_id)["status"] for run_id in ids]

    pids = {row[0] for row in sandbox.rows("SELECT stdout_tail FROM task_executions")}
    epochs = {row[0] for row in sandbox.rows("SELECT epoch FROM task_executions")}
    assert ended == ["completed"] * 50
    assert len(pids) == 1
    assert epochs == {1}


@pytest.mark.parametrize(("settings", "nicer"), [({}, 7), ({"CIS_NICE": "3"}, 3)])
def test_a_task_comes_after_its_worker_and_shares_its_session(
    sandbox: Sandbox, settings: dict[str, str], nicer: int
) -> None:
    script = (
        "import os, time; nicer = lambda: os.getpriority(os.PRIO_PROCESS, 0) - os.getpriority(os.PRIO_PROCESS, os.getppid())\n"
        "while not nicer() and time.process_time() < 20: pass\n"
        "print(nicer(), os.getsid(0) == os.getppid())"
    )
    command = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(script)}"
    with sandbox.node(**settings) as node:
        run_id = node.execute({"dag_id": "d", "tasks": [{"id": "t", "command": command}]}).body["run_id"]
        node.finished(run_id)

    assert sandbox.rows("SELECT stdout_tail FROM task_executions") == [(f"{nicer} True\n",)]


def test_four_scopes_with_two_workers_allowed_all_complete_and_no_busy_worker_is_evicted(
    sandbox: Sandbox,
) -> None:
    with sandbox.node(CIS_MAX_WORKERS="2") as node:
        ids = [
            node.execute({"dag_id": f"proj-{name}-x", "tasks": [{"id": "t", "command": "sleep 0.4"}]}).body["run_id"]
            for name in "abcd"
            for _ in range(2)
        ]
        runs = [node.finished(run_id) for run_id in ids]

    lost = sandbox.rows("SELECT count(*) FROM task_executions WHERE status != 'completed'")[0][0]
    spans = sandbox.rows(
        "SELECT worker_id, min(started_at_us), max(finished_at_us) FROM task_executions GROUP BY worker_id, epoch"
    )
    overlap = max(sum(begin <= start < end for _, begin, end in spans) for _, start, _ in spans)
    assert [run["status"] for run in runs] == ["completed"] * 8
    assert lost == 0
    assert len({worker_id for worker_id, _, _ in spans}) == 4
    assert overlap <= 2


def test_a_second_worker_of_the_same_id_refuses_and_says_who_holds_the_lock(sandbox: Sandbox) -> None:
    arguments = ["worker", "run", "--id", "worker-project-p", "--scope", "project:p"]
    first = subprocess.Popen([sys.executable, "-m", "cis", *arguments], env=dict(sandbox.env))
    try:
        wait_for(
            lambda: sandbox.home.exists() and sandbox.json("dag", "worker", "list"),
            timeout_s=20,
            what="the first worker",
        )
        second = sandbox.cis(*arguments)
    finally:
        first.send_signal(signal.SIGTERM)
        status = first.wait(timeout=20)

    assert second.returncode == 4
    assert str(first.pid) in second.stderr
    assert "cis-worker-worker-project-p.lock" in second.stderr
    assert status == 0


def test_a_worker_ends_its_tasks_and_itself_when_its_parent_is_gone(sandbox: Sandbox, tmp_path: Path) -> None:
    marker = tmp_path / "task.pid"
    command = f"echo $$ > {marker}; exec sleep 600"
    document = {"dag_id": "orphans", "tasks": [{"id": "t", "command": command}]}
    with sandbox.node() as node:
        run_id = node.execute(document).body["run_id"]
        task_pid = int(wait_for(lambda: marker.exists() and marker.read_text().strip(), what="the task"))
        worker_pid = sandbox.json("dag", "worker", "list")[0]["pid"]
        node.process.kill()
        node.process.wait()
        wait_for(lambda: not alive(worker_pid), timeout_s=40, what="the end of the worker")
        wait_for(lambda: not alive(task_pid), timeout_s=10, what="the end of the task")
        assert _was_killed(node.process)
        node.process.returncode = 0

    attempts = sandbox.rows("SELECT status FROM task_executions WHERE run_id = ?", (run_id,))
    assert attempts == [("lost",)]


def test_a_killed_worker_is_replaced_and_its_task_is_tried_again_after_the_old_one_is_dead(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    marker = tmp_path / "pids"
    command = f"echo $$ >> {marker}; test $CIS_ATTEMPT = 2 || exec sleep 600"
    document = {"dag_id": "proj-k-x", "tasks": [{"id": "t", "command": command}]}
    with sandbox.node() as node:
        run_id = node.execute(document).body["run_id"]
        first_pid = int(wait_for(lambda: marker.exists() and marker.read_text().strip(), what="the task"))
        os.kill(sandbox.json("dag", "worker", "list")[0]["pid"], signal.SIGKILL)
        run = node.finished(run_id)

    statuses = sandbox.rows("SELECT attempt, status, epoch FROM task_executions ORDER BY attempt")
    assert run["status"] == "completed"
    assert statuses == [(1, "lost", 1), (2, "completed", 2)]
    assert not alive(first_pid)


def _was_killed(process: subprocess.Popen[bytes]) -> bool:
    return process.returncode == -signal.SIGKILL


def test_two_runs_of_one_scope_without_a_node_share_a_worker_and_neither_is_cut_short(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """The first command starts the worker; it has to stay until the second one's task is over."""
    hold = f"touch {tmp_path}/up; for i in $(seq 600); do test -e {tmp_path}/go && exit 0; sleep 0.05; done; exit 1"
    wait = f"for i in $(seq 600); do test -e {tmp_path}/up && exit 0; sleep 0.05; done; exit 1"
    first = write_dag(tmp_path, {"dag_id": "first", "tasks": [{"id": "t", "command": wait}]}, name="first.json")
    second = write_dag(tmp_path, {"dag_id": "second", "tasks": [{"id": "t", "command": hold}]}, name="second.json")
    commands = []
    try:
        for path in (first, second):
            commands.append(subprocess.Popen([sys.executable, "-m", "cis", "dag", "run", path], env=dict(sandbox.env)))
            wait_for(lambda: sandbox.json("dag", "worker", "list"), timeout_s=20, what="the worker")
        wait_for(
            lambda: sandbox.json("dag", "list", "--status", "completed"), timeout_s=20, what="the end of the first"
        )
        (tmp_path / "go").touch()
        statuses = [command.wait(timeout=30) for command in commands]
    finally:
        for command in commands:
            command.kill()
            command.wait()

    attempts = sandbox.rows("SELECT status, attempt FROM task_executions")
    assert statuses == [0, 0]
    assert attempts == [("completed", 1), ("completed", 1)]


def test_a_worker_that_is_asked_to_retire_does_so_only_when_it_is_idle(sandbox: Sandbox, tmp_path: Path) -> None:
    """The supervisor asks on what it read a moment ago; the worker knows better."""
    hold = f"for i in $(seq 600); do test -e {tmp_path}/go && exit 0; sleep 0.05; done; exit 1"
    busy = {"dag_id": "busy", "tasks": [{"id": "t", "command": hold}]}
    quick = {"dag_id": "quick", "tasks": [{"id": "t", "command": "true"}]}
    with sandbox.node() as node:
        held = node.execute(busy).body["run_id"]
        wait_for(lambda: node.run(held)["tasks"][0]["status"] == "running", what="the task")
        pid = sandbox.json("dag", "worker", "list")[0]["pid"]
        os.kill(pid, signal.SIGUSR1)
        node.finished(node.execute(quick).body["run_id"])
        during = sandbox.json("dag", "worker", "list")[0]["pid"]
        (tmp_path / "go").touch()
        node.finished(held)
        wait_for(lambda: sandbox.json("dag", "worker", "list")[0]["status"] == "idle", what="an idle worker")
        os.kill(pid, signal.SIGUSR1)
        wait_for(lambda: not sandbox.json("dag", "worker", "list"), what="the end of the idle worker")

    assert during == pid
    assert sandbox.rows("SELECT DISTINCT epoch FROM task_executions") == [(1,)]


def test_what_a_task_left_running_is_shown_for_as_long_as_it_runs(sandbox: Sandbox, tmp_path: Path) -> None:
    command = f"setsid sleep 600 </dev/null >/dev/null 2>&1 & echo $! > {tmp_path}/pid"
    dag = write_dag(tmp_path, {"dag_id": "leaves", "tasks": [{"id": "serve", "command": command, "leave": True}]})
    assert sandbox.cis("dag", "run", dag).returncode == 0
    pid = int((tmp_path / "pid").read_text())
    try:
        text = sandbox.cis("dag", "status", "leaves").stdout
        (run,) = sandbox.json("dag", "status", "leaves")["runs"]
        with sandbox.node() as node:
            answered = node.run(run["run_id"])
    finally:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not alive(pid), what="the end of what was left")

    assert text.endswith(f"\nleft running: serve (pid {pid})\n")
    assert run["left"] == answered["left"] == [{"task": "serve", "pid": pid}]
    assert sandbox.json("dag", "status", "leaves")["runs"][0]["left"] == []
    assert "left running" not in sandbox.cis("dag", "status", "leaves").stdout


def zombies_of(pid: int) -> list[int]:
    """Return the children of a process that have ended and that it has not reaped."""
    found = [seen for seen in processes() if seen.parent == pid and seen.dead]
    return [seen.pid for seen in found]


@pytest.mark.skipif(not HAS_PROC, reason="elsewhere init inherits what is left")
def test_what_a_node_and_a_worker_inherit_is_reaped(sandbox: Sandbox, tmp_path: Path) -> None:
    """As it is for PID 1 of a container: nobody else would."""
    leave = (
        f"for i in 1 2 3 4 5; do (setsid sh -c 'echo $$ >> {tmp_path}/pids; until [ -e {tmp_path}/go ]; do sleep 0.1; done'"
        f" </dev/null >/dev/null 2>&1 &) ; done; until [ $(wc -l < {tmp_path}/pids) = 5 ]; do sleep 0.05; done"
    )
    left = {"dag_id": "left", "tasks": [{"id": "t", "command": leave, "leave": True}]}
    short = {"dag_id": "short", "tasks": [{"id": "t", "command": "for i in 1 2 3 4 5; do (setsid true &) ; done"}]}
    with sandbox.node() as node:
        node.finished(node.execute(left).body["run_id"])
        node.finished(node.execute(short).body["run_id"])
        worker = sandbox.rows("SELECT pid FROM workers")[0][0]
        wait_for(lambda: not zombies_of(worker), what="the end of the worker's zombies")
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert all(map(alive, pids))
        os.kill(worker, signal.SIGKILL)
        wait_for(
            lambda: {seen.parent for seen in processes() if seen.pid in pids} == {node.process.pid}, what="the heir"
        )
        (tmp_path / "go").touch()
        wait_for(lambda: not any(map(process_started, pids)), what="the end of what was left, and of its traces")
        assert zombies_of(node.process.pid) == []


def test_a_run_whose_worker_died_can_be_cancelled_while_it_waits_for_the_next_one(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    marker = tmp_path / "task.pid"
    path = write_dag(tmp_path, {"dag_id": "d", "tasks": [{"id": "t", "command": f"echo $$ > {marker}; sleep 600"}]})
    with sandbox.node() as node:
        submitted = sandbox.json("dag", "run", path)
        pid = int(wait_for(lambda: marker.exists() and marker.read_text().strip(), what="the task"))
        worker_pid = sandbox.json("dag", "worker", "list")[0]["pid"]
        node.process.kill()
        os.kill(worker_pid, signal.SIGKILL)
        node.process.wait()
        node.process.returncode = 0
    cancelled = sandbox.json("dag", "cancel", "d")

    wait_for(lambda: not alive(pid), what="the end of the orphan")
    assert cancelled["run_id"] == submitted["run_id"]
    assert cancelled["status"] == "cancelled"
    assert sandbox.rows("SELECT status FROM task_executions") == [("lost",)]
    assert sandbox.rows("SELECT status FROM run_tasks") == [("cancelled",)]
    assert sandbox.rows("SELECT count(*) FROM worker_queue") == [(0,)]


def test_a_worker_directory_that_a_task_removed_is_there_again_at_the_next_start(sandbox: Sandbox) -> None:
    task = {"id": "a", "command": 'pwd; rm -rf "$PWD"'}
    after = {"id": "b", "command": "pwd", "depends_on": ["a"]}
    with sandbox.node() as node:
        runs = [node.finished(node.execute({"dag_id": "w", "tasks": [task, after]}).body["run_id"]) for _ in range(2)]

    assert [run["status"] for run in runs] == ["completed", "completed"]


def test_a_task_has_the_home_of_its_user_where_the_node_was_started_without_one(sandbox: Sandbox) -> None:
    """As cron and service managers do."""
    bare = Sandbox(sandbox.home, {name: value for name, value in sandbox.env.items() if name != "HOME"})
    document = json.dumps({"dag_id": "d", "tasks": [{"id": "t", "command": 'echo "at $HOME of $CIS_HOME"'}]})
    bare.json("dag", "run", "-", stdin=document)
    (entry,) = bare.json("dag", "logs", "d")

    assert entry["output"].strip() == f"at {pwd.getpwuid(os.getuid()).pw_dir} of {sandbox.home}"
