"""What every store promises between node and worker (``cis.store.queue_port``)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cis.errors import (
    FencedError,
)
from cis.model.scope import Scope, ScopeType
from cis.model.states import Priority
from cis.store.port import Store
from cis.store.records import (
    EventRecord,
    EventTally,
    Heartbeat,
    QueueState,
    WorkerState,
)
from tests.worlds.rows import WORKER, item, put_queued, put_run, worker


class TestQueue:
    def test_the_queue_is_read_by_priority_and_then_by_age_across_restarts(
        self, open_store: Callable[[], Store]
    ) -> None:
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
        found = [open_store().queue.get(run_id) for run_id, _ in order]
        assert [one and (one.status, one.epoch) for one in found] == [(QueueState.CLAIMED, 3)] * 4

    def test_what_stands_before_a_position_of_the_queue_can_be_passed_over(self, store: Store) -> None:
        for run_id, priority in (("r1", Priority.HIGH), ("r2", Priority.LOW), ("r3", Priority.NORMAL)):
            put_run(store, run_id, priority=priority)
            with store.transaction():
                store.queue.add("n", item(run_id, priority=priority))
        first = store.queue.position("r2")
        with store.transaction():
            demand = store.queue.demand("n", from_position=first)
            seen = store.queue.queued("n", WORKER, limit=9, from_position=first)
            taken = store.queue.claim("n", WORKER, epoch=1, limit=9, from_position=first)

        assert 0 < store.queue.position("r1") < first < store.queue.position("r3")
        assert store.queue.position("nothing") == 0
        assert [(one.runs, one.priority) for one in demand] == [(2, Priority.NORMAL)]
        assert [one.run_id for one in seen] == [one.run_id for one in taken] == ["r3", "r2"]

    def test_a_released_run_keeps_its_place_and_a_dequeued_one_is_gone(self, store: Store) -> None:
        for run_id in ("r1", "r2"):
            put_run(store, run_id)
            with store.transaction():
                store.queue.add("n", item(run_id))
        with store.transaction():
            store.queue.claim("n", WORKER, epoch=1, limit=1)
            held = store.queue.hand_over("n", WORKER, epoch=2)
            store.queue.move("r1", QueueState.QUEUED)
            demand = store.queue.demand("n")
            again = store.queue.claim("n", WORKER, epoch=2, limit=1)
            store.queue.remove("r1")

        assert [(one.worker_id, one.runs, one.scope) for one in demand] == [(WORKER, 2, Scope(ScopeType.PROJECT, "p"))]
        assert [(one.run_id, one.epoch) for one in held] == [("r1", 2)]
        assert [one.run_id for one in again] == ["r1"]
        assert store.queue.get("r1") is None
        assert store.queue.waiting_count("n") == 1
        assert store.queue.demand("m") == []

    def test_what_waits_is_counted_for_all_for_each_worker_and_for_each_asker_as_it_comes_and_goes(
        self, store: Store
    ) -> None:
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
            store.queue.move("r2", QueueState.SUSPENDED)
            store.queue.move("r1", QueueState.QUEUED)
        seen.append(counts())
        with store.transaction():
            store.queue.remove("r1")
            store.queue.remove("r2")
            store.runs.set_aside("r4", error="x", now_us=1)
        seen.append(counts())

        assert seen == [[0, 0, 0, 0, 0], [3, 3, 2, 1, 1], [1, 1, 1, 1, 1], [2, 2, 2, 1, 1], [1, 1, 1, 0, 0]]
        assert store.queue.waiting_count("n") == 1
        assert store.queue.waiting_count("m", below=False) == 0

    def test_a_suspended_run_is_taken_by_no_worker_until_it_is_released(self, store: Store) -> None:
        put_queued(store, "r1", "r2", "r3")
        with store.transaction():
            store.queue.claim("n", WORKER, epoch=1, limit=1)
            store.queue.move("r1", QueueState.SUSPENDED)
            store.queue.move("r2", QueueState.SUSPENDED)
            taken = store.queue.claim("n", WORKER, epoch=2, limit=9)
            held = store.queue.hand_over("n", WORKER, epoch=3)
        suspended = store.queue.get("r1")

        assert [one.run_id for one in taken] == ["r3"]
        assert [one.run_id for one in held] == ["r3"]
        assert suspended is not None
        assert (suspended.status, suspended.epoch) == (QueueState.SUSPENDED, 1)
        assert store.queue.demand("n") == []
        assert store.queue.waiting_count("n") == 0
        with store.transaction():
            store.queue.move("r1", QueueState.QUEUED)
            count = store.queue.waiting_count("n")
            again = store.queue.claim("n", WORKER, epoch=4, limit=9)
        assert count == 1
        assert [one.run_id for one in again] == ["r1"]

    def test_the_load_counts_what_is_queued_or_claimed_here_up_to_a_bound(self, store: Store) -> None:
        put_queued(store, "r1", "r2", "r3", "r4")
        put_run(store, "r5")
        with store.transaction():
            store.queue.add("m", item("r5"))
            store.queue.claim("n", WORKER, epoch=1, limit=1)
            store.queue.move("r4", QueueState.SUSPENDED)

        assert store.queue.load("n", at_most=9) == 3
        assert store.queue.load("n", at_most=2) == 2
        assert store.queue.load("n", at_most=0) == 0
        assert store.queue.load("m", at_most=9) == 1
        assert store.queue.load("k", at_most=9) == 0


class TestWorkers:
    def test_each_process_that_takes_a_worker_id_gets_the_next_epoch_and_the_old_one_is_fenced(
        self, store: Store
    ) -> None:
        with store.transaction():
            first = store.workers.take(worker())
            second = store.workers.take(worker(pid=2))
            store.workers.check_epoch("n", WORKER, 2)
            with pytest.raises(FencedError):
                store.workers.check_epoch("n", WORKER, 1)
            with pytest.raises(FencedError):
                store.workers.beat(
                    Heartbeat(
                        "n",
                        WORKER,
                        epoch=1,
                        status=WorkerState.BUSY,
                        now_us=5,
                        lease_until_us=9,
                        runs_done=1,
                        current_run="r",
                    )
                )
            assert not store.workers.set_status("n", WORKER, epoch=1, status=WorkerState.STOPPED, now_us=5)
            store.workers.beat(
                Heartbeat(
                    "n",
                    WORKER,
                    epoch=2,
                    status=WorkerState.BUSY,
                    now_us=5,
                    lease_until_us=9,
                    runs_done=1,
                    current_run="r",
                )
            )
        row = store.workers.get("n", WORKER)

        assert (first.epoch, second.epoch) == (1, 2)
        assert row is not None
        assert (row.status, row.heartbeat_at_us, row.lease_until_us, row.current_run) == (WorkerState.BUSY, 5, 9, "r")

    def test_a_worker_that_was_declared_dead_is_fenced_and_no_longer_live(self, store: Store) -> None:
        with store.transaction():
            store.workers.take(worker())
            assert store.workers.set_status("n", WORKER, epoch=1, status=WorkerState.DEAD, now_us=5)
            with pytest.raises(FencedError):
                store.workers.check_epoch("n", WORKER, 1)
            assert not store.workers.set_status("n", WORKER, epoch=1, status=WorkerState.STOPPED, now_us=6)

        assert list(store.workers.all(live_only=True)) == []
        assert [one.status for one in store.workers.all(node_id="n")] == [WorkerState.DEAD]
        assert list(store.workers.all(node_id="m")) == []


class TestEvents:
    def test_events_are_read_in_order_from_any_point_and_the_log_is_bounded(self, store: Store) -> None:
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

    def test_events_are_counted_and_those_of_runs_by_state(self, store: Store) -> None:
        said = [
            ("run", "completed"),
            ("task", "completed"),
            ("run", "completed"),
            ("run", "failed"),
            ("task", "running"),
        ]
        with store.transaction():
            store.events.append(EventRecord(kind=kind, at_us=0, status=status) for kind, status in said)

        assert store.events.tally_after(1) == EventTally(events=4, last_seq=5, runs={"completed": 1, "failed": 1})
