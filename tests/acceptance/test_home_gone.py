"""A node whose home is removed or replaced under it notices, accepts nothing, and ends."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.worlds.harness import NodeProcess, Sandbox, alive
from tests.worlds.waiting import wait_for


def start_task(node: NodeProcess, folder: Path) -> int:
    """Start a task that runs on, and return its pid."""
    command = f"echo $$ > {folder}/pid; exec sleep 300"
    node.execute({"dag_id": "d", "tasks": [{"id": "t", "command": command}]})
    file = folder / "pid"
    return int(wait_for(lambda: file.read_text().strip() if file.exists() else "", what="the task"))


@pytest.mark.parametrize("how", ["removed", "moved", "replaced", "lock removed"])
def test_a_node_ends_with_a_clear_line_when_its_home_is_not_its_own_any_more(
    sandbox: Sandbox, tmp_path: Path, how: str
) -> None:
    """What it ran ends, too: nobody could store what became of it."""
    ended = pytest.raises(AssertionError, match="the node ended with 1")
    with ended, sandbox.node("--port", "0", CIS_GRACE="1s") as node:
        pid = start_task(node, tmp_path)
        if how == "removed":
            shutil.rmtree(sandbox.home)
        elif how == "lock removed":
            (sandbox.home / "run" / "node.lock").unlink()
        else:
            sandbox.home.rename(tmp_path / "away")
        if how == "replaced":
            sandbox.json("init", "--node-id", "other")
            (sandbox.home / "run" / "node.json").write_text("theirs")
        assert node.process.wait(40) == 1
    said = sandbox.node_log().splitlines()[-1]

    assert not alive(pid)
    assert "the node has ended" in said
    assert "removed or replaced" in said
    assert "Traceback" not in sandbox.node_log()
    if how == "replaced":
        assert (sandbox.home / "run" / "node.json").read_text() == "theirs"


def test_what_is_handed_in_after_the_home_was_removed_is_refused(sandbox: Sandbox) -> None:
    document = {"dag_id": "d", "tasks": [{"id": "t", "command": "true"}]}
    with pytest.raises(AssertionError, match="the node ended with 1"), sandbox.node() as node:
        shutil.rmtree(sandbox.home)
        try:
            answer = node.execute(document)
        except OSError:
            answer = None  # it was quicker, and is gone
        assert node.process.wait(40) == 1

    assert answer is None or (answer.status, answer.body["code"]) in (
        (503, "store.gone"),
        (401, "auth.unauthenticated"),
    )
