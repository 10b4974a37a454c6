"""Logs without names: who gets one and when, which file is given to the next attempt, and where there are none."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cis.executors import attemptlogs
from cis.executors.attemptlogs import AttemptLogs
from cis.executors.local import LocalExecutor
from cis.executors.logcap import HAS_UNNAMED, CappedLog
from tests.integration.test_local_executor import end_of, launch, run, shown
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(not HAS_UNNAMED, reason="this system makes no files without names")


@pytest.fixture
def logs() -> Iterator[AttemptLogs]:
    made = AttemptLogs(cap=1000)
    yield made
    made.close()


def inode(log: CappedLog) -> int:
    return os.fstat(log._descriptor).st_ino


def silent(logs: AttemptLogs, path: Path) -> int:
    """Let an attempt end that wrote nothing; return the inode of its file."""
    log = logs.open(path)
    number = inode(log)
    log.hand_over()
    assert logs.finish(log) == ("", 0)
    logs.tidy()
    return number


def test_an_empty_log_becomes_that_of_the_next_attempt(logs: AttemptLogs, tmp_path: Path) -> None:
    first, second = tmp_path / "1.out", tmp_path / "2.out"
    number = silent(logs, first)
    log = logs.open(second)
    os.write(log.writer, b"hello")
    log.hand_over()

    assert logs.finish(log) == ("hello", 5)
    assert not first.exists()
    assert (second.stat().st_ino, second.stat().st_mode & 0o777) == (number, 0o600)
    assert second.read_text() == "hello"


def test_what_a_task_left_in_the_background_writes_into_its_own_log(logs: AttemptLogs, tmp_path: Path) -> None:
    first, second = tmp_path / "1.out", tmp_path / "2.out"
    log = logs.open(first)
    background = os.dup(log.writer)
    log.hand_over()
    logs.finish(log)
    logs.tidy()
    other = logs.open(second)
    os.write(other.writer, b"mine")
    os.write(background, b"late")
    os.close(background)
    other.hand_over()
    logs.finish(other)

    assert (first.read_text(), second.read_text()) == ("late", "mine")


def test_a_log_is_found_in_place_of_what_lies_there_and_never_through_a_link(logs: AttemptLogs, tmp_path: Path) -> None:
    path, other = tmp_path / "1.out", tmp_path / "other"
    other.write_text("of somebody else")
    path.symlink_to(other)
    log = logs.open(path)
    os.write(log.writer, b"mine")
    log.hand_over()
    logs.finish(log)

    assert not path.is_symlink()
    assert (path.read_text(), other.read_text()) == ("mine", "of somebody else")


def test_a_file_that_its_task_opened_to_others_is_nobody_elses(logs: AttemptLogs, tmp_path: Path) -> None:
    """``chmod a+w /dev/stderr``, as some do, or ``chmod 444``, with which the next process could not even be given it."""
    for number, mode in enumerate((0o666, 0o444)):
        log = logs.open(tmp_path / f"{number}.out")
        os.fchmod(log.writer, mode)
        log.hand_over()
        logs.finish(log)
        logs.tidy()
    other = logs.open(tmp_path / "other.out")
    other.give_name()
    other.close()

    assert (tmp_path / "other.out").stat().st_mode & 0o777 == 0o600


def test_who_opens_a_file_by_its_descriptor_during_the_look_does_not_end_the_worker(
    logs: AttemptLogs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system tells the holder of a lease by SIGIO, which ends a process, unless another signal was asked for."""
    seen: list[int] = []
    control = fcntl.fcntl
    log = logs.open(tmp_path / "1.out")
    log.hand_over()
    logs.finish(log)

    def open_meanwhile(descriptor: int, command: int, argument: int) -> int:
        answer = control(descriptor, command, argument)
        if (command, argument) == (fcntl.F_SETLEASE, fcntl.F_WRLCK):
            with pytest.raises(BlockingIOError):
                os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_NONBLOCK)
        return answer

    before = {
        number: signal.signal(number, lambda got, _: seen.append(got)) for number in (signal.SIGIO, signal.SIGURG)
    }
    monkeypatch.setattr(fcntl, "fcntl", open_meanwhile)
    try:
        logs.tidy()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

    assert seen == [signal.SIGURG]


def test_only_so_many_are_kept_open(logs: AttemptLogs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attemptlogs, "MOST_SPARE", 2)
    before = len(list(Path("/proc/self/fd").iterdir()))
    opened = [logs.open(tmp_path / f"{number}.out") for number in range(4)]
    for log in opened:
        log.hand_over()
        logs.finish(log)
    logs.tidy()

    assert len(list(Path("/proc/self/fd").iterdir())) == before + 2 * 2  # each with a writer for the next process


@pytest.mark.parametrize(("trouble", "ever"), [(errno.ENOSPC, True), (errno.EXDEV, False)])
def test_a_name_that_cannot_be_given_costs_the_file_alone(
    logs: AttemptLogs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, trouble: int, ever: bool
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(trouble, os.strerror(trouble))

    log = logs.open(tmp_path / "1.out")
    os.write(log.writer, b"hello")
    log.hand_over()
    monkeypatch.setattr(os, "link", refuse)

    assert logs.finish(log) == ("hello", 5)
    assert not list(tmp_path.iterdir())
    logs.open(tmp_path / "2.out").close()
    assert (tmp_path / "2.out").exists() is not ever  # if it is never possible, those to come are made with theirs


def test_where_there_are_no_files_without_names_each_log_is_made_with_its_own(
    logs: AttemptLogs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = os.open

    def refuse(path: Any, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return usual(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    silent(logs, tmp_path / "1.out")
    log = logs.open(tmp_path / "2.out")
    os.write(log.writer, b"hello")
    log.hand_over()
    logs.finish(log)

    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["", "hello"]


@pytest.mark.parametrize("named", [False, True])
def test_a_folder_is_made_for_the_first_log_that_stays(tmp_path: Path, *, named: bool) -> None:
    nursery, wanted = tmp_path / "nursery", tmp_path / "logs" / "run"
    nursery.mkdir()
    logs = AttemptLogs(cap=1000, named=named, nursery=nursery)
    log = logs.open(wanted / "0.1.out")
    assert wanted.exists() is named
    os.write(log.writer, b"hello")
    log.hand_over()
    logs.finish(log)
    logs.close()

    assert [(path.name, path.read_text()) for path in wanted.iterdir()] == [("0.1.out", "hello")]
    assert wanted.stat().st_mode & 0o777 == 0o700


def test_without_a_nursery_that_is_there_a_log_is_made_with_its_name(tmp_path: Path) -> None:
    logs = AttemptLogs(cap=1000, nursery=tmp_path / "gone")

    assert logs.open(tmp_path / "run" / "0.1.out").named
    logs.close()


def test_a_log_can_be_read_while_its_process_lives_for_longer_than_a_moment(tmp_path: Path) -> None:
    executor = LocalExecutor(max_log_bytes=1000)
    handle = executor.start(launch(tmp_path, "echo said; exec sleep 60"))

    wait_for(lambda: shown(executor, tmp_path / "task.out") == "said\n", what="what it said")
    executor.end(handle, force=True)
    end_of(executor, handle)
    executor.close()


def test_what_a_process_said_before_the_executor_was_closed_is_kept(tmp_path: Path) -> None:
    executor = LocalExecutor(max_log_bytes=1000)
    handle = executor.start(launch(tmp_path, "echo said; exec sleep 60"))
    log = executor._running[handle].stdout
    wait_for(lambda: os.fstat(log._descriptor).st_size, what="what it said")
    executor.close()

    assert (tmp_path / "task.out").read_text() == "said\n"


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
