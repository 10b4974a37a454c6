"""Which task took its worker down: what counts as a loss, and how the guilty one is found among the innocent."""

from __future__ import annotations

from pathlib import Path

from cis.model.scope import GLOBAL
from cis.model.states import AttemptState, TaskState
from cis.store.records import WorkerRecord
from cis.worker.rescuer import bury
from tests.worlds.deciding import Decider, decider
from tests.worlds.looping import Worker, working


def row(worker: Worker) -> WorkerRecord:
    found = worker.store.workers.get("node-1", GLOBAL.worker_id)
    assert found is not None
    return found


def buried(node: Decider, worker: WorkerRecord, *, unasked: bool) -> None:
    """Bury a worker whose processes are gone."""
    assert bury(node.store, worker, kill=lambda _: (), now_us=node.now_us, unasked=unasked)


def died(node: Decider, folder: Path, *, running: int, unasked: bool = True) -> None:
    """Have a worker run as many tasks, and die with them."""
    with working(node, folder) as worker:
        worker.until(lambda: len(worker.pids) == running, f"{running} tasks")
        last = row(worker)
    buried(node, last, unasked=unasked)


def losses(node: Decider, run_id: str) -> list[tuple[int, int]]:
    """Return the losses of a run's tasks: the task, and how many."""
    return [(loss.task_no, loss.losses) for loss in node.store.attempts.losses(run_id)]


def test_only_a_worker_that_died_unasked_while_an_attempt_ran_alone_counts(tmp_path: Path) -> None:
    with decider(tmp_path) as node:
        run = node.submitted({"command": "sleep 600"}, target_node="node-1")
        died(node, tmp_path, running=1, unasked=False)
        asked = losses(node, run.run_id)
        died(node, tmp_path, running=1)
        died(node, tmp_path, running=1)

        assert asked == []
        assert losses(node, run.run_id) == [(0, 2)]


def test_of_several_none_is_counted_and_each_is_tried_again_apart(tmp_path: Path) -> None:
    with decider(tmp_path) as node:
        run = node.submitted(*[{"command": "sleep 600"}] * 3, target_node="node-1")
        died(node, tmp_path, running=3)
        counted = losses(node, run.run_id)
        with working(node, tmp_path) as worker:
            worker.until(lambda: worker.pids, "the first of them")
            for _ in range(5):
                worker.turn()
            states = [task.status for task in worker.store.tasks.of_run(run.run_id)]

            assert counted == [(0, 0), (1, 0), (2, 0)]
            assert states == [TaskState.RUNNING, TaskState.PENDING, TaskState.PENDING]


def test_a_new_task_starts_beside_one_that_runs_apart_only_when_that_has_outlived_its_suspicion(tmp_path: Path) -> None:
    with decider(tmp_path) as node:
        node.submitted({"command": "sleep 600"}, target_node="node-1")
        died(node, tmp_path, running=1)
        node.submitted({"command": "sleep 600"}, target_node="node-1")
        with working(node, tmp_path) as worker:
            worker.until(lambda: worker.pids, "the one that lost its worker")
            for _ in range(5):
                worker.turn()
            beside = len(worker.pids)
            node.later(61)
            worker.until(lambda: len(worker.pids) == 2, "the other one")

            assert beside == 1


def test_a_long_innocent_task_holds_up_neither_other_suspects_nor_their_conviction(tmp_path: Path) -> None:
    with decider(tmp_path) as node:
        long = node.submitted({"command": "sleep 600"}, target_node="node-1", dag_id="long")
        guilty = node.submitted({"command": "sleep 600"}, target_node="node-1", dag_id="guilty")
        died(node, tmp_path, running=2)
        with working(node, tmp_path) as worker:
            worker.until(lambda: worker.pids, "the first of them")
            first = next(run for run in (long, guilty) if worker.task(run.run_id).status is TaskState.RUNNING)
            second = guilty if first is long else long
            for _ in range(5):
                worker.turn()
            apart = len(worker.pids)
            node.later(62)
            worker.until(lambda: len(worker.pids) == 2, "the second beside the first, which has outlived its suspicion")
            last = row(worker)
        buried(node, last, unasked=True)
        with working(node, tmp_path) as worker:
            worker.until(lambda: worker.pids, "the one that had lived for the shortest time")
            for _ in range(5):
                worker.turn()
            alone = [run for run in (first, second) if worker.task(run.run_id).status is TaskState.RUNNING]
            last = row(worker)
        buried(node, last, unasked=True)

        assert apart == 1
        assert alone == [second]
        assert losses(node, first.run_id) == [(0, 0)]
        assert losses(node, second.run_id) == [(0, 1)]


def test_the_innocent_end_and_the_guilty_one_fails_after_three_losses(tmp_path: Path) -> None:
    with decider(tmp_path) as node:
        innocent = node.submitted({"command": "sleep 0.05"}, target_node="node-1", dag_id="innocent")
        guilty = node.submitted({"command": "sleep 600"}, target_node="node-1", dag_id="guilty")
        died(node, tmp_path, running=2)
        for _ in range(3):
            with working(node, tmp_path) as worker:
                worker.until(lambda: worker.task(guilty.run_id).status is TaskState.RUNNING, "the guilty one")
                last = row(worker)
            buried(node, last, unasked=True)
        with working(node, tmp_path) as worker:
            worker.until(lambda: worker.task(guilty.run_id).status is TaskState.FAILED, "its end")

            assert worker.task(innocent.run_id).status is TaskState.COMPLETED
            assert worker.attempts(guilty.run_id) == [(number, AttemptState.LOST) for number in (1, 2, 3, 4)]
            assert "max_losses" in (worker.task(guilty.run_id).error or "")


def test_what_ends_by_itself_starts_the_count_anew(tmp_path: Path) -> None:
    with decider(tmp_path) as node:
        task = {"command": f"test -e {tmp_path}/go && exit 3; sleep 600", "max_retries": 1, "retry_delay": 0}
        run = node.submitted(task, target_node="node-1")
        died(node, tmp_path, running=1)
        (tmp_path / "go").touch()
        with working(node, tmp_path) as worker:
            worker.until(lambda: worker.task(run.run_id).status is TaskState.FAILED, "its end")

            assert losses(node, run.run_id) == []


def test_a_dag_as_a_task_that_waits_for_its_run_is_no_suspect(tmp_path: Path) -> None:
    with decider(tmp_path) as node:
        document = {"dag_id": "inner", "tasks": [{"id": "x", "command": "sleep 600"}]}
        child = {"command": None, "skill": "dag", "params": {"document": document}}
        run = node.submitted(child, target_node="node-1")
        died(node, tmp_path, running=1)
        (inner,) = node.store.runs.children(run.run_id)

        assert losses(node, run.run_id) == []
        assert losses(node, inner.run_id) == [(0, 1)]
