"""What the command line and the API both read: a run, the status of a DAG, and what is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from cis.app.control import Controlled
from cis.engine.accept import submit
from cis.engine.lookup import look_up_worker, run_of
from cis.engine.observe.views import LATEST_RUNS, read_run, read_status
from cis.errors import NotFoundError
from cis.model.states import AttemptState, RunState
from cis.store.records import RunRecord, WorkerState
from cis.transports.matrix import chat
from tests.worlds.deciding import decider, spec_of
from tests.worlds.looping import working
from tests.worlds.serving import NODE_ID, NodeUnderTest


def test_the_status_of_a_dag_has_its_latest_runs_with_their_tasks(node: NodeUnderTest) -> None:
    made = [node.submitted(dag_id="d").run_id for _ in range(LATEST_RUNS + 2)]
    node.submitted(dag_id="other")

    status = read_status(node.store, "d")

    assert status["dag"]["dag_id"] == "d"
    assert [run["run_id"] for run in status["runs"]] == made[: -LATEST_RUNS - 1 : -1]
    assert all([task["id"] for task in run["tasks"]] == ["a"] for run in status["runs"])


def test_the_status_of_one_run_has_that_run_alone(node: NodeUnderTest) -> None:
    old, _ = node.submitted(dag_id="d"), node.submitted(dag_id="d")

    status = read_status(node.store, "d", run_id=old.run_id)

    assert [run["run_id"] for run in status["runs"]] == [old.run_id]


def test_without_a_name_the_latest_run_is_meant(node: NodeUnderTest) -> None:
    node.submitted(dag_id="d")
    latest = node.submitted(dag_id="d")

    assert run_of(node.store, "d") == latest


def test_what_is_not_there_is_named(node: NodeUnderTest) -> None:
    other = node.submitted(dag_id="other")

    with pytest.raises(NotFoundError, match="DAG 'd'"):
        read_status(node.store, "d")
    with pytest.raises(NotFoundError, match="DAG 'd'"):
        run_of(node.store, "d")
    with pytest.raises(NotFoundError, match="no run"):
        read_run(node.store, "no-such-run")
    with pytest.raises(NotFoundError, match=other.run_id):
        run_of(node.store, "d", run_id=other.run_id)
    with pytest.raises(NotFoundError, match="worker-global"):
        look_up_worker(node.store.workers, NODE_ID, "worker-global")


def test_a_skipped_task_says_because_of_which(node: NodeUnderTest) -> None:
    run = node.changed(node.submitted({"id": "a"}, {"id": "b", "depends_on": ["a"]}), RunState.RUNNING)
    node.ended(run, node.started(run, "a"), AttemptState.FAILED, exit_code=9)
    node.skipped(run, "b", because="a")
    node.changed(run, RunState.FAILED)

    view = read_run(node.store, run.run_id)

    assert [(task["status"], task["skipped_because"]) for task in view["tasks"]] == [
        ("failed", None),
        ("skipped", "a"),
    ]


@pytest.mark.parametrize("state", [WorkerState.STOPPED, WorkerState.DEAD])
def test_a_run_whose_worker_is_gone_waits_for_one(node: NodeUnderTest, state: WorkerState) -> None:
    run = node.changed(node.submitted({"id": "a"}), RunState.RUNNING)
    worker = node.with_worker(run)
    node.started(run, "a")
    with node.store.transaction():
        node.store.workers.set_status(NODE_ID, worker.worker_id, epoch=worker.epoch, status=state, now_us=1)

    assert read_run(node.store, run.run_id)["waiting"]["reason"] == "worker"


def test_a_run_whose_document_cannot_be_read_is_shown_all_the_same(node: NodeUnderTest) -> None:
    run = node.submitted({"id": "a"}, {"id": "b", "depends_on": ["a"]})
    with node.store.transaction():
        node.store._db.write("UPDATE dag_definitions SET document = '{'")

    assert [task["id"] for task in read_run(node.store, run.run_id)["tasks"]] == ["a", "b"]


def test_what_the_room_is_told_counts_one_thing_as_one(tmp_path: Path) -> None:
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        run = node.submitted({"command": "true"}, target_node="node-1")
        with node.store.transaction():
            submit.save(node.store.definitions, spec_of({"command": "true"}, scope="global"), this_node=node.this_node)
        worker.until(lambda: node.run(run.run_id).status.final, "its end")
        worker.turn()

        assert "1 run done" in chat.workers_text(node.store, "node-1")
        assert "1 task, scope global" in chat.listing_text(node.store.definitions)


def test_the_room_is_told_who_ends_a_run_that_was_cancelled(node: NodeUnderTest) -> None:
    run = node.submitted(dag_id="d")._replace(owner_node="node-2")

    def told(run: RunRecord, *, elsewhere: bool) -> str:
        return chat.cancel_text(Controlled(run=run, wake=frozenset(), another_node=elsewhere))

    assert told(run, elsewhere=True).endswith("node node-2 is told to end it when it can be reached")
    assert told(run, elsewhere=False).endswith("its tasks are being ended")
    assert told(run._replace(status=RunState.CANCELLED), elsewhere=True) == f"run {run.run_id} of d: cancelled"
