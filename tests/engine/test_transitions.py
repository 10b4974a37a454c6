"""Whatever moves a run or a task tells of it once, and there is one place that does."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cis.engine.accept.control import cancel
from cis.engine.accept.dispatch import undeliverable
from cis.engine.run.adoption import set_aside
from cis.federation.origin.arbiter import take_back
from cis.federation.restored import disown
from cis.model.message import MessageKind
from cis.store.cluster import RemoteRole
from cis.store.records import QueueState, RunRecord
from cis.transports.matrix.threads import _is_notable, _is_on_offer
from tests.worlds.deciding import Decider, decider

SRC = Path(__file__).parents[2] / "src"
MOVERS = {"runs.add", "runs.change", "runs.set_aside", "tasks.change", "tasks.cancel_unfinished", "tasks.mirror"}

Told = list[tuple[str, str | None, str, int | None]]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Decider]:
    with decider(tmp_path) as node:
        yield node


def told_of(node: Decider, run: RunRecord) -> Told:
    """Return what the events say of a run since it was accepted."""
    found = node.store.events.after(0, limit=1000)
    events = [event for event in found if event.run_id == run.run_id]
    return [(event.kind, event.task_id, event.status, event.data.get("version")) for event in events][1:]


def here(node: Decider) -> RunRecord:
    return node.submitted({"id": "a"}, {"id": "b"}, target_node="node-1")


def held(node: Decider) -> RunRecord:
    """Return a run that a worker has taken."""
    run = here(node)
    with node.store.transaction():
        node.store.queue.claim("node-1", run.worker_id, epoch=1, limit=1)
    item = node.store.queue.get(run.run_id)
    assert item is not None
    assert item.status is QueueState.CLAIMED
    return run


def cancelled(node: Decider, run: RunRecord) -> None:
    cancel(node.store, run.run_id, now_us=node.now_us)


ENDED: Told = [("task", "a", "cancelled", None), ("task", "b", "cancelled", None)]


def test_a_run_that_is_cancelled_before_a_worker_has_it_tells_of_each_of_its_tasks(node: Decider) -> None:
    run = here(node)

    with node.store.transaction():
        cancelled(node, run)

    assert told_of(node, run) == [*ENDED, ("run", None, "cancelled", 2)]


def test_a_run_that_cannot_be_delivered_tells_of_each_of_its_tasks(node: Decider) -> None:
    run = node.submitted({"id": "a"}, {"id": "b"}, target_node="node-2")

    with node.store.transaction():
        undeliverable(node.store, run.run_id, error="nobody is there", now_us=node.now_us)

    assert told_of(node, run) == [*ENDED, ("run", None, "failed", 2)]


@pytest.mark.parametrize("elsewhere", [True, False])
def test_that_a_run_is_to_be_cancelled_is_told_at_once(node: Decider, *, elsewhere: bool) -> None:
    run = node.submitted({"id": "a"}, {"id": "b"}, target_node="node-2") if elsewhere else held(node)
    if elsewhere:
        with node.store.transaction():
            node.store.outbox.remove_of_run(run.run_id, MessageKind.EXECUTE)

    for _ in range(2):
        with node.store.transaction():
            cancelled(node, run)

    assert told_of(node, run) == [("run", None, "pending", 2)]
    assert node.store.events.after(0, limit=9)[-1].data["cancel_requested"] == 1


def test_that_a_run_is_taken_back_from_its_node_is_told(node: Decider) -> None:
    run = node.submitted({"id": "a"}, {"id": "b"})
    node.change(run.run_id, role=RemoteRole.SENT, peer_id="node-2", epoch=1, lease_until_us=node.now_us)
    remote = node.remote(run.run_id)

    with node.store.transaction():
        assert take_back(node.store, remote, this_node=node.this_node)

    assert told_of(node, run) == [("run", None, "pending", 2)]


Move = Callable[[Decider, RunRecord], None]


def aside(node: Decider, run: RunRecord) -> None:
    with node.store.transaction():
        set_aside(node.store, run.run_id, worker_id=run.worker_id, why="odd", now_us=node.now_us)


def disowned(node: Decider, run: RunRecord) -> None:
    assert disown(node.store, reason="a copy", now_us=node.now_us) == 1
    assert node.run(run.run_id).status == "cancelled"


@pytest.mark.parametrize(("move", "status"), [(aside, "failed"), (disowned, "cancelled")])
def test_a_run_that_is_ended_unread_tells_of_each_of_its_tasks(node: Decider, move: Move, status: str) -> None:
    run = here(node)

    move(node, run)

    assert told_of(node, run) == [*ENDED, ("run", None, status, 2)]


def test_a_task_whose_name_is_damaged_leaves_no_event_that_nobody_can_read(node: Decider) -> None:
    run = here(node)
    with node.store.transaction():
        node.store._db.write("UPDATE run_tasks SET task_id = CAST(x'ff61' AS TEXT) WHERE task_no = 0")

    aside(node, run)

    assert told_of(node, run) == [ENDED[1], ("run", None, "failed", 2)]
    rows = node.store._db.row("SELECT count(*) FROM events")
    assert rows == (len(node.store.events.after(0, limit=99)),)


def test_the_room_is_not_told_again_that_a_run_started_when_it_is_cancelled_or_taken_back(node: Decider) -> None:
    run = node.submitted({"id": "a"})
    event = node.store.events.after(0, limit=1)[0]._replace(status="running", data={"version": 2})

    assert _is_notable(event)
    assert not _is_notable(event._replace(data={"version": 3, "cancel_requested": 1}))
    assert _is_on_offer(node.store.remotes, event)
    with node.store.transaction():
        node.store.remotes.put(replace(node.remote(run.run_id), role=RemoteRole.SENT, peer_id="node-2"))
    assert not _is_on_offer(node.store.remotes, event)


def methods_called(path: Path) -> set[str]:
    """Return what a module calls, as ``runs.change``: the last two names of each call."""
    calls = [part.func for part in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(part, ast.Call)]
    names = [ast.unparse(called).split(".") for called in calls if isinstance(called, ast.Attribute)]
    return {".".join(name[-2:]) for name in names}


def test_nothing_else_moves_a_run_or_a_task() -> None:
    found = {path.relative_to(SRC).as_posix(): methods_called(path) & MOVERS for path in SRC.rglob("*.py")}

    assert {name: calls for name, calls in found.items() if calls} == {"cis/engine/transitions.py": MOVERS}


def test_nothing_else_writes_an_event_of_a_run_or_a_task() -> None:
    writers = {
        path.relative_to(SRC).as_posix() for path in SRC.rglob("*.py") if "events.append" in methods_called(path)
    }

    assert writers == {"cis/engine/transitions.py", "cis/worker/process.py", "cis/worker/rescuer.py"}
