"""Starts that are stored before there is a slot for them: faster, and nobody sees a difference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cis.engine.accept.control import cancel, pause, resume
from cis.engine.run.ahead import HORIZON_S, STORE_WITHIN_S, WITHIN_S
from cis.engine.run.decide import _Steps
from cis.engine.run.loop import RETRY_STORE_S, TRY_AGAIN_S
from cis.errors import FencedError, LeaseLostError
from cis.executors.local import LocalExecutor
from cis.model.scope import GLOBAL
from cis.model.states import AttemptState, RunState, TaskState
from cis.worker.task_places import MachinePlaces
from tests.worlds.deciding import Decider, decider
from tests.worlds.looping import MoodyStore, Worker, ended, watch, working
from tests.worlds.rows import attempts_of, definition
from tests.worlds.waiting import wait_for

SLOTS = 4


class Ahead:
    """A worker whose slots are full of tasks that run until their file is there, and that has stored some more starts."""

    def __init__(
        self,
        node: Decider,
        worker: Worker,
        folder: Path,
        *,
        short: str = "until true; do :; done",
        more: Any = (),
        **fields: Any,
    ) -> None:
        self.node, self.worker, self._folder = node, worker, folder
        quick = [{"id": f"s{number}", "command": short} for number in range(2 * SLOTS)]
        long = [
            {"id": f"w{number}", "command": f"until test -e {folder}/w{number}; do sleep 0.01; done", **fields}
            for number in range(2 * SLOTS)
        ]
        self.run_id = node.submitted(*quick, *long, *more, target_node="node-1").run_id
        worker.turn()
        for _ in range(2):  # how fast they end is known after the second time
            worker.see_all_end()
            worker.turn()

    def let_end(self, number: int) -> None:
        """Let a task end, and wait for the end of its process."""
        before = self.worker.pids
        (self._folder / f"w{number}").touch()
        wait_for(lambda: any(map(ended, before)), what="the end of a task")

    def let_all_end(self) -> None:
        """Let everything come to its end."""
        for number in range(2 * SLOTS):
            (self._folder / f"w{number}").touch()
        self.worker.until(lambda: self.node.run(self.run_id).status.final, "the end of the run")

    def running(self) -> int:
        """Return how many tasks the store says to be running."""
        return sum(task.status is TaskState.RUNNING for task in self.node.store.tasks.of_run(self.run_id))


@contextmanager
def ahead(tmp_path: Path, **fields: Any) -> Iterator[Ahead]:
    """Give a test what is stored ahead."""
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        yield Ahead(node, worker, tmp_path, **fields)


def test_the_slot_of_a_task_that_has_ended_goes_to_the_next_before_any_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    watch(monkeypatch, seen, LocalExecutor, "start", "started")
    watch(monkeypatch, seen, MoodyStore, "transaction", "begun")
    with ahead(tmp_path) as world:
        assert (world.running(), len(world.worker.pids)) == (2 * SLOTS, SLOTS)
        world.let_end(0)
        seen.clear()
        world.worker.turn()
        assert seen == ["started", "begun"]
        assert len(world.worker.pids) == SLOTS
        world.let_all_end()
        assert world.node.run(world.run_id).status is RunState.COMPLETED
        attempts = world.worker.attempts(world.run_id)

    assert attempts == [(1, AttemptState.COMPLETED)] * 4 * SLOTS


def test_what_others_write_about_other_runs_keeps_nothing_from_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    with ahead(tmp_path) as world:
        for number in range(2):
            with world.node.store.transaction():
                world.node.store.definitions.put(definition(f"d{number}"))
            watch(monkeypatch, seen, LocalExecutor, "start", "started")
            watch(monkeypatch, seen, MoodyStore, "transaction", "begun")
            world.let_end(number)
            world.worker.turn()
            monkeypatch.undo()
        world.let_all_end()

    assert seen == ["started", "begun"] * 2


def test_nothing_begins_of_a_worker_whose_id_was_taken_over(tmp_path: Path) -> None:
    with ahead(tmp_path) as world:
        row = world.node.store.workers.get("node-1", GLOBAL.worker_id)
        assert row is not None
        with world.node.store.transaction():
            world.node.store.workers.take(row)
        pids = set(world.worker.pids)
        world.let_end(0)
        with pytest.raises(FencedError):
            world.worker.turn()

        assert set(world.worker.pids) < pids


def test_while_others_keep_the_write_lock_what_is_stored_begins_and_the_ends_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []
    with ahead(tmp_path) as world:
        watch(monkeypatch, tries, MoodyStore, "transaction", "tried")
        with world.node.store.transaction():
            for number in range(SLOTS):
                world.let_end(number)
                world.worker.turn()
            running = len(world.worker.pids)
        monkeypatch.undo()
        stored_meanwhile = world.running()
        world.node.later(TRY_AGAIN_S)
        world.worker.turn()
        after = [world.worker.task(world.run_id, f"w{number}").status for number in range(SLOTS)]
        world.let_all_end()

    assert (running, stored_meanwhile) == (SLOTS, 2 * SLOTS)
    assert tries == ["tried"]  # again after a moment, and the clock stands still
    assert after == [TaskState.COMPLETED] * SLOTS


def test_a_worker_that_has_starts_left_and_no_end_to_store_loses_its_lease_in_time(tmp_path: Path) -> None:
    with decider(tmp_path) as node, working(node, tmp_path, lease_s=10.0) as worker:
        Ahead(node, worker, tmp_path)
        worker.store.wait_at_most(0.01)
        with node.store.transaction(), pytest.raises(LeaseLostError):
            for _ in range(12):
                node.later(1.0)
                worker.turn()


def test_for_some_tries_a_worker_does_not_wait_for_the_lock_and_then_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[bool] = []
    with ahead(tmp_path) as world:
        usual = world.worker.store.transaction

        def tried(*, wait: bool = True) -> AbstractContextManager[None]:
            waits.append(wait)
            return usual(wait=wait)

        monkeypatch.setattr(world.worker.store, "transaction", tried)
        world.worker.store.wait_at_most(0.01)
        with world.node.store.transaction():
            for pause_s in (0.0, HORIZON_S / 2, HORIZON_S / 2):
                world.node.later(pause_s)
                world.worker.turn()
        monkeypatch.undo()
        world.node.later(RETRY_STORE_S)
        world.let_all_end()

    assert waits == [False, False, True]


@pytest.mark.parametrize("late", ["its own time", "the lease of its run"])
def test_nothing_begins_after_its_time_although_the_lock_keeps_it_from_waiting_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    seen: list[str] = []
    with ahead(tmp_path) as world:
        world.worker.store.wait_at_most(0.01)
        with world.node.store.transaction():
            world.let_end(0)
            if late == "its own time":
                world.node.later(WITHIN_S)
            else:
                monkeypatch.setattr(world.worker.loop._held.leases, "late", lambda *_, **__: {world.run_id})
            watch(monkeypatch, seen, LocalExecutor, "start", "started")
            world.worker.turn()
            monkeypatch.undo()
        world.node.later(RETRY_STORE_S)
        world.let_all_end()

    assert seen == []


def test_ends_wait_a_moment_for_others_where_all_places_of_the_machine_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    places = MachinePlaces(tmp_path / "places", most=3)  # one of them is kept for others
    try:
        with decider(tmp_path) as node, working(node, tmp_path, places=places) as worker:
            world = Ahead(node, worker, tmp_path)
            for _ in range(2):
                worker.see_all_end()
                worker.turn()
            watch(monkeypatch, seen, LocalExecutor, "start", "started")
            watch(monkeypatch, seen, MoodyStore, "transaction", "begun")
            world.let_end(0)
            worker.loop.turn(at_most_s=0.02)
            at_once = list(seen)
            node.later(STORE_WITHIN_S)
            worker.loop.turn(at_most_s=0.02)
            monkeypatch.undo()
            world.let_all_end()
    finally:
        places.close()

    assert (at_once, seen[:2]) == (["started"], ["started", "begun"])


def test_what_finds_no_slot_soon_waits_again_and_counts_as_not_tried(tmp_path: Path) -> None:
    with ahead(tmp_path) as world:
        world.node.later(WITHIN_S)
        world.worker.turn()
        waits = world.worker.task(world.run_id, f"w{SLOTS}")

        assert (world.running(), waits.status, waits.attempts, waits.started_at_us) == (
            SLOTS,
            TaskState.PENDING,
            0,
            None,
        )
        world.let_all_end()
        assert world.node.run(world.run_id).status is RunState.COMPLETED


@pytest.mark.parametrize("told", [pause, cancel])
def test_nothing_begins_of_a_run_that_was_paused_or_cancelled_since(tmp_path: Path, told: Any) -> None:
    with ahead(tmp_path) as world:
        with world.node.store.transaction():
            told(world.node.store, world.run_id, now_us=world.node.now_us)
        pids = set(world.worker.pids)
        world.let_end(0)
        world.worker.turn()

        assert set(world.worker.pids) < pids
        status = world.worker.task(world.run_id, f"w{SLOTS}").status
        assert status is (TaskState.PENDING if told is pause else TaskState.CANCELLED)


def test_a_worker_that_is_to_stop_begins_nothing_more(tmp_path: Path) -> None:
    with ahead(tmp_path) as world:
        world.worker.loop.drain()
        pids = set(world.worker.pids)
        world.let_end(0)
        world.worker.turn()

        assert set(world.worker.pids) < pids
        assert world.running() == SLOTS - 1


def test_what_is_stored_begins_although_a_suspect_turns_up_in_the_same_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task whose retry is due may have taken the last worker down, and then wants to be alone."""
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        world = Ahead(node, worker, tmp_path, more=({"id": "x", "command": "true"},))
        plan = worker.loop._held.plans[world.run_id]
        suspect = plan.ready.next_process()
        monkeypatch.setattr(_Steps, "release_retries", lambda _: plan.ready._alone.append((5.0, suspect)))
        with node.store.transaction():  # so it is left to the turn
            pause(node.store, world.run_id, now_us=node.now_us)
            resume(node.store, world.run_id, now_us=node.now_us)
        world.let_end(0)
        worker.turn()
        monkeypatch.undo()

        assert len(worker.pids) == SLOTS
        world.let_all_end()
        assert node.run(world.run_id).status is RunState.COMPLETED


def test_what_may_not_be_lost_is_not_stored_ahead(tmp_path: Path) -> None:
    with ahead(tmp_path, on_lost="fail") as world:
        assert world.running() == len(world.worker.pids) == SLOTS


def test_what_is_unlike_the_short_ones_is_not_stored_ahead(tmp_path: Path) -> None:
    with ahead(tmp_path, short="true") as world:
        assert world.running() == len(world.worker.pids) == SLOTS


def test_as_many_are_stored_as_begin_soon(tmp_path: Path) -> None:
    """A tenth of a second after the last ends, four more tell of forty a second."""
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        command = "until true; do :; done"
        run = node.submitted(*({"command": command} for _ in range(5 * SLOTS)), target_node="node-1")
        started = []
        for _ in range(3):
            worker.turn()
            worker.see_all_end()
            node.later(0.1)
            started.append(sum(task.attempts for task in node.store.tasks.of_run(run.run_id)))

    assert started == [SLOTS, 2 * SLOTS, 3 * SLOTS + 2]


def test_the_rows_say_when_it_really_began(tmp_path: Path) -> None:
    with ahead(tmp_path) as world:
        world.node.later(WITHIN_S / 2)
        world.let_end(0)
        world.worker.turn()
        began_us = world.node.now_us
        world.let_all_end()
        task = world.worker.task(world.run_id, f"w{SLOTS}")
        (attempt,) = attempts_of(world.node.store, world.run_id, task_id=f"w{SLOTS}")

    assert task.started_at_us == attempt.started_at_us == began_us


def test_after_a_failed_transaction_it_is_begun_once(tmp_path: Path) -> None:
    with ahead(tmp_path) as world:
        world.worker.forget_plans()
        world.let_all_end()
        attempts = world.worker.attempts(world.run_id)

    assert attempts == [(1, AttemptState.COMPLETED)] * 4 * SLOTS
