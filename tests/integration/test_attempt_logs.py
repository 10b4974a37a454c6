"""Logs in which nothing was written are passed on to the next attempt, and only when nobody else has them."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cis.executors import attemptlogs
from cis.executors.attemptlogs import AttemptLogs
from cis.executors.local import LocalExecutor
from cis.executors.logcap import CAN_PASS_ON
from tests.integration.test_local_executor import launch, run
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(not CAN_PASS_ON, reason="no leases on this system")


@pytest.fixture
def logs() -> Iterator[AttemptLogs]:
    made = AttemptLogs(cap=1000)
    yield made
    made.close()


def silent(logs: AttemptLogs, path: Path) -> int:
    """Let an attempt end that wrote nothing; return the inode of its file."""
    log = logs.open(path)
    log.hand_over()
    assert logs.finish(log) == ("", 0)
    return path.stat().st_ino


def test_an_empty_log_becomes_that_of_the_next_attempt(logs: AttemptLogs, tmp_path: Path) -> None:
    first, second = tmp_path / "1.out", tmp_path / "2.out"
    inode = silent(logs, first)
    log = logs.open(second)
    os.write(log.writer, b"hello")
    log.hand_over()

    assert logs.finish(log) == ("hello", 5)
    assert not first.exists()
    assert (second.stat().st_ino, second.stat().st_mode & 0o777) == (inode, 0o600)
    assert second.read_text() == "hello"


def test_what_a_task_left_in_the_background_writes_into_its_own_log(logs: AttemptLogs, tmp_path: Path) -> None:
    first, second = tmp_path / "1.out", tmp_path / "2.out"
    log = logs.open(first)
    background = os.dup(log.writer)
    log.hand_over()
    logs.finish(log)
    logs.open(second).close()
    os.write(background, b"late")
    os.close(background)

    assert (first.read_text(), second.read_text()) == ("late", "")


def test_a_log_that_was_written_to_after_its_attempt_is_not_passed_on(logs: AttemptLogs, tmp_path: Path) -> None:
    first, second = tmp_path / "1.out", tmp_path / "2.out"
    silent(logs, first)
    first.write_text("late")
    logs.open(second).close()

    assert (first.read_text(), second.read_text()) == ("late", "")


def test_a_log_that_somebody_reads_is_not_passed_on(logs: AttemptLogs, tmp_path: Path) -> None:
    first, second = tmp_path / "1.out", tmp_path / "2.out"
    inode = silent(logs, first)
    with first.open():
        logs.open(second).close()

    assert first.stat().st_ino == inode
    assert second.stat().st_ino != inode


def test_who_opens_a_log_while_it_is_passed_on_does_not_end_the_worker(
    logs: AttemptLogs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system tells the holder of a lease by SIGIO, which ends a process, unless another signal was asked for."""
    first, second = tmp_path / "1.out", tmp_path / "2.out"
    silent(logs, first)
    seen: list[int] = []
    control = fcntl.fcntl

    def open_meanwhile(descriptor: int, command: int, argument: int) -> int:
        answer = control(descriptor, command, argument)
        if (command, argument) == (fcntl.F_SETLEASE, fcntl.F_WRLCK):
            with pytest.raises(BlockingIOError):
                os.open(second, os.O_RDONLY | os.O_NONBLOCK)
        return answer

    before = {
        number: signal.signal(number, lambda got, _: seen.append(got)) for number in (signal.SIGIO, signal.SIGURG)
    }
    monkeypatch.setattr(fcntl, "fcntl", open_meanwhile)
    try:
        logs.open(second).close()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

    assert seen == [signal.SIGURG]


@pytest.mark.parametrize("link", [False, True])
def test_a_log_that_is_not_there_any_more_is_made(logs: AttemptLogs, tmp_path: Path, *, link: bool) -> None:
    first, second, other = tmp_path / "1.out", tmp_path / "2.out", tmp_path / "other"
    silent(logs, first)
    first.unlink()
    if link:
        other.touch()
        first.symlink_to(other)
    log = logs.open(second)
    os.write(log.writer, b"mine")
    log.close()

    assert not second.is_symlink()
    assert second.read_text() == "mine"
    assert not link or (first.is_symlink() and not other.read_text())


def test_only_so_many_are_kept_open(logs: AttemptLogs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attemptlogs, "MOST_SPARE", 2)
    opened = [logs.open(tmp_path / f"{number}.out") for number in range(4)]
    for log in opened:
        log.hand_over()
        logs.finish(log)
    for number in range(4, 8):
        logs.open(tmp_path / f"{number}.out").close()

    assert [path.name for path in sorted(tmp_path.iterdir())] == ["2.out", "3.out", "4.out", "5.out", "6.out", "7.out"]


def test_tasks_that_say_nothing_leave_no_files_and_those_in_the_background_keep_theirs(tmp_path: Path) -> None:
    executor = LocalExecutor(max_log_bytes=1000)
    run(executor, launch(tmp_path, "true", name="1"))
    run(executor, launch(tmp_path, "(sleep 0.2; echo late) & exit 0", name="2"))
    run(executor, launch(tmp_path, "echo said", name="3"))
    wait_for((tmp_path / "2.out").read_text, what="what came late")
    executor.close()

    assert not (tmp_path / "1.out").exists()
    assert (tmp_path / "2.out").read_text() == "late\n"
    assert (tmp_path / "3.out").read_text() == "said\n"
