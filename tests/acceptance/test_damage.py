"""A damaged database, told by everything that meets it, and mended by a backup that was taken under load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.worlds.harness import NodeProcess, Sandbox
from tests.worlds.waiting import wait_for

TASKS = [{"id": f"t{number}", "command": "true"} for number in range(3)]
PAGE = 4096


def dag(number: int) -> dict[str, Any]:
    """Return a DAG of three tasks."""
    return {"dag_id": f"d{number}", "tasks": TASKS}


def damage(database: Path, *tables: str) -> None:
    """Overwrite the first page of some tables, as a bad disk does."""
    connection = apsw.Connection(str(database))
    connection.set_busy_timeout(10_000)
    pages = [connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (one,)).get for one in tables]
    left, _ = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    assert left == 0
    connection.close()
    with database.open("r+b") as file:
        for page in pages:
            file.seek((page - 1) * PAGE)
            file.write(b"\xa5" * PAGE)


@pytest.fixture
def backed_up(sandbox: Sandbox, tmp_path: Path) -> tuple[Sandbox, Path, int]:
    """A home with runs, and a backup of it that was taken while they were made; how many there are in all."""
    with sandbox.node() as node:
        run_ids = [node.execute(dag(0)).body["run_id"]]
        backups = []
        for number in range(1, 4):
            run_ids += [node.execute(dag(number)).body["run_id"] for _ in range(10)]
            backups.append(tmp_path / f"backup-{number}.db")
            sandbox.json("db", "backup", str(backups[-1]))
        for run_id in run_ids:
            node.finished(run_id)
        backups.append(tmp_path / "backup.db")
        sandbox.json("db", "backup", str(backups[-1]))
    for backup in backups:
        assert_consistent(backup)
    return sandbox, backups[-1], len(run_ids)


def assert_consistent(backup: Path) -> None:
    """A backup is of one moment: every run has all its tasks, and is over or in the queue."""
    connection = apsw.Connection(str(backup))
    found = connection.execute("PRAGMA integrity_check").fetchall()
    found += connection.execute("PRAGMA foreign_key_check").fetchall()
    halves = connection.execute(
        "SELECT run_id FROM dag_runs r WHERE task_count != (SELECT count(*) FROM run_tasks t WHERE t.run_id = r.run_id)"
        " OR (status IN ('pending', 'running')) != (SELECT count(*) FROM worker_queue q WHERE q.run_id = r.run_id)"
    ).fetchall()
    connection.close()

    assert found == [("ok",)]
    assert halves == []


def not_ready(node: NodeProcess) -> str:
    """Return why the node takes no DAGs; empty when it does."""
    answer = node.call("GET", "/ready", token=None)
    return "" if answer.status == 200 else str(answer.body["detail"])


def test_damage_is_told_by_everything_that_meets_it_and_a_backup_mends_it(
    backed_up: tuple[Sandbox, Path, int],
) -> None:
    sandbox, backup, runs = backed_up
    damage(sandbox.home / "cis.db", "run_tasks")
    with sandbox.node() as node:
        why = wait_for(lambda: not_ready(node), timeout_s=15, what="/ready to notice the damage")
        told = node.call("GET", "/api/v1/runs")
        run = node.call("GET", f"/api/v1/runs/{told.body['items'][0]['run_id']}")
        refused = sandbox.cis("db", "restore", str(backup))
    checked = sandbox.json("db", "check", expect=1)
    spoken = sandbox.cis("dag", "status", "d1")
    doctor = sandbox.json("doctor", expect=1)
    restored = sandbox.json("db", "restore", str(backup))
    after = sandbox.json("db", "check")
    with sandbox.node() as node:
        ready = not_ready(node)
        again = node.finished(node.execute(dag(9)).body["run_id"])

    assert "damaged" in why
    assert (run.status, run.body["code"]) == (503, "store.damaged")
    assert "cis db restore" in run.body["detail"]
    assert refused.returncode == 4
    assert checked["faults"]
    assert (spoken.returncode, "cis db check" in spoken.stderr) == (1, True)
    assert any("restore" in finding["mend"] for finding in doctor["findings"])
    assert Path(restored["kept"]).exists()
    assert after["ok"]
    assert ready == ""
    assert again["status"] == "completed"
    assert sandbox.rows("SELECT count(*) FROM dag_runs WHERE status = 'completed'") == [(runs + 1,)]


def test_damage_under_a_running_node_is_noticed_within_seconds(sandbox: Sandbox) -> None:
    with sandbox.node() as node:
        for number in range(5):
            node.finished(node.execute(dag(number)).body["run_id"])
        assert not_ready(node) == ""
        damage(sandbox.home / "cis.db", "task_executions")
        why = wait_for(lambda: not_ready(node), timeout_s=30, what="/ready to notice the damage")

    assert "damaged" in why
