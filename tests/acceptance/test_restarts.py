"""What is killed or stopped leaves its runs to whoever comes next, and nobody works beside it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cis.worker.bell import FifoBell, bell_path
from tests.worlds.harness import NodeProcess, Sandbox, alive, write_dag
from tests.worlds.waiting import wait_for

QUICK = {"dag_id": "quick", "tasks": [{"id": "q", "command": "true"}]}


@pytest.fixture(autouse=True)
def short_lease(sandbox: Sandbox) -> None:
    """Give workers a lease of two seconds, and tasks one second to end."""
    sandbox.home.mkdir(mode=0o700)
    (sandbox.home / "cis.toml").write_text('[worker]\nlease = "2s"\ngrace = "1s"\n')


def waiting(folder: Path) -> dict[str, object]:
    """Return a DAG whose task says its pid, fails beside another of its kind, and ends at its second attempt."""
    command = (
        f"exec 9>>{folder}/lock; flock -n 9 || touch {folder}/overlap; echo $$ >> {folder}/pids;"
        " test $CIS_ATTEMPT = 2 || exec sleep 600"
    )
    return {"dag_id": "waits", "tasks": [{"id": "t", "command": command}]}


def first_pid(folder: Path) -> int:
    file = folder / "pids"
    return int(wait_for(lambda: file.read_text().split() if file.exists() else [], what="the task")[0])


def worker_pid(sandbox: Sandbox) -> int:
    return int(sandbox.rows("SELECT pid FROM workers WHERE status NOT IN ('dead', 'stopped')")[0][0])


def kill(node: NodeProcess) -> None:
    """Kill a node, and tell the harness that it is meant to have ended so."""
    node.process.kill()
    node.process.wait()
    node.process.returncode = 0


@contextmanager
def command(sandbox: Sandbox, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command, and see to it that it ends."""
    process = subprocess.Popen([sys.executable, "-m", "cis", *arguments], env=dict(sandbox.env))
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def half_a_request(node: NodeProcess) -> Iterator[None]:
    """Keep a node waiting for the body of a request."""
    host, _, port = node.url.removeprefix("http://").partition(":")
    head = f"POST /api/v1/dag/execute HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {node.token}\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"{head}Content-Length: 10\r\nExpect: 100-continue\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        yield


def answers(node: NodeProcess) -> bool:
    """Whether a node listens."""
    host, _, port = node.url.removeprefix("http://").partition(":")
    try:
        socket.create_connection((host, int(port))).close()
    except ConnectionRefusedError:
        return False
    return True


def assert_tried_twice(sandbox: Sandbox, folder: Path) -> None:
    """Assert that the first attempt was lost, the second completed, and never both at once."""
    attempts = sandbox.rows("SELECT attempt, status FROM task_executions WHERE task_id = 't' ORDER BY attempt")
    assert attempts == [(1, "lost"), (2, "completed")]
    assert not (folder / "overlap").exists()


def test_a_node_that_is_killed_and_started_at_once_takes_up_its_runs_after_the_old_worker_is_gone(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    with sandbox.node() as node:
        run_id = node.execute(waiting(tmp_path)).body["run_id"]
        task, worker = first_pid(tmp_path), worker_pid(sandbox)
        kill(node)
    with sandbox.node() as node:
        run = node.finished(run_id)
        gone = (alive(worker), alive(task))

    assert run["status"] == "completed"
    assert gone == (False, False)
    assert_tried_twice(sandbox, tmp_path)


def test_a_stopped_worker_of_a_node_that_was_killed_is_ended_by_the_next_one(sandbox: Sandbox, tmp_path: Path) -> None:
    """It cannot notice that its parent is gone, and holds its lock."""
    with sandbox.node() as node:
        run_id = node.execute(waiting(tmp_path)).body["run_id"]
        task, worker = first_pid(tmp_path), worker_pid(sandbox)
        os.kill(worker, signal.SIGSTOP)
        kill(node)
    try:
        with sandbox.node() as node:
            run = node.finished(run_id)
    finally:
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGCONT)

    assert run["status"] == "completed"
    assert not alive(worker)
    assert not alive(task)
    assert_tried_twice(sandbox, tmp_path)


@pytest.mark.parametrize("victim", ["command", "worker"])
def test_what_a_killed_command_leaves_is_found_by_the_next_one(sandbox: Sandbox, tmp_path: Path, victim: str) -> None:
    """The command that runs a DAG by itself is killed; its worker notices, or is killed, too."""
    path = write_dag(tmp_path, waiting(tmp_path))
    with command(sandbox, "dag", "run", path) as first:
        task, worker = first_pid(tmp_path), worker_pid(sandbox)
        first.kill()
        first.wait()
        if victim == "worker":
            os.kill(worker, signal.SIGKILL)
    sandbox.json("dag", "run", write_dag(tmp_path, QUICK, name="quick.json"))
    wait_for(lambda: not alive(worker) and not alive(task), timeout_s=20, what="the end of the old processes")
    with sandbox.node() as node:
        run_id = sandbox.rows("SELECT run_id FROM dag_runs WHERE dag_id = 'waits'")[0][0]
        run = node.finished(run_id)

    assert run["status"] == "completed"
    assert_tried_twice(sandbox, tmp_path)


def leave_a_run(sandbox: Sandbox, tmp_path: Path) -> None:
    """Kill a command, and the worker of its run, in the middle of it."""
    with command(sandbox, "dag", "run", write_dag(tmp_path, waiting(tmp_path))) as first:
        first_pid(tmp_path)
        worker = worker_pid(sandbox)
        first.send_signal(signal.SIGSTOP)  # or it would see to its worker, or its worker to itself
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: not alive(worker), what="the end of the worker")


def test_a_command_takes_up_its_own_run_and_leaves_earlier_ones_to_the_next_node(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    leave_a_run(sandbox, tmp_path)
    child = {"id": "below", "skill": "dag", "params": {"document": {**QUICK, "dag_id": "below"}}}
    own = {"dag_id": "own", "tasks": [child, {"id": "after", "command": "true", "depends_on": ["below"]}]}

    done = sandbox.cis("dag", "run", write_dag(tmp_path, own, name="own.json"))
    begun = sandbox.rows("SELECT count(*) FROM task_executions JOIN dag_runs USING (run_id) WHERE dag_id = 'waits'")
    alone = not alive(first_pid(tmp_path))
    with sandbox.node() as node:
        run_id = sandbox.rows("SELECT run_id FROM dag_runs WHERE dag_id = 'waits'")[0][0]
        run = node.finished(run_id)

    assert done.returncode == 0, done.stderr
    assert "left here by an earlier node or command: 1 run, for the next node" in done.stderr
    assert "\ncis: a worker died  worker_id=worker-global  pid=" in done.stderr
    assert begun == [(1,)]
    assert alone
    assert run["status"] == "completed"
    assert_tried_twice(sandbox, tmp_path)


def test_a_run_whose_command_and_worker_are_gone_says_so(sandbox: Sandbox, tmp_path: Path) -> None:
    leave_a_run(sandbox, tmp_path)
    shown = sandbox.cis("dag", "status", "waits").stdout
    (run,) = sandbox.json("dag", "status", "waits")["runs"]
    follower = subprocess.Popen(
        [sys.executable, "-m", "cis", "dag", "logs", "waits", "--follow"],
        env=dict(sandbox.env),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert follower.stderr is not None
        told = next(line for line in follower.stderr if line.startswith("nothing goes on"))
    finally:
        follower.kill()
        follower.communicate()

    assert (run["status"], run["waiting"]["reason"], run["waiting"]["on"]) == ("running", "worker", ["worker-global"])
    assert run["waiting"]["message"] == "no node runs here to go on with it ('cis node start')"
    assert run["tasks"][0]["waiting"]["message"].startswith("its worker is gone")
    assert "its worker is gone" in " ".join(shown.split())
    assert "running: t" not in shown
    assert f"nothing goes on with run {run['run_id']}" in told


def test_who_waits_for_a_node_that_is_killed_hears_what_is_stored_and_then_the_end(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    with sandbox.node() as node:
        command = [sys.executable, "-m", "cis", "dag", "run", write_dag(tmp_path, waiting(tmp_path)), "--wait"]
        waits = subprocess.Popen(command, env=dict(sandbox.env), stderr=subprocess.PIPE, text=True)
        first_pid(tmp_path)
        kill(node)
    assert waits.stderr is not None
    told = next(line for line in waits.stderr if line.startswith("nothing goes on"))
    with sandbox.node():
        rest = waits.stderr.read()
        waits.wait(60)
    waits.stderr.close()

    assert "The run is stored, with all that has ended" in told
    assert "waits completed" in rest
    assert waits.returncode == 0


def test_a_command_that_other_commands_run_beside_takes_up_what_may_be_theirs(sandbox: Sandbox, tmp_path: Path) -> None:
    """One process alone can be the worker of a scope, and the run before its own may be that of a command that lives."""
    leave_a_run(sandbox, tmp_path)
    bell = FifoBell(bell_path(sandbox.home / "run", "embedded-1"))
    try:
        sandbox.json("dag", "run", write_dag(tmp_path, QUICK, name="quick.json"))
    finally:
        bell.close()

    assert sandbox.rows("SELECT status FROM dag_runs WHERE dag_id = 'waits'") == [("completed",)]


def test_a_command_whose_run_waits_for_that_of_another_says_whose_and_why(sandbox: Sandbox, tmp_path: Path) -> None:
    with (sandbox.home / "cis.toml").open("a") as settings:
        settings.write("[scope.global]\nmax_runs = 1\n")
    held = {"dag_id": "held", "tasks": [{"id": "t", "command": f"until test -e {tmp_path}/go; do sleep 0.1; done"}]}
    with command(sandbox, "dag", "run", write_dag(tmp_path, held)):
        run_id = wait_for(lambda: sandbox.json("dag", "list", "--status", "running"), what="it")[0]["run_id"]
        second = subprocess.Popen(
            [sys.executable, "-m", "cis", "dag", "run", write_dag(tmp_path, QUICK, name="quick.json")],
            env=dict(sandbox.env),
            stderr=subprocess.PIPE,
            text=True,
        )
        with second:
            assert second.stderr is not None
            said = next(line for line in second.stderr if line.startswith("waits "))
            (tmp_path / "go").touch()
            rest = second.stderr.read()

    assert said == f"waits until fewer runs of its scope are at work (max_runs): run {run_id} of held is\n"
    assert second.returncode == 0, rest


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_was_started_by_hand_is_found_by_the_next_node(
    sandbox: Sandbox, tmp_path: Path, number: signal.Signals
) -> None:
    with command(sandbox, "worker", "run", "--id", "worker-global", "--scope", "global") as worker:
        wait_for((sandbox.home / "run" / "worker-global.wake").exists, timeout_s=20, what="the worker")
        with command(sandbox, "dag", "run", write_dag(tmp_path, waiting(tmp_path))) as run:
            task = first_pid(tmp_path)
            run.kill()
        worker.send_signal(number)
        with sandbox.node() as node:
            run_id = sandbox.rows("SELECT run_id FROM dag_runs")[0][0]
            ended = node.finished(run_id)
        status = worker.wait(10)

    assert ended["status"] == "completed"
    assert status == -signal.SIGKILL
    assert not alive(task)
    assert_tried_twice(sandbox, tmp_path)


def test_a_node_that_is_told_to_stop_lets_tasks_end_within_the_grace_period_and_hands_back_the_others(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    quick = {"id": "quick", "command": f"touch {tmp_path}/up; sleep 0.4; echo done=1 >> $CIS_OUTPUT"}
    document = {"dag_id": "both", "tasks": [*waiting(tmp_path)["tasks"], quick]}  # type: ignore[misc]
    with sandbox.node() as node:
        run_id = node.execute(document).body["run_id"]
        task = first_pid(tmp_path)
        wait_for((tmp_path / "up").exists, what="the other task")
    left = sandbox.rows("SELECT task_id, status FROM task_executions ORDER BY task_id")
    queued = sandbox.rows("SELECT status FROM worker_queue")
    live = alive(task)
    with sandbox.node() as node:
        run = node.finished(run_id)

    assert left == [("quick", "completed"), ("t", "lost")]
    assert queued == [("queued",)]
    assert not live
    assert run["status"] == "completed"
    assert_tried_twice(sandbox, tmp_path)


def trapping(folder: Path, status: int) -> dict[str, object]:
    """Return a DAG whose task says its pid, and ends with *status* when it gets TERM; its second attempt completes."""
    command = (
        f"trap 'exit {status}' TERM; echo $$ >> {folder}/pids; test $CIS_ATTEMPT = 2 || while :; do sleep 0.05; done"
    )
    return {"dag_id": "waits", "tasks": [{"id": "t", "command": command, "max_retries": 0}]}


def test_a_task_that_makes_a_success_of_term_did_not_do_its_work(sandbox: Sandbox, tmp_path: Path) -> None:
    """Not when its run is cancelled, and not when its worker has to stop: then it is tried again."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with sandbox.node() as node:
        cancelled = node.execute(trapping(tmp_path / "a", 0)).body["run_id"]
        first_pid(tmp_path / "a")
        node.call("POST", f"/api/v1/runs/{cancelled}/cancel")
        assert [task["status"] for task in node.finished(cancelled)["tasks"]] == ["cancelled"]
        stopped = node.execute(trapping(tmp_path / "b", 0)).body["run_id"]
        first_pid(tmp_path / "b")
    with sandbox.node() as node:
        assert node.finished(stopped)["status"] == "completed"

    attempts = sandbox.rows("SELECT attempt, status FROM task_executions WHERE run_id = ? ORDER BY 1", (stopped,))
    assert attempts == [(1, "lost"), (2, "completed")]
    assert sandbox.rows("SELECT status FROM task_executions WHERE run_id = ?", (cancelled,)) == [("cancelled",)]


@pytest.mark.parametrize(("first", "status"), [("task", None), ("task", 143), ("worker", 0), ("node", 3)])
def test_a_term_that_everybody_gets_fails_nothing_for_good(
    sandbox: Sandbox, tmp_path: Path, first: str, status: int | None
) -> None:
    """As from a service manager that stops each process by itself; whatever status the task makes of it."""
    document = waiting(tmp_path) if status is None else trapping(tmp_path, status)
    with sandbox.node() as node:
        run_id = node.execute(document).body["run_id"]
        pids = {"task": first_pid(tmp_path), "worker": worker_pid(sandbox), "node": node.process.pid}
        for name in sorted(pids, key=lambda name: name != first):
            with suppress(ProcessLookupError):
                os.kill(pids[name], signal.SIGTERM)
        assert node.process.wait(30) == 0
    with sandbox.node() as node:
        run = node.finished(run_id)

    assert run["status"] == "completed", run
    assert_tried_twice(sandbox, tmp_path)


def test_a_node_that_is_told_to_stop_twice_ends_at_once_and_its_workers_after_it(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    (sandbox.home / "cis.toml").write_text('[worker]\ngrace = "30s"\n')
    with sandbox.node() as node:
        run_id = node.execute(waiting(tmp_path)).body["run_id"]
        task, worker = first_pid(tmp_path), worker_pid(sandbox)
        with half_a_request(node):
            node.process.terminate()
            wait_for(lambda: not answers(node), what="the end of listening")
            node.process.terminate()
            status = node.process.wait(3)
        node.process.returncode = 0
        wait_for(lambda: not alive(worker) and not alive(task), timeout_s=10, what="the end of the worker")
    with sandbox.node() as node:
        run = node.finished(run_id)

    assert status == -signal.SIGTERM
    assert run["status"] == "completed"
    assert_tried_twice(sandbox, tmp_path)
