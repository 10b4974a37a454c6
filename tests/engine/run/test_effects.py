"""What a turn decides is done once it is stored, and not at all when its commit fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cis.engine.accept.control import cancel
from cis.engine.run.live import Ending
from cis.engine.run.loop import RETRY_STORE_S
from cis.model.states import RunState
from tests.worlds.deciding import Decider, decider
from tests.worlds.looping import Worker, working

CHILD = {"dag_id": "child", "tasks": [{"id": "c", "command": "exec sleep 60"}]}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Decider]:
    with decider(tmp_path) as node:
        yield node


def endings(worker: Worker) -> list[Ending | None]:
    return [live.ending for live in worker.loop._held.live]


def test_a_turn_whose_commit_fails_ends_no_process_and_wakes_nobody(node: Decider, tmp_path: Path) -> None:
    rung: list[str] = []
    with working(node, tmp_path) as worker:
        worker.loop._parts = replace(worker.loop._parts, ring=rung.append)
        dag = {"skill": "dag", "params": {"document": CHILD}, "command": None}
        run = node.submitted(dag, {"command": "exec sleep 60"}, target_node="node-1")
        worker.until(lambda: len(worker.pids) == 2, "both processes")
        rung.clear()
        with node.store.transaction():
            cancel(node.store, run.run_id, now_us=node.now_us)

        worker.store.broken = worker.store.late = True
        node.later(1.0)
        worker.turn()

        assert worker.loop.failing
        assert (endings(worker), rung) == ([None, None], [])
        worker.store.broken = False
        node.later(RETRY_STORE_S)
        worker.until(lambda: endings(worker) == [Ending.CANCEL] * 2, "the end of both")
        assert rung


def test_a_run_whose_end_was_not_stored_is_still_held(node: Decider, tmp_path: Path) -> None:
    with working(node, tmp_path) as worker:
        run = node.submitted({"command": "exec sleep 60"}, target_node="node-1")
        worker.until(lambda: worker.pids, "the process")
        worker.loop._parts.executor.end(worker.handles[0], force=True)
        worker.store.broken = worker.store.late = True
        worker.until(lambda: not worker.pids, "the end of the process")

        assert worker.loop._held.runs_done == 0
        assert not worker.loop.idle
        worker.store.broken = False
        node.later(RETRY_STORE_S)
        worker.until(lambda: node.run(run.run_id).status is RunState.FAILED, "the end of the run")
        assert worker.loop._held.runs_done == 1
