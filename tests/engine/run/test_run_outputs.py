"""What all tasks of a run give is bounded together, whether they gave it themselves or had it from a DAG of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cis.engine import outputs
from cis.engine.outputs import MAX_OUTPUT_BYTES, MAX_RUN_OUTPUT_BYTES, size_of
from cis.engine.run import children
from cis.model.states import RunState, TaskState
from tests.worlds.deciding import decider
from tests.worlds.looping import Worker, working

ALMOST_ALL = MAX_OUTPUT_BYTES - 100


def giver(name: str, **fields: Any) -> dict[str, Any]:
    """Return a task that gives one output, named after itself, of nearly as much as a task may."""
    write = f"printf 'v{name}=' >$CIS_OUTPUT; head -c {ALMOST_ALL} /dev/zero | tr '\\0' x >>$CIS_OUTPUT"
    return {"id": name, "command": write, **fields}


def nested(document: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return a task that is a DAG."""
    return {"id": "child", "command": None, "skill": "dag", "params": {"document": document}, **fields}


def kept(worker: Worker, run_id: str) -> int:
    """Return how many bytes of outputs the rows of a run hold."""
    return sum(size_of(task.outputs) for task in worker.store.tasks.of_run(run_id))


def test_a_task_beyond_what_its_run_may_keep_fails_with_both_numbers_and_the_way_out(tmp_path: Path) -> None:
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        run = node.submitted(*(giver(f"t{number}") for number in range(20)), target_node="node-1")
        worker.until(lambda: node.run(run.run_id).status.final, "the end of the run")

        tasks = worker.store.tasks.of_run(run.run_id)
        failed = [task for task in tasks if task.status is TaskState.FAILED]
        assert node.run(run.run_id).status is RunState.FAILED
        assert len(tasks) - len(failed) == MAX_RUN_OUTPUT_BYTES // MAX_OUTPUT_BYTES
        assert kept(worker, run.run_id) <= MAX_RUN_OUTPUT_BYTES
        for task in failed:
            assert f"{ALMOST_ALL + len('v') + len(task.task_id):,} bytes" in str(task.error)
            assert f"{MAX_RUN_OUTPUT_BYTES:,} is the limit" in str(task.error)
            assert "output their paths" in str(task.error)


def test_what_a_dag_as_a_task_hands_up_counts_in_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "MAX_RUN_OUTPUT_BYTES", 3 * MAX_OUTPUT_BYTES)
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        child = {"dag_id": "child", "scope": "global", "target_node": "node-1", "tasks": [giver("a"), giver("b")]}
        run = node.submitted(
            giver("before1"),
            giver("before2"),
            nested(child, depends_on=["before1", "before2"]),
            {"id": "after", "command": "true", "depends_on": ["child"]},
            target_node="node-1",
        )
        worker.until(lambda: node.run(run.run_id).status.final, "the end of the run")

        assert node.run(worker.child(run.run_id)).status is RunState.COMPLETED
        assert "output their paths" in str(worker.task(run.run_id, "child").error)
        assert worker.task(run.run_id, "after").status is TaskState.SKIPPED


def test_a_child_with_more_than_a_run_may_keep_is_not_read_and_its_parent_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program of before, or another node, may have let it keep them."""
    monkeypatch.setattr(children, "_MOST_STORED", MAX_OUTPUT_BYTES)
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        monkeypatch.setattr(worker.store.tasks, "outputs", pytest.fail)
        child = {"dag_id": "child", "scope": "global", "target_node": "node-1", "tasks": [giver("a"), giver("b")]}
        run = node.submitted(nested(child), target_node="node-1")
        worker.until(lambda: node.run(run.run_id).status.final, "the end of the run")

        task = worker.task(run.run_id, "child")
        assert task.status is TaskState.FAILED
        assert "more outputs than one run may keep" in str(task.error)
        assert not task.outputs


def test_what_is_counted_are_bytes_of_names_and_values_and_all_of_the_bound_may_be_used() -> None:
    assert size_of({"a": "ü", "b": ""}) == 4
    assert outputs.no_room(1, MAX_RUN_OUTPUT_BYTES - 1) is None
    assert outputs.no_room(2, MAX_RUN_OUTPUT_BYTES - 1) is not None


def test_outputs_that_a_run_has_when_it_is_taken_up_count_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "MAX_RUN_OUTPUT_BYTES", 2 * MAX_OUTPUT_BYTES)
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        last = giver("c", depends_on=["wait"])
        run = node.submitted(
            giver("a"),
            giver("b"),
            {"id": "wait", "command": "until [ -e go ]; do sleep 0.01; done", "depends_on": ["a", "b"]},
            last,
            target_node="node-1",
        )
        worker.until(lambda: worker.task(run.run_id, "wait").status is TaskState.RUNNING, "the last two")
        worker.forget_plans()
        (tmp_path / "go").touch()
        worker.until(lambda: node.run(run.run_id).status.final, "the end of the run")

        assert worker.task(run.run_id, "wait").status is TaskState.COMPLETED
        assert "output their paths" in str(worker.task(run.run_id, "c").error)
