"""A skill of an installed package may wait: without a process, and through the death of its worker and its node."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.worlds.harness import NodeProcess, Sandbox
from tests.worlds.waiting import wait_for

PACKAGE = """
from pathlib import Path
from cis.engine.ports import Wait

class Until:
    name = "until"
    description = "Waits for some seconds, or until a file is there."
    triggers = ("task",)
    literal_params = frozenset()
    waits = True

    def check(self, params):
        return []

    def plan(self, params):
        if "for" in params:
            return Wait(for_s=params["for"])
        path = Path(params["file"])
        return Wait(ask=lambda: {"text": path.read_text()} if path.exists() else None, every_s=0.2)
"""


@pytest.fixture
def waiter(sandbox: Sandbox, tmp_path: Path) -> Sandbox:
    """Return a sandbox whose Python has the package, and whose workers have a lease of two seconds."""
    site = tmp_path / "site"
    info = site / "until-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "until.py").write_text(PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: until\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cis.skills]\nuntil = until:Until\n")
    sandbox.home.mkdir(mode=0o700)
    (sandbox.home / "cis.toml").write_text('[worker]\nlease = "2s"\nslots = 1\n')
    return replace(
        sandbox,
        env={
            **sandbox.env,
            "PYTHONPATH": os.pathsep.join([str(site), *sandbox.env.get("PYTHONPATH", "").split(os.pathsep)]),
        },
    )


def test_waits_go_on_when_worker_and_node_are_killed_with_one_attempt_each(waiter: Sandbox, tmp_path: Path) -> None:
    document = {
        "dag_id": "waits",
        "tasks": [
            {"id": "moment", "skill": "until", "params": {"for": 3.0}},
            {"id": "file", "skill": "until", "params": {"file": str(tmp_path / "file")}},
            {"id": "other", "command": "true"},
            {
                "id": "after",
                "command": 'test "$TEXT" = here',
                "env": {"TEXT": "${tasks.file.outputs.text}"},
                "depends_on": ["file"],
            },
        ],
    }

    def waiting(node: NodeProcess, run_id: str) -> bool:
        tasks = {task["id"]: task for task in node.run(run_id)["tasks"]}
        begun = tasks["moment"]["status"] != "pending" and tasks["other"]["status"] == "completed"
        return begun and (tasks["file"]["waiting"] or {}).get("reason") == "wait"

    with waiter.node() as node:
        run_id = node.execute(document).body["run_id"]
        wait_for(lambda: waiting(node, run_id), what="both to wait, beside a task that has the only slot")
        (pid,) = waiter.rows("SELECT pid FROM workers WHERE status NOT IN ('dead', 'stopped')")[0]
        node.process.kill()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        node.process.wait()
        node.process.returncode = 0
    with waiter.node() as node:
        (tmp_path / "file").write_text("here")
        done = node.finished(run_id)

    tasks = {task["id"]: task for task in done["tasks"]}
    (lasted_us,) = waiter.rows("SELECT finished_at_us - started_at_us FROM run_tasks WHERE task_id = 'moment'")[0]
    assert done["status"] == "completed"
    assert [task["attempts"] for task in tasks.values()] == [1, 1, 1, 1]
    assert lasted_us >= 3_000_000
