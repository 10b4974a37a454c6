"""DAGs as tasks, as their parent sees them: how many at once, who cancelled one, what it hands on, what it is handed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cis.engine.accept.control import cancel
from cis.engine.accept.submit import SubmitRequest, save, submit
from cis.engine.observe.views import read_run
from cis.model.document import dag_from_plain
from cis.model.states import Priority, TaskState
from cis.store.records import RunRecord
from tests.worlds.deciding import decider
from tests.worlds.looping import Worker, working


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        yield worker


def handed_in(worker: Worker, *tasks: dict[str, Any], **document: Any) -> RunRecord:
    plain = {"dag_id": "parent", "target_node": "node-1", "tasks": list(tasks), **document}
    with worker.store.transaction():
        request = SubmitRequest(spec=dag_from_plain(plain))
        return submit(worker.store, request, this_node=worker.node.this_node).run


def child(
    task_id: str, command: str = "true", *, document: dict[str, Any] | None = None, **task: Any
) -> dict[str, Any]:
    """Return a DAG of one task as a task."""
    inner = {"dag_id": f"child-{task_id}", "tasks": [{"id": "a", "command": command}], **(document or {})}
    return {"id": task_id, "skill": "dag", "params": {"document": inner}, **task}


def ended(worker: Worker, run: RunRecord) -> str:
    """Have a run done while time passes; return its end."""

    def over() -> bool:
        worker.node.later(0.1)
        return worker.node.run(run.run_id).status.final

    worker.until(over, "its end")
    return str(worker.node.run(run.run_id).status)


def cancelled(worker: Worker, run_id: str) -> None:
    with worker.node.store.transaction():  # the worker's own store would take it for its own doing
        cancel(worker.node.store, run_id, now_us=worker.node.now_us)


def test_dags_and_processes_are_counted_together_by_max_parallel(worker: Worker, tmp_path: Path) -> None:
    note = f"echo begin >> {tmp_path}/seen; sleep 0.05; echo end >> {tmp_path}/seen"
    tasks = [child("c1", note), child("c2", note), {"id": "p", "command": note}, child("c3", note)]
    run = handed_in(worker, *tasks, max_parallel=1)
    said = set()

    def look() -> bool:
        rows = worker.store.tasks.of_run(run.run_id)
        said.add(sum(task.status is TaskState.RUNNING for task in rows))
        return worker.node.run(run.run_id).status.final

    worker.until(look, "its end")

    assert (tmp_path / "seen").read_text().split() == ["begin", "end"] * 4
    assert max(said) == 1
    assert str(worker.node.run(run.run_id).status) == "completed"


def test_a_dag_that_waits_for_another_of_its_run_says_so(worker: Worker, tmp_path: Path) -> None:
    run = handed_in(
        worker, child("c1", f"until test -e {tmp_path}/go; do sleep 0.02; done"), child("c2"), max_parallel=1
    )
    worker.until(lambda: worker.task(run.run_id, "c1").status is TaskState.RUNNING, "the first child")
    worker.turn()
    seen = read_run(worker.store, run.run_id)
    (tmp_path / "go").touch()
    end = ended(worker, run)

    assert seen["waiting"]["reason"] == "child_run"
    assert "max_parallel" in seen["tasks"][1]["waiting"]["message"]
    assert end == "completed"


def test_a_child_that_somebody_cancels_is_not_started_again_and_its_task_counts_as_failed(worker: Worker) -> None:
    run = handed_in(
        worker,
        child("c", "sleep 60", max_retries=2, retry_delay=0),
        {"id": "after", "command": "true", "depends_on": ["c"]},
        {"id": "beside", "command": "true"},
    )
    worker.until(lambda: worker.task(run.run_id, "c").status is TaskState.RUNNING, "the child")
    child_id = worker.child(run.run_id)
    cancelled(worker, child_id)
    end = ended(worker, run)

    found = {name: worker.task(run.run_id, name) for name in ("c", "after", "beside")}
    assert end == "failed"
    assert {name: str(task.status) for name, task in found.items()} == {
        "c": "cancelled",
        "after": "skipped",
        "beside": "completed",
    }
    assert found["c"].attempts == 1
    assert found["c"].error == f"its run {child_id} of DAG 'child-c' was cancelled"
    assert found["after"].blocked_by == "c"


def test_what_follows_a_cancelled_child_is_skipped_by_whoever_takes_the_run_over(worker: Worker) -> None:
    run = handed_in(worker, child("c", "sleep 60"), {"id": "after", "command": "true", "depends_on": ["c"]})
    worker.until(lambda: worker.task(run.run_id, "c").status is TaskState.RUNNING, "the child")
    worker.forget_plans()
    cancelled(worker, worker.child(run.run_id))

    assert ended(worker, run) == "failed"
    assert str(worker.task(run.run_id, "after").status) == "skipped"


def test_a_child_that_is_cancelled_for_its_time_limit_is_tried_again(worker: Worker) -> None:
    run = handed_in(worker, child("c", "sleep 60", max_retries=1, retry_delay=0, timeout=60))
    worker.until(lambda: worker.task(run.run_id, "c").status is TaskState.RUNNING, "the child")
    worker.node.later(61)
    worker.until(lambda: worker.task(run.run_id, "c").attempts == 2, "its second attempt")
    first = worker.store.runs.children(run.run_id)[0]
    cancelled(worker, run.run_id)
    ended(worker, run)

    assert worker.task(run.run_id, "c").failures == 1
    assert str(worker.node.run(first.run_id).status) == "cancelled"


def test_a_failed_child_is_named_with_its_dag(worker: Worker) -> None:
    run = handed_in(worker, child("c", "exit 3"))

    assert ended(worker, run) == "failed"
    assert worker.task(run.run_id, "c").error == f"its run {worker.child(run.run_id)} of DAG 'child-c' failed"


def test_a_child_has_its_parents_priority_unless_it_says_another(worker: Worker) -> None:
    with worker.store.transaction():
        stored = dag_from_plain({"dag_id": "stored", "tasks": [{"id": "a", "command": "true"}]})
        save(worker.store.definitions, stored, this_node=worker.node.this_node)
    run = handed_in(
        worker,
        child("silent"),
        child("usual", document={"priority": "normal"}),
        child("low", document={"priority": "low"}),
        {"id": "by-name", "skill": "dag", "params": {"dag_id": "stored"}},
        priority="critical",
    )
    end = ended(worker, run)

    found = {one.parent_task_id: one.priority for one in worker.store.runs.children(run.run_id)}
    assert end == "completed"
    assert found == {
        "silent": Priority.CRITICAL,
        "usual": Priority.NORMAL,
        "low": Priority.LOW,
        "by-name": Priority.CRITICAL,
    }


def test_the_outputs_of_a_child_are_those_that_were_written_last_and_its_own_run_id(worker: Worker) -> None:
    document = {
        "tasks": [
            {"id": "final", "command": "echo version=2 >> $CIS_OUTPUT; echo run_id=mine >> $CIS_OUTPUT", "depends_on": ["draft"]},
            {"id": "draft", "command": "echo version=1 >> $CIS_OUTPUT; echo only=draft >> $CIS_OUTPUT"},
        ]
    }  # fmt: skip
    run = handed_in(worker, child("c", document=document))
    ended(worker, run)

    assert worker.task(run.run_id, "c").outputs == {
        "version": "2",
        "only": "draft",
        "run_id": worker.child(run.run_id),
    }


def test_the_env_of_a_dag_task_is_that_of_its_dag_below_what_its_tasks_say(worker: Worker, tmp_path: Path) -> None:
    tell = f'echo "$A $B $C" >> {tmp_path}/seen'
    document = {"env": {"A": "dag", "B": "dag"}, "tasks": [{"id": "a", "command": tell, "env": {"A": "task"}}]}
    run = handed_in(
        worker,
        {"id": "first", "command": 'echo "made=it is $HOME" >> $CIS_OUTPUT'},
        child("c", document=document, depends_on=["first"], env={"A": "outer", "B": "outer", "C": "${tasks.first.outputs.made}"}),
    )  # fmt: skip

    assert ended(worker, run) == "completed"
    assert (tmp_path / "seen").read_text() == "task outer it is \n"


def test_references_within_the_document_of_a_dag_task_are_its_own(worker: Worker, tmp_path: Path) -> None:
    document = {
        "tasks": [
            {"id": "same", "command": "echo made=inner >> $CIS_OUTPUT"},
            {"id": "b", "command": f'echo "$V" > {tmp_path}/seen', "env": {"V": "${tasks.same.outputs.made}"}, "depends_on": ["same"]},
        ]
    }  # fmt: skip
    run = handed_in(
        worker,
        {"id": "same", "command": "echo made=outer >> $CIS_OUTPUT"},
        child("c", document=document, depends_on=["same"]),
    )

    assert ended(worker, run) == "completed"
    assert (tmp_path / "seen").read_text() == "inner\n"
