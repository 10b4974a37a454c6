"""A shortage of the machine is no task's failure: what runs goes on, what cannot start waits, and is tried again."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cis.engine.observe.views import read_run
from cis.engine.ports import Launch
from cis.engine.run.live import Live, LiveAttempts
from cis.engine.shortage import LONGEST_PAUSE_S, Shortage, shortage_of
from cis.errors import LaunchError
from cis.executors import launching
from cis.executors.local import LocalExecutor
from cis.model.states import AttemptState, TaskState
from tests.worlds.deciding import decider
from tests.worlds.descriptors import no_descriptors
from tests.worlds.looping import Worker, working
from tests.worlds.rows import attempt

SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)


class Lacking:
    """Stands in the way of a worker's executor: nothing starts, for the reason *number*, until there is room again."""

    def __init__(self, worker: Worker, number: int, *, after: int) -> None:
        self._executor = worker.loop._parts.executor
        self._start: Callable[[Launch], str] = self._executor.start
        self._number = number
        self.tries = 0
        self.room = after

    def start(self, launch: Launch) -> str:
        if self.room > 0:
            self.room -= 1
            return self._start(launch)
        self.tries += 1
        cause = OSError(self._number, os.strerror(self._number))
        raise LaunchError("there is no room") from cause

    def shortage(self) -> str | None:
        return None if self.room else "too many open files; use fewer slots"


@contextmanager
def lacking(worker: Worker, number: int, *, after: int = 0) -> Iterator[Lacking]:
    """Let so many tasks start, and then no other."""
    lack, executor = Lacking(worker, number, after=after), worker.loop._parts.executor
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "start", lack.start)
        patch.setattr(executor, "shortage", lack.shortage)
        yield lack


@pytest.mark.parametrize("number", SHORTAGES)
def test_what_cannot_start_waits_as_if_it_had_not_been_tried_and_starts_when_there_is_room(
    tmp_path: Path, number: int
) -> None:
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        run = node.submitted(*[{"command": "sleep 600"}] * 2, {"command": "true"}, target_node="node-1")
        with lacking(worker, number, after=2) as lack:
            worker.until(lambda: lack.tries, "the first try")
            for _ in range(3):
                worker.turn()
            short = worker.task(run.run_id, "t2")
            attempts, running = worker.attempts(run.run_id), len(worker.pids)
            view = read_run(node.store, run.run_id)
            lack.room = 100
            node.later(LONGEST_PAUSE_S)
            worker.until(lambda: worker.task(run.run_id, "t2").status is TaskState.COMPLETED, "its end")
            after = worker.task(run.run_id, "t2")

            assert (short.status, short.attempts, short.failures, short.error) == (TaskState.PENDING, 0, 0, None)
            assert attempts == [(1, AttemptState.RUNNING)] * 2
            assert running == 2
            assert view["tasks"][2]["waiting"]["reason"] == "machine"
            assert "use fewer slots" in view["tasks"][2]["waiting"]["message"]
            assert (after.attempts, after.failures) == (1, 0)


def test_while_something_is_short_no_task_is_tried_but_the_machine_is_asked(tmp_path: Path) -> None:
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        node.submitted(*[{"command": "true"}] * 4, target_node="node-1")
        with lacking(worker, errno.EMFILE) as lack:
            worker.until(lambda: lack.tries, "the first try")
            for _ in range(20):
                node.later(10)
                worker.turn()

            assert lack.tries == 1


def test_the_row_of_the_worker_says_nothing_more_when_the_shortage_is_over(tmp_path: Path) -> None:
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        run = node.submitted({"command": "true"}, target_node="node-1")
        with lacking(worker, errno.EAGAIN) as lack:
            worker.until(lambda: lack.tries, "the first try")
            worker.turn()
            said = [row.short_of for row in node.store.workers.all()]
            lack.room = 100
            node.later(LONGEST_PAUSE_S)
            worker.until(lambda: worker.task(run.run_id).status is TaskState.COMPLETED, "its end")
            worker.turn()

            assert said[0] is not None
            assert [row.short_of for row in node.store.workers.all()] == [None]


def test_outputs_that_cannot_be_read_for_want_of_a_descriptor_are_read_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        run = node.submitted({"command": "echo x=1 > $CIS_OUTPUT"}, target_node="node-1")
        really, refused = os.open, [0]

        def open_(path: str, *arguments: int, **more: int) -> int:
            if str(path).endswith(".outputs") and refused[0] < 3:
                refused[0] += 1
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return really(path, *arguments, **more)

        monkeypatch.setattr(os, "open", open_)
        worker.until(lambda: worker.task(run.run_id).status.final, "its end")

        assert refused == [3]
        assert worker.task(run.run_id).status is TaskState.COMPLETED
        assert worker.task(run.run_id).outputs == {"x": "1"}


def test_a_probe_finds_no_descriptor_and_then_finds_some() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        short_of = launching.shortage()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert short_of is not None
    assert "too many open files" in short_of
    assert launching.shortage() is None


def test_an_error_that_is_no_shortage_is_none() -> None:
    error = LaunchError("no such program")
    error.__cause__ = FileNotFoundError(errno.ENOENT, "no such file")

    assert shortage_of(error) is None
    assert shortage_of(None) is None


def test_each_task_that_starts_lets_one_more_be_tried_soon_and_each_shortage_doubles_the_pause() -> None:
    short = Shortage("few", 3, due_s=1.0)
    rooms = [short.room(0.9), short.room(1.0)]
    short.started(running=4, now_s=1.0)
    grown = [short.room(1.0), short.room(1.1)]
    for _ in range(10):
        short.again("few", running=2, now_s=2.0)

    assert rooms == [3, 4]
    assert grown == [4, 5]
    assert (short.most, short.due_s) == (2, 2.0 + LONGEST_PAUSE_S)


def test_a_pid_whose_start_cannot_be_read_is_stored_when_there_are_descriptors_again(tmp_path: Path) -> None:
    executor = LocalExecutor(max_log_bytes=1000)
    live = LiveAttempts(executor, grace_s=1.0)
    handle = executor.start(
        Launch(
            argv=("/bin/sleep", "60"),
            env={},
            cwd=tmp_path,
            stdin=b"",
            stdout=tmp_path / "out",
            stderr=tmp_path / "err",
            outputs="",
        )
    )
    live.add(handle, Live(attempt=attempt("r"), started_s=100.0, started_up_us=0, timeout_s=None, outputs=""))
    pid = executor._pids[handle]
    with no_descriptors():
        early = live.take_pids(older_than_s=100.0)
    due_s = live.oldest_without_pid_s()
    (stored,) = live.take_pids(older_than_s=due_s)
    executor.close()

    assert early == []
    assert 100.0 < due_s < 110.0
    assert stored.pid == pid
    assert stored.pid_started is not None
