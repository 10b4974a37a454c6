"""A database that somebody else keeps locked: short, nothing happens; for longer than a lease, workers stop by themselves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from tests.worlds.harness import Sandbox, alive
from tests.worlds.waiting import wait_for


@contextmanager
def locked(sandbox: Sandbox) -> Iterator[None]:
    """Hold the write lock of the database."""
    connection = apsw.Connection(str(sandbox.home / "cis.db"))
    connection.set_busy_timeout(10_000)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def holding(folder: Path, *, ends: str) -> dict[str, object]:
    """Return a DAG whose task says its pid, and whose first attempt runs until the file *ends* is there."""
    trap = f"trap 'touch {folder}/asked; exit 0' TERM"
    command = (
        f"{trap}; echo $$ >> {folder}/pids; test $CIS_ATTEMPT = 2 || until test -e {folder}/{ends}; do sleep 0.05; done"
    )
    return {"dag_id": "holds", "tasks": [{"id": "t", "command": command}]}


def task_pid(folder: Path) -> int:
    file = folder / "pids"
    return int(wait_for(lambda: file.read_text().split() if file.exists() else [], what="the task")[0])


def settings(sandbox: Sandbox, text: str) -> None:
    sandbox.home.mkdir(mode=0o700)
    (sandbox.home / "cis.toml").write_text(f"[worker]\n{text}\n")


def test_a_database_that_is_locked_for_less_than_a_lease_costs_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    settings(sandbox, 'lease = "10s"')
    with sandbox.node() as node:
        run_id = node.execute(holding(tmp_path, ends="go")).body["run_id"]
        task = task_pid(tmp_path)
        with locked(sandbox):
            (tmp_path / "go").touch()
            wait_for(lambda: not alive(task), what="the end of the task")
            log = sandbox.home / "logs" / "workers" / "worker-global.log"
            wait_for(lambda: "a transaction failed" in log.read_text(), what="a transaction that failed")
        run = node.finished(run_id)

    assert run["status"] == "completed"
    assert sandbox.rows("SELECT attempt, status FROM task_executions") == [(1, "completed")]


def test_a_database_that_is_locked_for_longer_than_a_lease_ends_tasks_and_workers_and_they_come_back(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    settings(sandbox, 'lease = "2s"\ngrace = "1s"')
    with sandbox.node() as node:
        run_id = node.execute(holding(tmp_path, ends="never")).body["run_id"]
        task = task_pid(tmp_path)
        worker = sandbox.rows("SELECT pid FROM workers")[0][0]
        with locked(sandbox):
            wait_for(lambda: not alive(task) and not alive(worker), timeout_s=20, what="the end of both")
        run = node.finished(run_id)

    assert run["status"] == "completed"
    assert (tmp_path / "asked").exists()
    assert sandbox.rows("SELECT attempt, status FROM task_executions") == [(1, "lost"), (2, "completed")]


def test_a_worker_that_stops_for_want_of_a_lease_says_so_and_ends_with_status_1(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    settings(sandbox, 'lease = "1s"')
    sandbox.json("dag", "list")
    arguments = ["worker", "run", "--id", "worker-global", "--scope", "global"]
    log = tmp_path / "worker.log"
    with (
        log.open("wb") as file,
        subprocess.Popen([sys.executable, "-m", "cis", *arguments], env=dict(sandbox.env), stderr=file) as worker,
    ):
        try:
            wait_for(lambda: sandbox.rows("SELECT 1 FROM workers"), timeout_s=20, what="the worker")
            with locked(sandbox):
                status = worker.wait(20)
        finally:
            worker.kill()

    assert status == 1
    assert "worker-global could not renew its lease for 1 s" in log.read_text()
