"""What every executor has to do: a plain local attempt and a lasting one, with what only Linux has and without it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cis.engine.ports import Exit, Fate, Launch
from cis.errors import LaunchError, TooLongError
from cis.executors.local import LocalExecutor
from cis.executors.platform import HAS_PIDFD, group_is_alive
from cis.model.secret_forms import needles
from cis.worker.bell import FifoBell
from tests.worlds.harness import alive
from tests.worlds.waiting import wait_for

CAP = 100_000
SECRET = "correct-horse-battery"
needs_pidfd = pytest.mark.skipif(not HAS_PIDFD, reason="no pidfds on this system")


class World(NamedTuple):
    """An executor, and how its attempts are launched."""

    executor: LocalExecutor
    bell: FifoBell
    folder: Path
    lasting: bool

    def launch(self, line: str, *, name: str = "r.0.1", **more: Any) -> Launch:
        """Return a launch of a shell line."""
        marks = {"CIS_RUN_ID": str(self.folder), "CIS_TASK_ID": name, "CIS_ATTEMPT": "1"}
        wanted = Launch(
            argv=("/bin/sh", "-c", line),
            env={"PATH": os.environ["PATH"], **marks},
            cwd=self.folder,
            stdin=b"",
            stdout=self.folder / f"{name}.out",
            stderr=self.folder / f"{name}.err",
            outputs=str(self.folder / f"{name}.outputs"),
            marks=marks,
            handle=name,
            lasting=self.lasting,
        )
        return wanted._replace(**more)

    def end_of(self, handle: str) -> Exit:
        """Wait for the end of one attempt; nothing else may end meanwhile."""
        (ended,) = wait_for(lambda: self.executor.wait(0.2), timeout_s=30.0, what="the end of the attempt")
        assert ended.handle == handle
        return ended

    def run(self, line: str, **more: Any) -> Exit:
        """Start an attempt and return its end."""
        return self.end_of(self.executor.start(self.launch(line, **more)))

    def pid(self, handle: str) -> int:
        """Return the process of an attempt, as soon as it is known."""

        def known() -> int:
            assert self.executor.wait(0.0) == []
            found = self.executor.identity(handle)
            return found.pid if found is not None else 0

        return wait_for(known, what="the process of the attempt")


@pytest.fixture(
    params=[
        pytest.param((False, False), id="plain", marks=needs_pidfd),
        pytest.param((False, True), id="plain, portable"),
        pytest.param((True, False), id="lasting", marks=needs_pidfd),
        pytest.param((True, True), id="lasting, portable"),
    ]
)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    lasting, portable = request.param
    bell = FifoBell(tmp_path / "bell")
    executor = LocalExecutor(
        max_log_bytes=CAP,
        portable=portable,
        alone=True,
        grace_s=0.3,
        home=tmp_path,
        attempts=tmp_path / "attempts",
        wake_up=bell,
    )
    yield World(executor, bell, tmp_path, lasting)
    executor.close()
    bell.close()


def test_a_ring_ends_a_wait_and_is_told_once(world: World) -> None:
    world.executor.start(world.launch("exec sleep 60"))
    world.bell.ring()
    before = world.bell.was_rung()
    exits = world.executor.wait(30.0)

    assert exits == []
    assert [before, world.bell.was_rung(), world.bell.was_rung()] == [False, True, False]
    assert world.executor.wait(0.0) == []
    assert not world.bell.was_rung()


@pytest.mark.parametrize(("line", "code"), [("true", 0), ("exit 7", 7), ("kill -KILL $$", -9)])
def test_the_exit_code_is_that_of_the_process_and_negative_for_a_signal(world: World, line: str, code: int) -> None:
    ended = world.run(line)

    assert (ended.exit_code, ended.fault, ended.lost, ended.timed_out) == (code, None, None, False)


def test_what_it_writes_is_in_its_files_and_the_ends_of_them_in_its_exit(world: World) -> None:
    ended = world.run("echo out; echo wrong >&2")

    assert (ended.stdout_tail, ended.stdout_bytes) == ("out\n", 4)
    assert (ended.stderr_tail, ended.stderr_bytes) == ("wrong\n", 6)
    assert (world.folder / "r.0.1.out").read_text() == "out\n"
    assert (world.folder / "r.0.1.err").stat().st_mode & 0o777 == 0o600


def test_a_log_holds_no_more_than_its_cap(world: World) -> None:
    ended = world.run(f"head -c {3 * CAP} /dev/zero")

    assert ended.stdout_bytes == 3 * CAP
    assert CAP <= (world.folder / "r.0.1.out").stat().st_size < CAP + 200


def test_it_reads_what_it_is_given(world: World) -> None:
    assert world.run("cat", stdin=b"given\n" * 50_000).stdout_bytes == 300_000


def test_a_secret_is_shown_neither_in_the_files_nor_in_the_exit(world: World) -> None:
    ended = world.run(f"echo it is {SECRET}", mask=needles([SECRET]))

    assert ended.stdout_tail == "it is ***\n"
    assert (world.folder / "r.0.1.out").read_text() == "it is ***\n"


def test_a_program_that_is_not_there_is_named(world: World) -> None:
    wanted = world.launch("", argv=("/no/such/program",))
    try:
        said = world.end_of(world.executor.start(wanted)).fault
    except LaunchError as error:
        said = str(error)

    assert said == "program '/no/such/program' does not exist"


def test_what_is_too_long_for_the_system_is_told_from_what_may_start_another_time(world: World) -> None:
    def is_too_long(*argv: str, mask: Sequence[bytes]) -> bool:
        wanted = world.launch("", name=f"r.0.{next(numbers)}", argv=argv, mask=mask)
        try:
            return world.end_of(world.executor.start(wanted)).too_long
        except LaunchError as error:
            return isinstance(error, TooLongError)

    numbers = count(1)
    for mask in ((), needles([SECRET])):
        assert is_too_long("/bin/echo", "x" * 200_000, mask=mask)
        assert is_too_long("/bin/echo", *["x" * 1000] * 10_000, mask=mask)
        assert not is_too_long("/no/such/program", mask=mask)
        assert not is_too_long("/bin/echo", "x" * 100_000, mask=mask)


def test_term_reaches_the_process_and_what_it_started(world: World) -> None:
    handle = world.executor.start(world.launch("sleep 600 & echo $! > child; wait"))
    pid = world.pid(handle)
    child = int(wait_for(lambda: _text(world.folder / "child"), what="the child"))
    world.executor.end(handle, force=False)

    assert world.end_of(handle).exit_code == -15
    assert not alive(pid)
    wait_for(lambda: not alive(child), what="the end of the child")


def test_kill_ends_what_takes_no_notice_of_term(world: World) -> None:
    handle = world.executor.start(world.launch("trap '' TERM; : > deaf; while :; do sleep 0.05; done"))
    wait_for((world.folder / "deaf").exists, what="the task")
    world.executor.end(handle, force=False)
    world.executor.end(handle, force=True)

    assert world.end_of(handle).exit_code == -9


def test_what_it_left_in_the_background_is_ended_before_the_attempt_is_over(world: World) -> None:
    ended = world.run("(trap '' TERM; echo $$ > left; while :; do sleep 0.05; done) & until test -s left; do :; done")

    assert ended.exit_code == 0
    assert not group_is_alive(ended.pid or 0)


def test_what_may_stay_stays_and_is_named(world: World) -> None:
    ended = world.run("sleep 600 & echo $! > left", leave=True, keep_log=True)
    left = int((world.folder / "left").read_text())
    try:
        assert alive(left)
        assert [pid for pid, _ in ended.left] in ([left], [])  # what a portable one does not look for, it cannot name
    finally:
        os.kill(left, signal.SIGKILL)


def test_many_at_once_each_give_one_exit(world: World) -> None:
    codes = {world.executor.start(world.launch(f"exit {n}", name=f"r.{n}.1")): n for n in range(5)}

    seen: dict[str, int | None] = {}
    while len(seen) < len(codes):
        for ended in wait_for(lambda: world.executor.wait(1.0), timeout_s=30.0, what="an exit"):
            assert ended.handle not in seen
            seen[ended.handle] = ended.exit_code

    assert seen == codes


def test_its_process_is_known_while_it_runs(world: World) -> None:
    handle = world.executor.start(world.launch("echo $$ > me; exec sleep 600"))
    pid = world.pid(handle)
    me = int(wait_for(lambda: _text(world.folder / "me"), what="the task"))
    world.executor.end(handle, force=True)
    world.end_of(handle)

    assert pid == me


def test_an_end_that_is_asked_for_when_it_is_over_harms_nobody(world: World) -> None:
    handle = world.executor.start(world.launch("true"))
    world.end_of(handle)

    world.executor.end(handle, force=False)
    world.executor.end(handle, force=True)
    assert not world.executor.let_go(handle)


def test_what_was_never_started_is_gone(world: World) -> None:
    assert world.executor.take_up("r.9.1", marks={"CIS_RUN_ID": "r", "CIS_TASK_ID": "9"}).fate is Fate.GONE


def test_wait_returns_when_the_time_is_over(world: World) -> None:
    handle = world.executor.start(world.launch("exec sleep 600"))
    began_s = time.monotonic()

    assert world.executor.wait(0.15) == []
    assert time.monotonic() - began_s >= 0.14
    world.pid(handle)
    world.executor.end(handle, force=True)
    assert world.end_of(handle).exit_code == -9


def _text(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""
