"""What every store promises (``cis.store.port``)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from cis.errors import FencedError, IllegalStateError, NotFoundError, StaleVersionError, StoreError, UsageError
from cis.model.dag import Priority
from cis.model.scope import Scope, ScopeType
from cis.model.states import AttemptState, RunState, TaskState
from cis.store.port import Store
from cis.store.records import (
    AuditRecord,
    EventRecord,
    EventTally,
    QueueState,
    RunChange,
    RunFilter,
    RunRecord,
    TaskRecord,
    TokenRecord,
    WorkerState,
)
from cis.store.upkeep_port import Pruned
from tests.worlds.rows import DOCUMENT, WORKER, attempt, definition, item, put_run, worker


def test_a_transaction_that_raises_leaves_nothing_behind(store: Store) -> None:
    with pytest.raises(RuntimeError), store.transaction():
        store.definitions.put(definition(), DOCUMENT)
        raise RuntimeError

    assert store.definitions.current("d") is None


def test_a_savepoint_that_raises_undoes_itself_alone(store: Store) -> None:
    with store.transaction():
        store.definitions.put(definition("kept"), DOCUMENT)
        with pytest.raises(RuntimeError), store.savepoint():
            store.definitions.put(definition("undone"), DOCUMENT)
            raise RuntimeError

    assert store.definitions.current("kept") is not None
    assert store.definitions.current("undone") is None


def test_nothing_can_be_written_outside_of_a_transaction(store: Store) -> None:
    with pytest.raises(StoreError, match="outside of a transaction"):
        store.definitions.put(definition(), DOCUMENT)
    with pytest.raises(StoreError, match="outside of a transaction"):
        store.events.append([EventRecord(kind="run", at_us=1, status="x")])

    assert store.definitions.current("d") is None
    assert store.events.last_seq() == 0


def test_another_connection_sees_what_was_committed_and_only_that(open_store: Callable[[], Store]) -> None:
    one, other = open_store(), open_store()
    with one.transaction():
        one.definitions.put(definition(), DOCUMENT)
        assert other.definitions.current("d") is None

    assert other.definitions.current("d") is not None


def test_a_version_of_a_document_is_kept_once_and_the_saved_one_is_preferred(store: Store) -> None:
    with store.transaction():
        first = store.definitions.put(definition(sha256="1"), '{"v": 1}')
        second = store.definitions.put(definition(sha256="2"), '{"v": 2}')
        again = store.definitions.put(definition(sha256="1"), "ignored")

    assert (first == again, first != second) == (True, True)
    assert store.definitions.document(first) == '{"v": 1}'
    newest = store.definitions.current("d")
    assert newest is not None
    assert newest.sha256 == "2"
    with store.transaction():
        store.definitions.save(first, now_us=9)
    saved = store.definitions.current("d")
    assert saved is not None
    assert (saved.sha256, saved.saved_at_us) == ("1", 9)
    with store.transaction():
        store.definitions.save(second, now_us=10)
    page = store.definitions.page(limit=5, saved_only=True)
    assert [one.sha256 for one in page.items] == ["2"]
    with pytest.raises(NotFoundError):
        store.definitions.document(99)


def test_definitions_are_paged_by_id(store: Store) -> None:
    with store.transaction():
        for name in ("c", "a", "b"):
            store.definitions.put(definition(name), DOCUMENT)
    first = store.definitions.page(limit=2)
    rest = store.definitions.page(limit=2, cursor=first.next_cursor)

    assert [one.dag_id for one in (*first.items, *rest.items)] == ["a", "b", "c"]
    assert rest.next_cursor is None


def test_a_run_is_read_back_as_it_was_stored(store: Store) -> None:
    made = put_run(store, "r1", idempotency_key="k", target_node="n2", parent_run_id="r0", depth=2)

    assert store.runs.get("r1") == made
    assert store.runs.by_key("k") == made
    assert store.runs.latest("d") == made
    assert list(store.runs.children("r0")) == [made]
    assert store.runs.version("r1") == 1
    assert store.runs.get("nope") is None
    assert store.runs.version("nope") is None


def test_runs_are_in_the_order_in_which_they_were_accepted_whatever_their_ids_say(store: Store) -> None:
    """An id tells the time of a clock that may have been ahead, or another node's."""
    for run_id in ("r5", "r9", "r1", "r7"):
        put_run(store, run_id)
        with store.transaction():
            store.events.append([EventRecord(at_us=1, kind="run", status="pending", run_id=run_id)])
    latest = store.runs.latest("d")
    assert latest is not None
    assert latest.run_id == "r7"
    for where in (RunFilter(), RunFilter(dag_id="d"), RunFilter(status=RunState.PENDING), RunFilter(node="n")):
        first = store.runs.page(where, limit=2)
        rest = store.runs.page(where, limit=2, cursor=first.next_cursor)
        assert [one.run_id for one in (*first.items, *rest.items)] == ["r7", "r1", "r9", "r5"]


def test_attempts_at_a_task_are_in_their_order_when_the_clock_was_set_back_between_them(store: Store) -> None:
    put_run(store, "r1")
    with store.transaction():
        store.attempts.start([attempt("r1", number, task_no=0, started_at_us=1000 - number) for number in (1, 2)])
        store.attempts.start([attempt("r1", 1, task_no=1, started_at_us=2000)])

    assert [(one.task_no, one.attempt) for one in store.attempts.of_run("r1")] == [(0, 1), (0, 2), (1, 1)]


def test_runs_are_paged_newest_first_and_each_is_seen_once_while_others_arrive(store: Store) -> None:
    for number in range(7):
        put_run(store, f"r{number}")
    seen: list[str] = []
    cursor = None
    for step in range(10):
        page = store.runs.page(RunFilter(), limit=2, cursor=cursor)
        seen += [one.run_id for one in page.items]
        put_run(store, f"s{step}")
        cursor = page.next_cursor
        if cursor is None:
            break

    assert seen == ["r6", "r5", "r4", "r3", "r2", "r1", "r0"]
    for nonsense in ("!!", "é", "a", "\ud800", "_w", "\0"):
        with pytest.raises(UsageError):
            store.runs.page(RunFilter(), limit=2, cursor=nonsense)


def test_runs_are_narrowed_by_each_filter_and_by_all_of_them(store: Store) -> None:
    put_run(store, "r1")
    put_run(store, "r2", status=RunState.FAILED)
    put_run(store, "r3", scope=Scope(ScopeType.USER, "u"))
    put_run(store, "r4", owner_node="m")
    put_run(store, "r5", dag_id="e")

    def found(**filters: object) -> list[str]:
        return [one.run_id for one in store.runs.page(RunFilter(**filters), limit=10).items]  # type: ignore[arg-type]

    assert found(status=RunState.FAILED) == ["r2"]
    assert found(scope=Scope(ScopeType.USER, "u")) == ["r3"]
    assert found(node="m") == ["r4"]
    assert found(dag_id="e") == ["r5"]
    assert found(status=RunState.PENDING, scope=Scope(ScopeType.PROJECT, "p"), node="n", dag_id="d") == ["r1"]


def test_any_filters_leave_page_by_page_what_each_of_them_leaves_newest_first(store: Store) -> None:
    chance = random.Random(5)  # noqa: S311 - a test
    choices: dict[str, list[Any]] = {
        "status": [RunState.PENDING, RunState.FAILED, RunState.COMPLETED],
        "scope": [Scope(ScopeType.GLOBAL), Scope(ScopeType.USER, "a"), Scope(ScopeType.USER, "b")],
        "owner_node": ["m", "n", "ñ"],
        "dag_id": ["d", "d2", "e"],
    }
    made = [put_run(store, f"r{number:03}", **_one_of_each(choices, chance)) for number in range(100)]
    for status, scope, node, dag_id in itertools.product(*([None, *values] for values in choices.values())):
        wanted = {"status": status, "scope": scope, "owner_node": node, "dag_id": dag_id}
        expected = [run.run_id for run in reversed(made) if _is(run, wanted)]
        where = RunFilter(status=status, scope=scope, node=node, dag_id=dag_id)

        assert _page_by_page(store, where, limit=7) == expected


def _one_of_each(choices: Mapping[str, list[Any]], chance: random.Random) -> dict[str, Any]:
    return {name: chance.choice(values) for name, values in choices.items()}


def _is(run: RunRecord, wanted: Mapping[str, object]) -> bool:
    return all(value is None or getattr(run, name) == value for name, value in wanted.items())


def _page_by_page(store: Store, where: RunFilter, *, limit: int) -> list[str]:
    page = store.runs.page(where, limit=limit)
    seen = [run.run_id for run in page.items]
    while page.next_cursor is not None:
        page = store.runs.page(where, limit=limit, cursor=page.next_cursor)
        seen += [run.run_id for run in page.items]
    return seen


def test_a_run_changes_only_at_the_version_that_was_read(store: Store) -> None:
    made = put_run(store, "r1")
    with store.transaction():
        running = store.runs.change(made, RunChange(status=RunState.RUNNING, started_at_us=7))
    with pytest.raises(StaleVersionError), store.transaction():
        store.runs.change(made, RunChange(status=RunState.CANCELLED))

    assert (running.version, running.status, running.started_at_us) == (2, RunState.RUNNING, 7)
    assert store.runs.get("r1") == running


def test_a_final_run_stays_as_it_is(store: Store) -> None:
    made = put_run(store, "r1", status=RunState.COMPLETED)
    with pytest.raises(IllegalStateError), store.transaction():
        store.runs.change(made, RunChange(status=RunState.RUNNING))

    assert store.runs.get("r1") == made


def test_a_run_that_names_another_node_is_found_while_it_is_unfinished(store: Store) -> None:
    made = put_run(store, "r1", target_node="n1")

    assert store.runs.unfinished_elsewhere(WORKER, "n2") == made
    assert store.runs.unfinished_elsewhere(WORKER, "n1") is None
    with store.transaction():
        store.runs.change(made, RunChange(status=RunState.CANCELLED))
    assert store.runs.unfinished_elsewhere(WORKER, "n2") is None


def test_tasks_change_step_by_step_in_one_call_and_only_at_their_version(store: Store) -> None:
    put_run(store, "r1")
    old = store.tasks.of_run("r1")[0]
    running = old._replace(status=TaskState.RUNNING, version=2, attempts=1)
    done = running._replace(status=TaskState.COMPLETED, version=3, outputs={"v": "ü\n"}, exit_code=0)
    with store.transaction():
        store.tasks.change([(old, running), (running, done)])
    with pytest.raises(StaleVersionError), store.transaction():
        store.tasks.change(
            [(store.tasks.of_run("r1")[1], old._replace(task_no=1, status=TaskState.RUNNING)), (old, running)]
        )

    assert list(store.tasks.of_run("r1")) == [done, TaskRecord(run_id="r1", task_no=1, task_id="t1")]
    assert store.tasks.get("r1", "t0") == done
    assert store.tasks.get("r1", "zz") is None
    assert list(store.tasks.outputs("r1")) == [{"v": "ü\n"}]
    assert store.tasks.outputs_size("r1") >= len("vü\n".encode())
    assert [task.outputs for task in store.tasks.of_run("r1", outputs=False)] == [{}, {}]
    assert list(store.tasks.of_run("r1", outputs=False)) == [done._replace(outputs={}), TaskRecord("r1", 1, "t1")]
    assert list(store.tasks.page("r1", -1, limit=9, max_bytes=99)) == list(store.tasks.of_run("r1"))
    assert [task.task_no for task in store.tasks.page("r1", -1, limit=9, max_bytes=1)] == [0]
    assert [task.task_no for task in store.tasks.page("r1", -1, limit=1, max_bytes=99)] == [0]
    assert [task.task_no for task in store.tasks.page("r1", 0, limit=9, max_bytes=1)] == [1]
    assert list(store.tasks.page("r1", 1, limit=9, max_bytes=1)) == []
    assert (list(store.tasks.outputs("zz")), store.tasks.outputs_size("zz")) == ([], 0)


def test_an_attempt_ends_once(store: Store) -> None:
    put_run(store, "r1")
    ended = attempt("r1", status=AttemptState.COMPLETED, exit_code=0, finished_at_us=9, stdout_tail="x", stdout_bytes=1)
    with store.transaction():
        store.attempts.start([attempt("r1")])
        store.attempts.set_pids([attempt("r1", pid=5, pid_started="then")])
    assert [one.pid for one in store.attempts.running(WORKER)] == [5]
    with store.transaction():
        store.attempts.finish([ended])
    with pytest.raises(StaleVersionError), store.transaction():
        store.attempts.finish([ended._replace(status=AttemptState.LOST)])

    assert list(store.attempts.of_run("r1")) == [ended._replace(pid=5, pid_started="then")]
    assert list(store.attempts.of_run("r1", task_id="t0", attempt=1)) == list(store.attempts.of_run("r1"))
    assert list(store.attempts.of_run("r1", task_id="t1")) == []
    assert list(store.attempts.running(WORKER)) == []


def test_attempts_without_an_end_are_looked_for_in_runs_that_are_not_over(store: Store) -> None:
    for run_id, status in (("r1", RunState.RUNNING), ("r2", RunState.PAUSED), ("r3", RunState.FAILED)):
        put_run(store, run_id, status=status)
    put_run(store, "r4", status=RunState.RUNNING, worker_id="worker-user-me")
    with store.transaction():
        store.attempts.start([attempt(run_id) for run_id in ("r1", "r2", "r3")])
        store.attempts.start([attempt("r4", worker_id="worker-user-me")])

    assert sorted(one.run_id for one in store.attempts.running(WORKER)) == ["r1", "r2"]


def test_the_queue_is_read_by_priority_and_then_by_age_across_restarts(open_store: Callable[[], Store]) -> None:
    store = open_store()
    order = [("r1", Priority.LOW), ("r2", Priority.HIGH), ("r3", Priority.NORMAL), ("r4", Priority.HIGH)]
    for run_id, priority in order:
        put_run(store, run_id, priority=priority)
        with store.transaction():
            store.queue.add("n", item(run_id, priority=priority))
    store.close()
    again = open_store()
    with again.transaction():
        assert list(again.queue.claim("n", "worker-other", epoch=1, limit=9)) == []
        urgent = again.queue.claim("n", WORKER, epoch=3, limit=9, above=int(Priority.NORMAL))
        rest = again.queue.claim("n", WORKER, epoch=3, limit=9)
        none = again.queue.claim("n", WORKER, epoch=3, limit=9)

    assert [one.run_id for one in urgent] == ["r2", "r4"]
    assert [one.run_id for one in rest] == ["r3", "r1"]
    assert list(none) == []
    assert {one.status for one in (*urgent, *rest)} == {QueueState.CLAIMED}
    assert {one.epoch for one in open_store().queue.claimed("n", WORKER)} == {3}


def test_a_released_run_keeps_its_place_and_a_dequeued_one_is_gone(store: Store) -> None:
    for run_id in ("r1", "r2"):
        put_run(store, run_id)
        with store.transaction():
            store.queue.add("n", item(run_id))
    with store.transaction():
        store.queue.claim("n", WORKER, epoch=1, limit=1)
        store.queue.reclaim("n", WORKER, epoch=2)
        assert [one.epoch for one in store.queue.claimed("n", WORKER)] == [2]
        store.queue.release("r1")
        demand = store.queue.demand("n")
        again = store.queue.claim("n", WORKER, epoch=2, limit=1)
        store.queue.remove("r1")

    assert [(one.worker_id, one.count, one.scope) for one in demand] == [(WORKER, 2, Scope(ScopeType.PROJECT, "p"))]
    assert [one.run_id for one in again] == ["r1"]
    assert store.queue.get("r1") is None
    assert store.queue.queued_count("n") == 1
    assert store.queue.demand("m") == []


def test_what_waits_is_counted_for_all_for_each_worker_and_for_each_asker_as_it_comes_and_goes(store: Store) -> None:
    def counts() -> list[int]:
        held = [("", False), (WORKER, False), ("token ci", False), ("", True), (WORKER, True)]
        return [store.queue.waiting_count("n", below=below, holder=holder) for holder, below in held]

    seen = [counts()]
    for run_id, asker, below in (
        ("r1", "token ci", False),
        ("r2", None, False),
        ("r3", "token ci", False),
        ("r4", None, True),
    ):
        put_run(store, run_id)
        with store.transaction():
            store.queue.add("n", item(run_id, asker=asker, below=below))
    seen.append(counts())
    with store.transaction():
        store.queue.claim("n", WORKER, epoch=1, limit=2)
    seen.append(counts())
    with store.transaction():
        store.queue.suspend("r2")
        store.queue.release("r1")
    seen.append(counts())
    with store.transaction():
        store.queue.remove("r1")
        store.queue.remove("r2")
        store.runs.set_aside("r4", error="x", now_us=1)
    seen.append(counts())

    assert seen == [[0, 0, 0, 0, 0], [3, 3, 2, 1, 1], [1, 1, 1, 1, 1], [2, 2, 2, 1, 1], [1, 1, 1, 0, 0]]
    assert store.queue.queued_count("n") == 1
    assert store.queue.waiting_count("m", below=False) == 0


def test_a_tree_of_runs_is_counted_in_one_row_and_forgotten_with_the_last_run_of_it(store: Store) -> None:
    put_run(store, "root", finished_at_us=1, status=RunState.COMPLETED)
    with store.transaction():
        first = [store.runs.grow_tree("root"), store.runs.grow_tree("root"), store.runs.grow_tree("node-2:far")]
    put_run(store, "child", parent_run_id="root", tree="root", finished_at_us=1, status=RunState.COMPLETED)
    put_run(store, "of-a-peer", tree="node-2:far", above=("a", "b"), finished_at_us=1, status=RunState.COMPLETED)
    found = store.runs.get("of-a-peer")
    with store.transaction():
        assert store.retention.prune("child", at_most=9) is Pruned.GONE
        kept = store.runs.grow_tree("root")
        assert store.retention.prune("root", at_most=9) is Pruned.GONE
        assert store.retention.prune("of-a-peer", at_most=9) is Pruned.GONE
        anew = [store.runs.grow_tree("root"), store.runs.grow_tree("node-2:far")]

    assert first == [1, 2, 1]
    assert found is not None
    assert (found.tree, found.above) == ("node-2:far", ("a", "b"))
    assert kept == 3
    assert anew == [1, 1]


def test_each_process_that_takes_a_worker_id_gets_the_next_epoch_and_the_old_one_is_fenced(store: Store) -> None:
    with store.transaction():
        first = store.workers.take(worker())
        second = store.workers.take(worker(pid=2))
        store.workers.check_epoch("n", WORKER, 2)
        with pytest.raises(FencedError):
            store.workers.check_epoch("n", WORKER, 1)
        with pytest.raises(FencedError):
            store.workers.beat(
                "n", WORKER, epoch=1, status=WorkerState.BUSY, now_us=5, lease_until_us=9, runs_done=1, current_run="r"
            )
        assert not store.workers.set_status("n", WORKER, epoch=1, status=WorkerState.STOPPED, now_us=5)
        store.workers.beat(
            "n", WORKER, epoch=2, status=WorkerState.BUSY, now_us=5, lease_until_us=9, runs_done=1, current_run="r"
        )
    row = store.workers.get("n", WORKER)

    assert (first.epoch, second.epoch) == (1, 2)
    assert row is not None
    assert (row.status, row.heartbeat_at_us, row.lease_until_us, row.current_run) == (WorkerState.BUSY, 5, 9, "r")


def test_a_worker_that_was_declared_dead_is_fenced_and_no_longer_live(store: Store) -> None:
    with store.transaction():
        store.workers.take(worker())
        assert store.workers.set_status("n", WORKER, epoch=1, status=WorkerState.DEAD, now_us=5)
        with pytest.raises(FencedError):
            store.workers.check_epoch("n", WORKER, 1)
        assert not store.workers.set_status("n", WORKER, epoch=1, status=WorkerState.STOPPED, now_us=6)

    assert list(store.workers.all(live_only=True)) == []
    assert [one.status for one in store.workers.all(node_id="n")] == [WorkerState.DEAD]
    assert list(store.workers.all(node_id="m")) == []


def test_events_are_read_in_order_from_any_point_and_the_log_is_bounded(store: Store) -> None:
    with store.transaction():
        store.events.append(
            EventRecord(kind="run", at_us=number, status="pending", run_id=f"r{number}", data={"n": number})
            for number in range(5)
        )
    seqs = [event.seq for event in store.events.after(0, limit=10)]
    assert [event.run_id for event in store.events.after(seqs[2], limit=10)] == ["r3", "r4"]
    assert [event.data for event in store.events.after(0, limit=1)] == [{"n": 0}]
    assert store.events.last_seq() == seqs[-1]
    assert store.events.tally_after(seqs[-1]) == EventTally(events=0, last_seq=seqs[-1], runs={})
    with store.transaction():
        assert store.events.prune(keep=2, at_most=1000) == 3
        store.events.append([EventRecord(kind="run", at_us=9, status="x")])

    assert [event.seq for event in store.events.after(0, limit=10)] == [*seqs[-2:], seqs[-1] + 1]
    with store.transaction():
        store.events.prune(keep=0, at_most=1000)
        store.events.append([EventRecord(kind="run", at_us=9, status="x")])
    assert store.events.last_seq() == seqs[-1] + 2


def test_events_are_counted_and_those_of_runs_by_state(store: Store) -> None:
    said = [("run", "completed"), ("task", "completed"), ("run", "completed"), ("run", "failed"), ("task", "running")]
    with store.transaction():
        store.events.append(EventRecord(kind=kind, at_us=0, status=status) for kind, status in said)

    assert store.events.tally_after(1) == EventTally(events=4, last_seq=5, runs={"completed": 1, "failed": 1})


def test_tokens_and_audit_are_kept(store: Store) -> None:
    token = TokenRecord(name="ci", sha256="h", may=("read", "execute"), created_at_us=1)
    with store.transaction():
        store.tokens.put(token)
        for number in range(3):
            store.audit.append(AuditRecord(at_us=number, actor="me", action="x", subject=str(number), source="cli"))
    assert list(store.tokens.all()) == [token]
    assert store.tokens.by_sha256("h") == token
    assert store.tokens.by_sha256("other") is None
    newest = store.audit.page(limit=2)
    assert [entry.subject for entry in newest] == ["2", "1"]
    assert [entry.subject for entry in store.audit.page(limit=2, before=newest[-1].seq)] == ["0"]
    with store.transaction():
        assert store.tokens.delete("ci")
        assert not store.tokens.delete("ci")
