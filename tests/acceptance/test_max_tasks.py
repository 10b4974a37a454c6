"""``[node] max_tasks``: tasks at once on this machine, over all scopes, with one place kept for scopes that run nothing."""

from __future__ import annotations

from pathlib import Path

from tests.worlds.harness import Sandbox
from tests.worlds.waiting import wait_for


def waiting(folder: Path, name: str, count: int) -> dict[str, object]:
    """Return a DAG of one scope whose tasks run until the file *name* is there."""
    command = f"until test -e {folder}/{name}; do sleep 0.05; done"
    tasks = [{"id": f"t{number}", "command": command} for number in range(count)]
    return {"dag_id": name, "scope": f"project:{name}", "tasks": tasks}


def test_all_scopes_together_run_no_more_tasks_than_allowed_and_a_new_scope_starts_at_once(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    with sandbox.node(CIS_MAX_TASKS="4", CIS_SLOTS="8") as node:
        big = node.execute(waiting(tmp_path, "big", 6)).body["run_id"]
        wait_for(lambda: running(sandbox) == 3, what="three tasks of the first scope")
        new = node.execute(waiting(tmp_path, "new", 2)).body["run_id"]
        wait_for(lambda: node.run(new)["tasks"][0]["status"] == "running", what="the first task of the new scope")
        held = wait_for(
            lambda: [one for one in node.run(new)["tasks"] if (one["waiting"] or {}).get("reason") == "machine"],
            what="the second to say what it waits for",
        )
        most = running(sandbox)
        (tmp_path / "big").touch()
        (tmp_path / "new").touch()
        ended = [node.finished(run_id)["status"] for run_id in (big, new)]

    spans = sandbox.rows("SELECT started_at_us, finished_at_us FROM task_executions")
    assert most == 4
    assert "max_tasks" in held[0]["waiting"]["message"]
    assert ended == ["completed"] * 2
    assert max(sum(begin <= start < end for begin, end in spans) for start, _ in spans) <= 4


def running(sandbox: Sandbox) -> int:
    """Return how many attempts run."""
    return int(sandbox.rows("SELECT count(*) FROM task_executions WHERE status = 'running'")[0][0])
