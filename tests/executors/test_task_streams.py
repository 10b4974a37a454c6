"""What tasks write: every line whatever opens the stream, shares between many, and logs that cannot be written."""

from __future__ import annotations

import errno
import logging
import os
import resource
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cis.engine.ports import StrPath
from cis.executors import streams
from cis.executors.local import LocalExecutor
from cis.executors.logcap import CappedLog
from cis.executors.platform import HAS_PIDFD
from tests.worlds.executing import end_of, launch, run, shown
from tests.worlds.waiting import wait_for

CAP = 1_000_000


@pytest.fixture(
    params=[
        pytest.param(False, id="pidfd", marks=pytest.mark.skipif(not HAS_PIDFD, reason="no pidfds on this system")),
        pytest.param(True, id="portable"),
    ]
)
def executor(request: pytest.FixtureRequest) -> Iterator[LocalExecutor]:
    made = LocalExecutor(max_log_bytes=CAP, portable=request.param)
    yield made
    made.close()


def _shows(executor: LocalExecutor, path: Path, text: str) -> bool:
    return shown(executor, path) == text


@pytest.fixture
def log(tmp_path: Path) -> CappedLog:
    return CappedLog(tmp_path / "run" / "1.out", cap=CAP, tail_bytes=100)


# --- every line


@pytest.mark.parametrize("secret", [False, True])
@pytest.mark.parametrize(
    ("line", "out", "err"),
    [
        ("echo 1; echo 2 > /dev/stdout; echo 3", "1\n2\n3\n", ""),
        ("echo 1 >&2; echo 2 > /dev/stderr; echo 3 >&2", "", "1\n2\n3\n"),
        ("echo 1 >&2; printf 'a\\nb\\n' | tee /dev/stderr; echo 2 >&2", "a\nb\n", "1\na\nb\n2\n"),
        ("echo 1; exec 3>/dev/stdout; echo 2 >&3; echo 3; echo 4 >&3", "1\n2\n3\n4\n", ""),
        ("echo 1; echo 2 > /proc/self/fd/1; : > /dev/fd/1; echo 3", "1\n2\n3\n", ""),
    ],
)
def test_no_line_is_lost_when_a_task_opens_its_own_stream_by_name(
    executor: LocalExecutor, tmp_path: Path, *, line: str, out: str, err: str, secret: bool
) -> None:
    wanted = launch(tmp_path, line)
    ended = run(executor, wanted._replace(mask=(b"no such thing",)) if secret else wanted)

    assert (ended.stdout_tail, ended.stderr_tail) == (out, err)
    assert [(tmp_path / f"task.{name}").exists() for name in ("out", "err")] == [bool(out), bool(err)]
    assert not out or (tmp_path / "task.out").read_text() == out


def test_a_task_that_says_nothing_leaves_no_file_however_long_it_lives(executor: LocalExecutor, tmp_path: Path) -> None:
    run(executor, launch(tmp_path, "sleep 0.2"))

    assert list(tmp_path.iterdir()) == []


def test_what_is_said_can_be_read_at_once_while_the_task_lives(executor: LocalExecutor, tmp_path: Path) -> None:
    line = "for i in 1 2 3; do echo $i; until test -e go$i; do sleep 0.01; done; done; exec sleep 60"
    handle = executor.start(launch(tmp_path, line))
    for number, text in enumerate(("1\n", "1\n2\n", "1\n2\n3\n"), start=1):
        wait_for(partial(_shows, executor, tmp_path / "task.out", text), what="what it said")
        (tmp_path / f"go{number}").touch()

    executor.end(handle, force=True)
    end_of(executor, handle)


def test_nothing_holds_a_log_open_when_its_attempt_has_ended(executor: LocalExecutor, tmp_path: Path) -> None:
    """What its last process says in its last second is there; then the pipe has nobody who reads it, and nobody who writes."""
    before = len(list(Path("/dev/fd").iterdir()))
    ended = run(executor, launch(tmp_path, "(sleep 0.3; echo late) & echo now"))

    assert ended.stdout_tail == (tmp_path / "task.out").read_text()
    assert ended.stdout_tail == "now\nlate\n"
    executor.wait(0.0)
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_what_a_process_said_before_the_executor_was_closed_is_kept(tmp_path: Path) -> None:
    executor = LocalExecutor(max_log_bytes=1000)
    executor.start(launch(tmp_path, "echo said; touch there; exec sleep 60"))
    wait_for((tmp_path / "there").exists, what="what it said")
    executor.close()

    assert (tmp_path / "task.out").read_text() == "said\n"


# --- shares


def test_one_that_floods_keeps_neither_another_nor_whoever_waits(executor: LocalExecutor, tmp_path: Path) -> None:
    flood = executor.start(launch(tmp_path, "exec cat /dev/zero", name="flood"))
    wait_for(lambda: (tmp_path / "flood.out").exists() or executor.wait(0.02), what="the flood")
    began_s = time.monotonic()
    for number in range(5):
        whisper = executor.start(launch(tmp_path, "echo heard; sleep 0.1; echo again", name=str(number)))
        assert end_of(executor, whisper).stdout_tail == "heard\nagain\n"
    assert executor.wait(0.05) == []

    assert time.monotonic() - began_s < 10
    executor.end(flood, force=True)
    assert end_of(executor, flood).stdout_bytes > CAP


def test_a_round_reads_a_bounded_amount_in_equal_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: dict[int, list[int]] = {}
    read = streams.LogPipe.read

    def counted(pipe: streams.LogPipe, buffer: memoryview) -> int | None:
        size = read(pipe, buffer)
        taken.setdefault(pipe.descriptor, []).append(size or 0)
        return size

    monkeypatch.setattr(streams, "ROUND_BYTES", 1 << 15)
    executor = LocalExecutor(max_log_bytes=1000)
    for number in range(4):
        executor.start(launch(tmp_path, "exec cat /dev/zero", name=str(number)))
    wait_for(lambda: not executor.wait(0.02) and len(executor._listener._listened) >= 4, what="all to be listened to")
    monkeypatch.setattr(streams.LogPipe, "read", counted)
    executor.wait(0.0)
    executor.close()

    assert sum(map(sum, taken.values())) <= 1 << 15
    assert all(len(sizes) == 1 for sizes in taken.values())


def test_whoever_writes_on_and_on_does_not_keep_the_end_of_an_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = streams.LogPipe(tmp_path / "1.out", cap=CAP)
    reads = iter(range(100))

    def full(_: int, size: int) -> bytes:
        next(reads)
        return bytes(size)

    monkeypatch.setattr(os, "read", full)
    _, size = pipe.finish()
    pipe.close()

    assert size == streams.MOST_LEFT_BYTES


def test_one_that_writes_line_by_line_does_not_wake_its_worker_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    read = streams.LogPipe.read

    def counted(pipe: streams.LogPipe, buffer: memoryview) -> int | None:
        nonlocal reads
        reads += 1
        return read(pipe, buffer)

    monkeypatch.setattr(streams.LogPipe, "read", counted)
    executor = LocalExecutor(max_log_bytes=CAP)
    began_s = time.monotonic()
    ended = run(executor, launch(tmp_path, "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done"))
    took_s = time.monotonic() - began_s
    executor.close()

    assert ended.stdout_bytes == sum(len(f"{number}\n") for number in range(20_000))
    assert reads <= 10 + 2 * took_s / streams.REST_S


# --- logs that cannot be written


def test_a_full_disk_costs_the_log_alone_and_the_log_says_what_is_missing(
    log: CappedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    log.append(b"before\n")
    monkeypatch.setattr(os, "write", full)
    log.append(b"lost 1\n")
    log.append(b"lost 2\n")
    monkeypatch.setattr(os, "write", write)
    log.append(b"after\n")

    tail, size = log.finish()
    assert size == len("before\nlost 1\nlost 2\nafter\n")
    assert tail.endswith("before\nlost 1\nlost 2\nafter\n")
    text = Path(log.path).read_text()
    assert text == "before\n\n[cis: 14 bytes are missing here: No space left on device]\nafter\n"


def test_a_log_that_cannot_be_made_fails_no_task_and_the_worker_says_so_once(
    executor: LocalExecutor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "plain").write_text("a file where a folder should be")
    wanted = launch(tmp_path, "echo 1; sleep 0.1; echo 2")._replace(stdout=tmp_path / "plain" / "1.out")
    with caplog.at_level(logging.WARNING):
        ended = run(executor, wanted)

    assert (ended.exit_code, ended.stdout_tail) == (0, "1\n2\n")
    assert [record.message for record in caplog.records].count(
        "a log file cannot be written; what its task says now is missing in it"
    ) == 1


def test_no_line_is_lost_while_there_are_no_descriptors_left_for_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipes: list[streams.LogPipe] = []
    make = streams.LogPipe.__init__

    def noted(pipe: streams.LogPipe, path: StrPath, *, cap: int) -> None:
        make(pipe, path, cap=cap)
        pipes.append(pipe)

    monkeypatch.setattr(streams.LogPipe, "__init__", noted)
    executor = LocalExecutor(max_log_bytes=CAP)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    handle = executor.start(launch(tmp_path, "echo 1; until test -e go; do sleep 0.01; done; echo 2; exec sleep 60"))
    top = os.open(os.devnull, os.O_RDONLY)
    os.close(top)
    resource.setrlimit(resource.RLIMIT_NOFILE, (top, hard))
    try:
        wait_for(lambda: not executor.wait(0.05) and pipes[0]._held, what="a line")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    (tmp_path / "go").touch()

    wait_for(lambda: shown(executor, tmp_path / "task.out") == "1\n2\n", what="both lines")
    executor.end(handle, force=True)
    assert end_of(executor, handle).stdout_tail == "1\n2\n"
    executor.close()


def test_the_last_words_of_a_task_are_kept_when_no_descriptor_is_left_but_those_of_its_pipe(tmp_path: Path) -> None:
    pipe = streams.LogPipe(tmp_path / "1.out", cap=CAP)
    os.write(pipe.writer, b"said")
    pipe.hand_over()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    others: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (pipe.descriptor + 32, hard))
    try:
        with suppress(OSError):
            while True:
                others.append(os.open(os.devnull, os.O_RDONLY))
        told = pipe.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in others:
            os.close(descriptor)
        pipe.close()

    assert told == ("said", 4)
    assert (tmp_path / "1.out").read_text() == "said"


def test_a_log_takes_the_place_of_what_lies_there_and_is_never_written_through_a_link(
    log: CappedLog, tmp_path: Path
) -> None:
    path, other = Path(log.path), tmp_path / "other"
    other.write_text("of somebody else")
    path.parent.mkdir()
    path.symlink_to(other)
    log.append(b"mine")
    log.finish()

    assert not path.is_symlink()
    assert (path.read_text(), other.read_text()) == ("mine", "of somebody else")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_folder_is_made_with_the_first_log_in_it(log: CappedLog) -> None:
    folder = Path(log.path).parent
    assert not folder.exists()
    log.append(b"hello")
    log.close()

    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("1.out", "hello")]
    assert folder.stat().st_mode & 0o777 == 0o700
