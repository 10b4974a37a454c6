"""What every store promises about documents, runs, tasks and attempts (``cis.store.run_port``)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from typing import Any

import pytest

from cis.errors import (
    IllegalStateError,
    NotFoundError,
    StaleVersionError,
    StoreRefusedError,
    UsageError,
)
from cis.model.scope import Scope, ScopeType
from cis.model.states import AttemptState, RunState, TaskState
from cis.store.port import Store
from cis.store.records import (
    Delivery,
    EventRecord,
    RunChange,
    RunFilter,
    RunHead,
    RunRecord,
    TaskRecord,
)
from cis.store.upkeep_port import Pruned
from tests.worlds.rows import WORKER, attempt, attempts_of, definition, put_ended, put_run
from tests.worlds.rows import run as run_record


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


class TestDefinitions:
    def test_a_version_of_a_document_is_kept_once_and_the_saved_one_is_preferred(self, store: Store) -> None:
        with store.transaction():
            first = store.definitions.put(definition(sha256="1", document='{"v": 1}'))
            second = store.definitions.put(definition(sha256="2", document='{"v": 2}'))
            again = store.definitions.put(definition(sha256="1", document="ignored"))

        assert (first == again, first != second) == (True, True)
        assert store.definitions.document(first) == '{"v": 1}'
        newest = store.definitions.current("d")
        assert newest is not None
        assert newest.sha256 == "2"
        with store.transaction():
            store.definitions.save(first, at_us=9)
        saved = store.definitions.current("d")
        assert saved is not None
        assert (saved.sha256, saved.saved_at_us) == ("1", 9)
        with store.transaction():
            store.definitions.save(second, at_us=10)
        assert [store.definitions.saved_count(at_most=most) for most in (0, 5)] == [0, 1]
        page = store.definitions.page(limit=5, saved_only=True)
        assert [one.sha256 for one in page.items] == ["2"]
        with pytest.raises(NotFoundError):
            store.definitions.document(99)

    def test_definitions_are_paged_by_id(self, store: Store) -> None:
        with store.transaction():
            for name in ("c", "a", "b"):
                store.definitions.put(definition(name))
        first = store.definitions.page(limit=2)
        rest = store.definitions.page(limit=2, cursor=first.next_cursor)

        assert [one.dag_id for one in (*first.items, *rest.items)] == ["a", "b", "c"]
        assert rest.next_cursor is None

    def test_a_document_goes_when_it_is_neither_stored_by_name_nor_that_of_a_run(self, store: Store) -> None:
        put_ended(store, "r1", 5, dag_id="run")
        with store.transaction():
            saved, old, lost = (
                store.definitions.put(definition(dag_id, sha256))
                for dag_id, sha256 in (("saved", "new"), ("saved", "old"), ("lost", "s"))
            )
            store.definitions.save(saved, at_us=1)

        unused = store.definitions.unused(limit=10)
        assert list(unused) == [old, lost]
        put_run(store, "r2", dag_id="lost")
        with store.transaction():
            assert store.definitions.drop([saved, *unused]) == 1
        assert store.definitions.get(old) is None
        assert store.definitions.get(saved) is not None
        assert store.definitions.current("run") is not None
        assert store.definitions.current("lost") is not None


class TestRuns:
    def test_a_run_is_read_back_as_it_was_stored(self, store: Store) -> None:
        made = put_run(store, "r1", idempotency_key="k", target_node="n2", parent_run_id="r0", depth=2)

        assert store.runs.get("r1") == made
        assert store.runs.by_key("k") == made
        assert store.runs.latest("d") == made
        assert list(store.runs.children("r0")) == [made]
        assert store.runs.heads(["r1"]) == {"r1": RunHead(1, is_over=False)}
        assert store.runs.get("nope") is None
        assert store.runs.heads(["r1", "nope"]) == store.runs.heads(["r1"])
        assert store.runs.heads([]) == {}

    def test_runs_are_found_by_the_beginning_of_their_ids(self, store: Store) -> None:
        for run_id in ("r1-a", "r1-b", "r10", "r2", "q"):
            put_run(store, run_id)

        assert [one.run_id for one in store.runs.beginning("r1", limit=9)] == ["r1-a", "r1-b", "r10"]
        assert [one.run_id for one in store.runs.beginning("r1-", limit=1)] == ["r1-a"]
        assert store.runs.beginning("r3", limit=9) == []
        assert store.runs.beginning("%", limit=9) == []

    def test_runs_are_in_the_order_in_which_they_were_accepted_whatever_their_ids_say(self, store: Store) -> None:
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

    def test_runs_are_paged_newest_first_and_each_is_seen_once_while_others_arrive(self, store: Store) -> None:
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

    def test_runs_are_narrowed_by_each_filter_and_by_all_of_them(self, store: Store) -> None:
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

    def test_any_filters_leave_page_by_page_what_each_of_them_leaves_newest_first(self, store: Store) -> None:
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

    def test_a_run_changes_only_at_the_version_that_was_read(self, store: Store) -> None:
        made = put_run(store, "r1")
        with store.transaction():
            running = store.runs.change(made, RunChange(status=RunState.RUNNING, started_at_us=7))
        with pytest.raises(StaleVersionError), store.transaction():
            store.runs.change(made, RunChange(status=RunState.CANCELLED))

        assert (running.version, running.status, running.started_at_us) == (2, RunState.RUNNING, 7)
        assert store.runs.get("r1") == running

    def test_a_final_run_stays_as_it_is(self, store: Store) -> None:
        made = put_run(store, "r1", status=RunState.COMPLETED)
        with pytest.raises(IllegalStateError), store.transaction():
            store.runs.change(made, RunChange(status=RunState.RUNNING))

        assert store.runs.get("r1") == made

    def test_a_run_that_names_another_node_is_found_while_it_is_unfinished(self, store: Store) -> None:
        made = put_run(store, "r1", target_node="n1")

        assert store.runs.unfinished_elsewhere(WORKER, "n2") == made
        assert store.runs.unfinished_elsewhere(WORKER, "n1") is None
        with store.transaction():
            store.runs.change(made, RunChange(status=RunState.CANCELLED))
        assert store.runs.unfinished_elsewhere(WORKER, "n2") is None

    def test_a_tree_of_runs_is_counted_in_one_row_and_forgotten_with_the_last_run_of_it(self, store: Store) -> None:
        put_run(store, "root", finished_at_us=1, status=RunState.COMPLETED)
        with store.transaction():
            first = [store.runs.grow_tree("root"), store.runs.grow_tree("root"), store.runs.grow_tree("node-2:far")]
        put_run(store, "child", parent_run_id="root", tree="root", finished_at_us=1, status=RunState.COMPLETED)
        put_run(store, "of-a-peer", tree="node-2:far", above=("a", "b"), finished_at_us=1, status=RunState.COMPLETED)
        found = store.runs.get("of-a-peer")
        with store.transaction():
            assert store.pruning.prune("child", at_most=9) is Pruned.GONE
            kept = store.runs.grow_tree("root")
            assert store.pruning.prune("root", at_most=9) is Pruned.GONE
            assert store.pruning.prune("of-a-peer", at_most=9) is Pruned.GONE
            anew = [store.runs.grow_tree("root"), store.runs.grow_tree("node-2:far")]

        assert first == [1, 2, 1]
        assert found is not None
        assert (found.tree, found.above) == ("node-2:far", ("a", "b"))
        assert kept == 3
        assert anew == [1, 1]

    def test_a_run_can_change_its_owner_and_the_way_it_takes(self, store: Store) -> None:
        made = put_run(store, "r1")
        with store.transaction():
            moved = store.runs.change(made, RunChange(owner_node="n2", delivery=Delivery.PUSHED))
            same = store.runs.change(moved, RunChange(status=RunState.RUNNING))
        with pytest.raises(StaleVersionError), store.transaction():
            store.runs.change(made, RunChange(owner_node="n3"))

        assert moved == made._replace(version=2, owner_node="n2", delivery=Delivery.PUSHED)
        assert same == moved._replace(version=3, status=RunState.RUNNING)


class TestTasks:
    def test_a_task_is_asked_to_be_cancelled_without_a_change_of_its_version_unless_it_is_over(
        self, store: Store
    ) -> None:
        put_run(store, "r", tasks=3)
        first, second, _ = store.tasks.of_run("r")
        with store.transaction():
            store.tasks.change([(first, first._replace(status=TaskState.CANCELLED, version=2))])
        with store.transaction():
            asked = [store.tasks.ask_to_cancel("r", number) for number in (2, 1, 0, 7)]
        with store.transaction():
            store.tasks.change([(second, second._replace(status=TaskState.RUNNING, version=2))])

        assert asked == [True, True, False, False]
        assert store.tasks.asked_to_cancel("r") == [1, 2]
        assert [task.cancel_requested for task in store.tasks.of_run("r")] == [False, True, True]

    def test_tasks_that_a_run_gets_while_it_goes_on_are_stored_as_they_are_and_counted(self, store: Store) -> None:
        put_run(store, "r", tasks=2)
        added = [
            TaskRecord(run_id="r", task_no=2, task_id="t0[a]", part_of=0, given='{"item": "\u00e4"}'),
            TaskRecord(run_id="r", task_no=3, task_id="handlers.exit", given="{}", status=TaskState.RUNNING, version=3),
        ]
        with store.transaction():
            store.tasks.add(added)
        found = store.runs.get("r")

        assert list(store.tasks.of_run("r"))[2:] == added
        assert store.tasks.get("r", "t0[a]") == added[0]
        assert [task.is_added for task in store.tasks.of_run("r")] == [False, False, True, True]
        assert found is not None
        assert (found.task_count, found.version) == (4, 1)

    def test_tasks_change_step_by_step_in_one_call_and_only_at_their_version(self, store: Store) -> None:
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

    def test_a_task_is_mirrored_as_its_executor_has_it_if_that_is_newer(self, store: Store) -> None:
        put_run(store, "r1")
        told = TaskRecord(
            run_id="r1",
            task_no=0,
            task_id="t0",
            status=TaskState.COMPLETED,  # from pending: what lay between was not told, and the executor checked it
            version=7,
            attempts=2,
            failures=1,
            exit_code=0,
            started_at_us=3,
            finished_at_us=4,
            outputs={"v": "ü"},
            error="e",
            blocked_by="b",
            due_at_us=5,
            child_run_id="c",
        )
        unknown = told._replace(task_no=9, task_id="t9")
        same_age = TaskRecord(run_id="r1", task_no=1, task_id="t1", status=TaskState.RUNNING)
        with store.transaction():
            changed = store.tasks.mirror([told, unknown, same_age])
            again = store.tasks.mirror([told, told._replace(version=6, status=TaskState.RUNNING)])
        kept = list(store.tasks.of_run("r1"))
        with store.transaction():
            after_the_end = store.tasks.mirror([TaskRecord(run_id="r1", task_no=0, task_id="t0", version=8)])
            waiting = TaskRecord(run_id="r1", task_no=1, task_id="t1", version=3, error="e", due_at_us=5)
            store.tasks.mirror([waiting])
            cleared = store.tasks.mirror([waiting._replace(version=4, error=None, due_at_us=None)])

        assert list(changed) == [told]
        assert list(again) == []
        assert kept == [told, TaskRecord(run_id="r1", task_no=1, task_id="t1")]
        assert list(after_the_end) == []
        assert list(cleared) == [store.tasks.of_run("r1")[1]]


class TestAttempts:
    def test_attempts_at_a_task_are_in_their_order_when_the_clock_was_set_back_between_them(self, store: Store) -> None:
        put_run(store, "r1")
        with store.transaction():
            store.attempts.start([attempt("r1", number, task_no=0, started_at_us=1000 - number) for number in (1, 2)])
            store.attempts.start([attempt("r1", 1, task_no=1, started_at_us=2000)])

        assert [one[1:3] for one in store.attempts.places("r1", limit=9)] == [(0, 1), (0, 2), (1, 1)]

    def test_an_attempt_ends_once(self, store: Store) -> None:
        put_run(store, "r1")
        ended = attempt(
            "r1", status=AttemptState.COMPLETED, exit_code=0, finished_at_us=9, stdout_tail="x", stdout_bytes=1
        )
        with store.transaction():
            store.attempts.start([attempt("r1")])
            store.attempts.set_pids([attempt("r1", pid=5, pid_started="then")])
        assert [one.pid for one in store.attempts.running(WORKER)] == [5]
        with store.transaction():
            store.attempts.finish([ended])
        with pytest.raises(StaleVersionError), store.transaction():
            store.attempts.finish([ended._replace(status=AttemptState.LOST)])

        assert list(attempts_of(store, "r1")) == [ended._replace(pid=5, pid_started="then")]
        assert list(attempts_of(store, "r1", task_id="t0", attempt=1)) == list(attempts_of(store, "r1"))
        assert list(attempts_of(store, "r1", task_id="t1")) == []
        assert list(store.attempts.running(WORKER)) == []

    def test_last_words_with_nul_are_kept_but_perhaps_for_the_nul(self, store: Store) -> None:
        put_run(store, "r1")
        ended = attempt("r1", status=AttemptState.FAILED, exit_code=1, finished_at_us=9, stdout_tail="a\0b", error="\0")
        with store.transaction():
            store.attempts.start([attempt("r1")])
            store.attempts.finish([ended])
        (found,) = attempts_of(store, "r1")

        assert found.stdout_tail in ("a\0b", "a\ufffdb")
        assert found.error in ("\0", "\ufffd")

    def test_attempts_without_an_end_are_looked_for_in_runs_that_are_not_over(self, store: Store) -> None:
        for run_id, status in (("r1", RunState.RUNNING), ("r2", RunState.PAUSED), ("r3", RunState.FAILED)):
            put_run(store, run_id, status=status)
        put_run(store, "r4", status=RunState.RUNNING, worker_id="worker-user-me")
        with store.transaction():
            store.attempts.start([attempt(run_id) for run_id in ("r1", "r2", "r3")])
            store.attempts.start([attempt("r4", worker_id="worker-user-me")])

        assert sorted(one.run_id for one in store.attempts.running(WORKER)) == ["r1", "r2"]

    def test_an_attempt_is_mirrored_when_it_is_new_or_runs_no_more(self, store: Store) -> None:
        put_run(store, "r1")
        running = attempt("r1")
        with_pid = attempt("r1", pid=5, pid_started="then")
        ended = with_pid._replace(
            status=AttemptState.FAILED,
            finished_at_us=9,
            exit_code=1,
            error="e",
            stdout_tail="o",
            stderr_tail="é",
            stdout_bytes=1,
            stderr_bytes=2,
        )
        with store.transaction():
            assert list(store.attempts.mirror([running, attempt("r1", 2)])) == [running, attempt("r1", 2)]
            assert list(store.attempts.mirror([running])) == []
            assert list(store.attempts.mirror([with_pid])) == [with_pid]
            assert list(store.attempts.mirror([ended, ended])) == [ended]

        assert list(attempts_of(store, "r1", task_id="t0", attempt=1)) == [ended]

    def test_an_attempt_that_ended_stays_as_it_is(self, store: Store) -> None:
        put_run(store, "r1")
        ended = attempt("r1", status=AttemptState.COMPLETED, exit_code=0, finished_at_us=9)
        with store.transaction():
            assert list(store.attempts.mirror([ended])) == [ended]
            late = [attempt("r1"), ended._replace(status=AttemptState.LOST), ended._replace(exit_code=1)]
            assert list(store.attempts.mirror(late)) == []

        assert list(attempts_of(store, "r1")) == [ended]


class TestStaged:
    def test_tasks_may_come_before_their_run_and_nobody_sees_them_until_it_does(self, store: Store) -> None:
        tasks = [TaskRecord(run_id="r2", task_no=number, task_id=f"t{number}") for number in range(3)]
        put_run(store, "r1")
        store.staged.add(tasks[:2])
        half = store.staged.complete("r2", tasks=3)
        store.staged.add(tasks[2:])
        whole, waiting = store.staged.complete("r2", tasks=3), store.staged.runs(after="", before="s", limit=9)
        seen = [run.run_id for run in store.runs.page(RunFilter(), limit=9).items]
        with store.transaction():
            store.runs.add(run_record("r2", task_count=3), ())

        assert (half, whole, list(waiting), seen) == (False, True, ["r2"], ["r1"])
        assert list(store.tasks.of_run("r2")) == tasks
        assert list(store.staged.runs(after="", before="s", limit=9)) == []

    def test_what_no_run_has_taken_up_goes_in_parts_and_what_one_has_stays(self, store: Store) -> None:
        put_run(store, "r1")
        store.staged.add([TaskRecord(run_id="r2", task_no=number, task_id=f"t{number}") for number in range(3)])
        with store.transaction():
            gone = [store.staged.drop("r2", at_most=2) for _ in range(3)]
            kept = store.staged.drop("r1", at_most=2)

        assert gone == [True, True, False]
        assert not kept
        assert len(store.tasks.of_run("r1")) == 2

    def test_no_task_is_added_to_a_run_that_is_there(self, store: Store) -> None:
        put_run(store, "r1")

        with pytest.raises(StoreRefusedError):
            store.staged.add([TaskRecord(run_id="r1", task_no=9, task_id="t9")])
