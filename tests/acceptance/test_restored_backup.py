"""A real node that was restored from a backup does not do again what it has done since."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from cis.model.message import Message, MessageKind
from cis.node.clock import new_id, now_us
from cis.node.identity import KeyFile
from cis.transports.envelope import EXECUTE_PATH, MEDIA_TYPE, frame, seal
from tests.worlds.cluster import ClusterNode, befriend, make_nodes, running
from tests.worlds.waiting import wait_for

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[ClusterNode]]:
    """Give a test two nodes that trust each other, both running."""
    made = make_nodes(tmp_path, 2)
    befriend(*made)
    with running(*made):
        for one, other in ((made[0], made[1]), (made[1], made[0])):
            wait_for(partial(_reaches, one, other), timeout_s=60, what="the peer")
        yield made


def _reaches(node: ClusterNode, other: ClusterNode) -> bool:
    return bool(node.peer(other.node_id)["reachable"])


def restored(node: ClusterNode, backup: Path) -> Any:
    """Put a backup in place, and start the node again."""
    node.stop()
    said = node.sandbox.json("db", "restore", str(backup))
    node.start()
    return said


def marks(folder: Path) -> list[str]:
    """Return what tasks have written, line by line."""
    path = folder / "marks"
    return path.read_text().split() if path.exists() else []


def marking(folder: Path, mark: str, **document: Any) -> dict[str, Any]:
    """Return a DAG that writes a mark, and then waits for a file."""
    command = f"echo {mark} >> {folder}/marks; while ! test -e {folder}/go; do sleep 0.1; done"
    return {"dag_id": "mark", "tasks": [{"id": "a", "command": command}], **document}


def test_what_was_pushed_before_the_restore_is_done_once_whoever_sends_it_again(
    nodes: list[ClusterNode], tmp_path: Path
) -> None:
    """Somebody on the network kept the message; and the origin itself has one that was never delivered."""
    origin, executor = nodes
    (tmp_path / "go").touch()
    backup, run_id = tmp_path / "backup", new_id()
    executor.sandbox.cis("db", "backup", str(backup))
    message = Message(
        kind=MessageKind.EXECUTE,
        message_id=new_id(),
        sender=origin.node_id,
        target=executor.node_id,
        run_id=run_id,
        created_at_us=now_us(),
        expires_at_us=now_us() + 7 * 86_400_000_000,
        fields={"scope": {"type": "global", "id": None}, "epoch": 0, **marking(tmp_path, "pushed")},
    )
    body = frame(seal(message, KeyFile(origin.sandbox.home / "node.key").signer()), message)

    def push() -> Any:
        answer = httpx.post(executor.url + EXECUTE_PATH, content=body, headers={"Content-Type": MEDIA_TYPE}, timeout=30)
        return answer.json()["result"]

    first = push()
    wait_for(lambda: executor.api.run(run_id).get("status") == "completed", timeout_s=60, what="the run's end")
    executor.stop()
    queued = str(origin.api.execute(marking(tmp_path, "queued", target_node=executor.node_id)).body["run_id"])
    said = executor.sandbox.json("db", "restore", str(backup))
    executor.start()
    again = push()
    delivered = origin.api.finished(queued, timeout_s=90)

    assert (first, again) == ("accepted", "later")
    assert delivered["status"] == "completed"
    assert sorted(marks(tmp_path)) == ["pushed", "queued"]
    assert said["known_until"] is not None
    assert push() == "later"


def test_a_run_that_ended_after_the_backup_is_not_begun_again_by_the_node_that_ran_it(
    nodes: list[ClusterNode], tmp_path: Path
) -> None:
    """One was handed in by another node, which is asked; one was its own, which a person decides."""
    origin, executor = nodes
    others = str(origin.api.execute(marking(tmp_path, "others", target_node=executor.node_id)).body["run_id"])
    own = str(executor.api.execute(marking(tmp_path, "own", scope="project:own")).body["run_id"])
    wait_for(lambda: sorted(marks(tmp_path)) == ["others", "own"], timeout_s=60, what="both tasks to run")
    executor.sandbox.cis("db", "backup", str(tmp_path / "backup"))
    (tmp_path / "go").touch()
    ended = [origin.api.finished(others, timeout_s=60)["status"], executor.api.finished(own, timeout_s=60)["status"]]
    said = restored(executor, tmp_path / "backup")
    asked = executor.api.finished(others, timeout_s=60)["status"]
    held = executor.api.run(own)
    doctor = executor.sandbox.cis("doctor").stdout
    before = sorted(marks(tmp_path))
    executor.sandbox.json("dag", "resume", "mark", "--run", own)

    assert ended == ["completed", "completed"]
    assert (said["held_runs"], said["asked_runs"]) == (1, 1)
    assert asked == "cancelled"
    assert origin.api.run(others)["status"] == "completed"
    assert (held["status"], before) == ("paused", ["others", "own"])
    assert "restored from a backup" in held["waiting"]["message"]
    assert "1 run may be over" in doctor
    assert executor.api.finished(own, timeout_s=60)["status"] == "completed"
    assert sorted(marks(tmp_path)) == ["others", "own", "own"]
