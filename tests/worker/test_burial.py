"""Whoever buries a worker touches nothing of the one that has taken its place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cis.engine.ports import Orphan
from cis.model.scope import GLOBAL
from cis.model.states import AttemptState
from cis.store.records import QueueState, WorkerState
from cis.worker.rescuer import bury
from tests.worlds.deciding import decider
from tests.worlds.looping import working


def test_a_burial_that_comes_late_ends_no_task_of_the_next_worker_and_keeps_its_runs(tmp_path: Path) -> None:
    killed: list[int | None] = []

    def kill(orphans: Sequence[Orphan]) -> Sequence[str]:
        killed.extend(orphan.pid for orphan in orphans)
        return ()

    with decider(tmp_path) as node:
        run = node.submitted({"command": "sleep 600"}, target_node="node-1")
        with working(node, tmp_path):
            pass
        with working(node, tmp_path) as successor:
            successor.until(lambda: successor.pids, "the task")
            row = successor.store.workers.get("node-1", GLOBAL.worker_id)
            assert row is not None
            buried = bury(successor.store, row._replace(epoch=row.epoch - 1), kill=kill, now_us=node.now_us)
            after = successor.store.workers.get("node-1", GLOBAL.worker_id)

            assert not buried
            assert killed == []
            assert successor.queued(run.run_id) is QueueState.CLAIMED
            assert successor.attempts(run.run_id) == [(1, AttemptState.RUNNING)]
            assert after is not None
            assert after.status is not WorkerState.DEAD
