"""A disk that is full, that fails or that was damaged: a clear error, and work goes on by itself where it can."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.acceptance.harness import NodeProcess, Sandbox, make_sandbox
from tests.battery import figures, first_seed, size
from tests.chaos.small_disk import fill, limit_files, make_room, small_disk
from tests.waiting import wait_for

LARGE = "x" * 100_000


def dag(number: int, *, description: str = "") -> dict[str, Any]:
    """Return a DAG of three tasks that write nothing."""
    tasks = [
        {"id": "a", "command": "true"},
        {"id": "b", "command": "sleep 0.1"},
        {"id": "c", "command": "true", "depends_on": ["a", "b"]},
    ]
    return {"dag_id": f"proj-{number % 2}-x", "description": description, "tasks": tasks}


class Disturbed:
    """A node whose disk fails at times, and what it has accepted."""

    def __init__(self, node: NodeProcess, disk: Path, random: Random) -> None:
        self._node = node
        self._disk = disk
        self._random = random
        self.accepted: list[str] = []
        self.refused = 0

    def submit(self, *, description: str = "") -> bool:
        """Hand in a DAG; return whether it was accepted. A refusal has to say what is wrong and when to come back."""
        answer = self._node.execute(dag(len(self.accepted), description=description))
        if answer.status == 202:
            self.accepted.append(answer.body["run_id"])
            return True
        assert answer.status == 503, answer
        assert answer.headers["content-type"] == "application/problem+json"
        assert int(answer.headers["retry-after"]) > 0
        assert answer.body["code"] in ("store", "store.full")
        assert "cis.db" in answer.body["detail"]
        self.refused += 1
        return False

    def ready(self) -> bool:
        """Return whether it says that it takes DAGs; if not, it has to say why."""
        answer = self._node.call("GET", "/ready", token=None)
        assert answer.status == 200 or (answer.body["code"] == "not_ready" and answer.body["detail"])
        return answer.status == 200

    def fill(self) -> None:
        fill(self._disk, leave=self._random.choice([0, 0, 4096, 50_000, 300_000]))

    def limit(self) -> None:
        limit_files(self._node.process.pid, self._random.choice([1, 40_000, 90_000]))

    def mend(self) -> None:
        """Let it write again: also what was started meanwhile."""
        limit_files(self._node.process.pid, -1)


@pytest.mark.timeout(1700)
def test_a_node_says_that_its_disk_fails_and_goes_on_by_itself_when_it_does_not(tmp_path: Path) -> None:
    times, random = size(20, 200), Random(first_seed())  # noqa: S311 - repeatable, not secret
    with small_disk(tmp_path / "home", mib=64) as disk:
        sandbox = make_sandbox(tmp_path)
        with sandbox.node(CIS_MAX_WORKERS="4") as node:
            disturbed = Disturbed(node, disk, random)
            for _ in range(times):
                disturb(disturbed, disk, random)
            for run_id in disturbed.accepted:
                assert node.finished(run_id)["status"] == "completed"
        check_books(sandbox, disturbed)
    figures("disk", times=times, accepted=len(disturbed.accepted), refused=disturbed.refused, lost=0)


def disturb(node: Disturbed, disk: Path, random: Random) -> None:
    """Have the disk fail under work once, until that was noticed, and then not any more."""
    node.submit()
    kind = random.choice(["full", "limit"])
    if kind == "full":
        node.fill()
    else:
        node.limit()
    wait_for(lambda: not node.ready(), timeout_s=10, what=f"/ready to notice that the disk is {kind}")
    wait_for(lambda: not node.submit(description=LARGE), timeout_s=20, what="a refusal")
    if kind == "full":
        make_room(disk)
    else:
        node.mend()
    wait_for(node.ready, timeout_s=20, what="/ready to notice that the disk is fine again")
    assert node.submit()
    node.mend()


def check_books(sandbox: Sandbox, node: Disturbed) -> None:
    """Every run that was accepted is there, and each of its tasks succeeded once."""
    runs = {run_id for (run_id,) in sandbox.rows("SELECT run_id FROM dag_runs")}
    assert set(node.accepted) <= runs
    successes = sandbox.rows(
        "SELECT count(*) FROM run_tasks t WHERE 1 != (SELECT count(*) FROM task_executions e"
        " WHERE e.run_id = t.run_id AND e.task_no = t.task_no AND e.status = 'completed')"
    )
    assert successes == [(0,)]
    assert sandbox.rows("PRAGMA integrity_check") == [("ok",)]
