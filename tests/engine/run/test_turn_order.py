"""Nothing that can wait comes between a commit and its first start, or between an end and the next start."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from cis.engine.run import loop, spawning
from cis.engine.run.attempts import AttemptMaker
from cis.executors.local import LocalExecutor
from cis.model.states import RunState
from tests.worlds.deciding import decider
from tests.worlds.looping import ended, watch, working
from tests.worlds.waiting import wait_for


def test_a_chain_starts_first_and_has_its_next_launch_made_while_a_task_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    watch(monkeypatch, seen, AttemptMaker, "launch", "made")
    watch(monkeypatch, seen, AttemptMaker, "sweep", "swept")
    watch(monkeypatch, seen, LocalExecutor, "start", "started")
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        follower = {"id": "b", "command": "true", "depends_on": ["a"]}
        run = node.submitted({"id": "a", "command": "true"}, follower, target_node="node-1")
        worker.until(lambda: node.run(run.run_id).status is RunState.COMPLETED, "the end of the run")

    assert seen == ["made", "started", "made", "swept", "started"]


def test_between_many_starts_what_has_ended_is_attended_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(spawning, "ATTEND_EVERY", 2)
    watch(monkeypatch, seen, loop.WorkerLoop, "attend", "attended")
    watch(monkeypatch, seen, LocalExecutor, "start", "started")
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        run = node.submitted(*({"id": name, "command": "true"} for name in "abcd"), target_node="node-1")
        worker.until(lambda: node.run(run.run_id).status is RunState.COMPLETED, "the end of the run")

    first = seen.index("started")
    assert seen[first : first + 5] == ["started", "started", "attended", "started", "started"]


def test_what_ends_while_the_write_lock_is_waited_for_is_stored_with_the_rest(tmp_path: Path) -> None:
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        gate = tmp_path / "gate"
        run = node.submitted({"id": "a", "command": f"until [ -e {gate} ]; do sleep 0.01; done"}, target_node="node-1")
        worker.until(lambda: worker.pids, "the task")
        (pid,) = worker.pids
        others = ExitStack()
        others.enter_context(node.store.transaction())

        def let_go() -> None:
            gate.touch()
            wait_for(lambda: ended(pid), what="the end of the task")
            others.close()

        worker.store.wait_at_most(10.0, meanwhile=let_go)
        worker.turn()

        assert node.run(run.run_id).status is RunState.COMPLETED
