"""A large DAG is stored in pieces before it is accepted: all of it is there with the run, or nothing is shown of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cis.engine.accept.reruns import Repeat, rerun_of
from cis.engine.accept.staging import FORGET_S, ROWS_AT_ONCE, forget_staged, stage, unstage
from cis.engine.accept.submit import MAX_QUEUED_DOCUMENT, Submission, SubmitRequest, submit
from cis.engine.logfiles import LogFiles
from cis.engine.upkeep.pruner import Cutoff, Pruner, Retention
from cis.errors import OverloadedError, StoreRefusedError
from cis.model.states import RunState, TaskState
from cis.node.clock import new_id, now_us
from cis.store.records import AS_DEFINED, RunFilter, TaskRecord
from tests.worlds.deciding import Decider, decider, spec_of
from tests.worlds.looping import working

COUNT = 2 * ROWS_AT_ONCE + 500


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Decider]:
    with decider(tmp_path) as node:
        yield node


def large(count: int = COUNT, *, env: dict[str, str] | None = None) -> SubmitRequest:
    tasks = ({"command": "true", "env": env or {}} for _ in range(count))
    return SubmitRequest(spec=spec_of(*tasks, scope="global", target_node="node-1"))


def accepted(node: Decider, request: SubmitRequest) -> Submission:
    with node.store.transaction():
        return submit(node.store, request, this_node=node.this_node)


def rows(node: Decider, table: str) -> int:
    return int(node.store._db.rows(f"SELECT count(*) FROM {table}")[0][0])  # noqa: S608 - a name of ours


def test_nothing_of_it_is_shown_until_a_small_transaction_makes_the_run(node: Decider) -> None:
    request = stage(node.store, large(), this_node=replace(node.this_node, new_id=new_id))
    shown = (list(node.store.runs.page(RunFilter(), limit=9).items), node.store.queue.demand("node-1"))
    sound = node.store.upkeep.faults()
    before = node.store._db.connection.total_changes()
    run = accepted(node, request).run

    assert (shown, sound) == (([], []), [])
    assert node.store._db.connection.total_changes() - before < 20
    assert run.run_id == request.staged
    assert [task.task_no for task in node.store.tasks.of_run(run.run_id)] == list(range(COUNT))


def test_no_transaction_of_it_writes_more_than_a_piece(node: Decider, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    stage_tasks = node.store.staged.add

    def counted(tasks: Sequence[TaskRecord]) -> None:
        written.append(len(tasks))
        stage_tasks(tasks)

    monkeypatch.setattr(node.store.staged, "add", counted)
    stage(node.store, large(), this_node=node.this_node)

    assert written == [ROWS_AT_ONCE, ROWS_AT_ONCE, 500]


def test_what_made_no_run_is_removed_and_what_made_one_stays(node: Decider) -> None:
    kept, refused = (
        stage(node.store, large(), this_node=node.this_node),
        stage(node.store, large(), this_node=node.this_node),
    )
    run = accepted(node, kept).run
    unstage(node.store, kept)
    unstage(node.store, refused)

    assert rows(node, "run_tasks") == len(node.store.tasks.of_run(run.run_id)) == COUNT


def test_a_request_whose_key_is_known_is_staged_no_second_time(node: Decider) -> None:
    request = replace(large(), idempotency_key="k")
    first = accepted(node, stage(node.store, request, this_node=node.this_node))
    again = stage(node.store, request, this_node=node.this_node)
    second = accepted(node, again)

    assert (again.staged, second.created, second.run.run_id) == (None, False, first.run.run_id)


def test_of_two_that_stage_under_one_key_one_makes_the_run(node: Decider) -> None:
    request = replace(large(), idempotency_key="k")
    first, second = (stage(node.store, request, this_node=node.this_node) for _ in range(2))
    runs = [accepted(node, each).run.run_id for each in (first, second)]
    unstage(node.store, second)

    assert runs == [first.staged] * 2
    assert rows(node, "run_tasks") == COUNT


def test_where_there_is_no_room_nothing_is_stored(node: Decider) -> None:
    with pytest.raises(OverloadedError):
        stage(node.store, large(), this_node=replace(node.this_node, max_queued=0))

    assert rows(node, "run_tasks") == 0


def test_a_run_whose_rows_went_meanwhile_is_refused_and_none_is_ever_added_to_one_that_is_there(node: Decider) -> None:
    request = stage(node.store, large(), this_node=node.this_node)
    assert request.staged is not None
    forget_staged(node.store, request.staged)
    with pytest.raises(OverloadedError, match="gone"):
        accepted(node, request)
    run = accepted(node, stage(node.store, large(), this_node=node.this_node)).run
    tasks = node.store.tasks.of_run(run.run_id)
    with pytest.raises(StoreRefusedError):
        node.store.staged.add(tasks)
    forget_staged(node.store, run.run_id)

    assert len(node.store.tasks.of_run(run.run_id)) == COUNT


def test_the_pruner_removes_what_nobody_took_up_once_it_is_too_old(node: Decider, tmp_path: Path) -> None:
    this_node = replace(node.this_node, new_id=new_id)
    stage(node.store, large(), this_node=this_node)
    run = accepted(node, stage(node.store, large(), this_node=this_node)).run
    left = []
    for age_s in (FORGET_S / 2, FORGET_S + 60.0):
        pruner = Pruner(node.store, LogFiles(tmp_path / "logs"), Retention(), elapsed_s=time.monotonic)
        for _ in pruner.leftovers(Cutoff(now_us=now_us() + round(age_s * 1e6))):
            pass
        left.append(rows(node, "run_tasks"))

    assert left == [2 * COUNT, COUNT]
    assert len(node.store.tasks.of_run(run.run_id)) == COUNT


def test_a_large_document_is_stored_once_and_its_run_completes(node: Decider, tmp_path: Path) -> None:
    request = large(2, env={f"X{number}": "x" * (MAX_QUEUED_DOCUMENT // 16) for number in range(10)})
    run = accepted(node, stage(node.store, request, this_node=node.this_node)).run
    item = node.store.queue.get(run.run_id)
    with working(node, tmp_path) as worker:
        worker.until(lambda: node.run(run.run_id).status.final, "its end")

    assert item is not None
    assert item.dag_json == AS_DEFINED
    assert node.run(run.run_id).status is RunState.COMPLETED


def test_a_large_run_that_is_repeated_from_its_failed_tasks_keeps_what_completed(node: Decider) -> None:
    first = accepted(node, stage(node.store, large(), this_node=node.this_node)).run
    with node.store.transaction():
        done = node.store.tasks.of_run(first.run_id)[7]
        running = done._replace(status=TaskState.RUNNING, version=2)
        node.store.tasks.change([(done, running)])
        node.store.tasks.change([(running, running._replace(status=TaskState.COMPLETED, outputs={"a": "b"}))])
    node.change_run(first.run_id, status=RunState.CANCELLED)
    wanted = rerun_of(node.store, first.run_id, how=Repeat(from_failed=True)).request
    again = accepted(node, stage(node.store, wanted, this_node=node.this_node)).run
    tasks = node.store.tasks.of_run(again.run_id)

    assert [task.task_no for task in tasks if task.status is TaskState.COMPLETED] == [7]
    assert tasks[7].outputs == {"a": "b"}
