"""Lasting attempts: taken up by another executor, and what is told of them whatever became of the process that leads them."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cis.engine.ports import Exit, Fate, Launch
from cis.errors import LaunchError
from cis.executors import guarded
from cis.executors.attempt_folder import BEGUN, ENDED, MOST_BYTES, AttemptFolders, make_begun, told_end
from cis.executors.local import LocalExecutor
from cis.executors.platform import HAS_PIDFD
from tests.worlds.descriptors import no_descriptors
from tests.worlds.harness import alive
from tests.worlds.waiting import wait_for

HANDLE = "r.0.1"
MARKS = {"CIS_RUN_ID": "r", "CIS_TASK_ID": "t", "CIS_ATTEMPT": "1"}
HOLD = "echo $$ > me; until test -e go; do sleep 0.02; done; echo said; exit 3"
Make = Callable[[], LocalExecutor]


@pytest.fixture(params=[pytest.param(False, marks=pytest.mark.skipif(not HAS_PIDFD, reason="no pidfds")), True])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Make executors of one home, as one worker after another has them."""
    made: list[LocalExecutor] = []

    def another() -> LocalExecutor:
        made.append(
            LocalExecutor(
                max_log_bytes=1000,
                portable=request.param,
                alone=True,
                grace_s=0.3,
                home=tmp_path,
                attempts=tmp_path / "attempts",
            )
        )
        return made[-1]

    yield another
    (tmp_path / "go").touch()
    for executor in reversed(made):  # each puts the handling of signals back as it found it
        executor.close()
    folders = AttemptFolders(tmp_path / "attempts")
    for handle in folders.handles():
        folders.order(handle, b"x")
        wait_for(lambda handle=handle: not folders.lives(handle), what="nothing to go on")  # type: ignore[misc]


def launch(folder: Path, line: str, *, timeout_s: float | None = None) -> Launch:
    return Launch(
        argv=("/bin/sh", "-c", line),
        env={"PATH": os.environ["PATH"], "CIS_OUTPUT": f"{folder}/outputs", **MARKS},
        cwd=folder,
        stdin=b"",
        stdout=folder / "out",
        stderr=folder / "err",
        outputs=f"{folder}/outputs",
        marks=MARKS,
        handle=HANDLE,
        lasting=True,
        timeout_s=timeout_s,
    )


def started(executor: LocalExecutor, folder: Path, line: str = HOLD) -> int:
    """Start the attempt, and return the pid of its task."""
    executor.start(launch(folder, line))
    wait_for(lambda: folders_of(folder).process(HANDLE), what="the process of the task")
    return int(wait_for(lambda: (folder / "me").exists() and (folder / "me").read_text().strip(), what="the task"))


def end_of(executor: LocalExecutor) -> Exit:
    (ended,) = wait_for(lambda: executor.wait(0.2), timeout_s=30.0, what="the end of the attempt")
    assert ended.handle == HANDLE
    return ended


def left_behind(make: Make, folder: Path, line: str = HOLD) -> int:
    """Have an executor start the attempt and go away; return the pid of its task."""
    first = make()
    pid = started(first, folder, line)
    assert first.let_go(HANDLE)
    return pid


def folders_of(folder: Path) -> AttemptFolders:
    return AttemptFolders(folder / "attempts")


def guardian(folder: Path) -> int:
    found = folders_of(folder).process(HANDLE, BEGUN)
    assert found is not None
    return found.pid


def ended_unseen(make: Make, folder: Path) -> Path:
    """Have the attempt end while no executor looks; return the file that says how."""
    left_behind(make, folder)
    (folder / "go").touch()
    wait_for(lambda: not folders_of(folder).lives(HANDLE), what="the end of the attempt")
    return Path(folders_of(folder).path(HANDLE)) / ENDED


def test_another_executor_takes_it_up_with_its_process_its_log_and_its_end(make: Make, tmp_path: Path) -> None:
    pid = left_behind(make, tmp_path)
    second = make()
    found = second.take_up(HANDLE, marks=MARKS)
    process = second.identity(HANDLE)
    (tmp_path / "go").touch()
    ended = end_of(second)

    assert found.fate is Fate.RUNNING
    assert process is not None
    assert process.pid == pid
    assert (ended.exit_code, ended.stdout_tail, ended.pid) == (3, "said\n", pid)
    assert ended.took_us
    assert not second.let_go(HANDLE)


def test_one_that_was_taken_up_is_ended_with_term_and_with_kill(make: Make, tmp_path: Path) -> None:
    pid = left_behind(make, tmp_path, "trap '' TERM; echo $$ > me; while :; do sleep 0.05; done")
    second = make()
    second.take_up(HANDLE, marks=MARKS)
    second.end(HANDLE, force=False)
    second.end(HANDLE, force=True)

    assert end_of(second).exit_code == -9
    assert not alive(pid)


def test_one_that_ended_while_nobody_looked_is_told_of_as_often_as_it_is_asked_for(make: Make, tmp_path: Path) -> None:
    ended_unseen(make, tmp_path)
    answers = [make().take_up(HANDLE, marks=MARKS) for _ in range(2)]
    first = answers[0].exit

    assert [answer.fate for answer in answers] == [Fate.ENDED, Fate.ENDED]
    assert answers[0] == answers[1]
    assert first is not None
    assert (first.exit_code, first.stdout_tail) == (3, "said\n")


def test_what_is_kept_of_it_is_for_this_user_alone_and_gone_when_it_is_forgotten(make: Make, tmp_path: Path) -> None:
    file = ended_unseen(make, tmp_path)
    modes = {path.stat().st_mode & 0o077 for path in (tmp_path / "attempts").rglob("*")}
    make().forget(HANDLE)

    assert modes == {0}
    assert not file.parent.exists()


@pytest.mark.parametrize("taken_up", [False, True])
def test_when_its_guardian_is_killed_its_task_is_ended_and_it_is_lost(
    make: Make, tmp_path: Path, *, taken_up: bool
) -> None:
    if taken_up:
        pid = left_behind(make, tmp_path)
        executor = make()
        executor.take_up(HANDLE, marks=MARKS)
    else:
        executor = make()
        pid = started(executor, tmp_path)
    os.kill(guardian(tmp_path), signal.SIGKILL)
    ended = end_of(executor)

    assert ended.lost == "the process that led it was killed"
    assert not alive(pid)


def test_one_whose_guardian_was_killed_unseen_is_gone_and_so_is_its_task(make: Make, tmp_path: Path) -> None:
    pid = left_behind(make, tmp_path)
    os.kill(guardian(tmp_path), signal.SIGKILL)
    wait_for(lambda: not folders_of(tmp_path).lives(HANDLE), what="its end")
    executor = make()
    answers: list[Fate] = []

    def told() -> bool:
        answers.append(executor.take_up(HANDLE, marks=MARKS).fate)
        return answers[-1] is not Fate.UNKNOWN

    wait_for(told, what="an answer")

    assert answers[-1] is Fate.GONE
    assert not alive(pid)


def test_a_guardian_that_hears_nothing_is_killed_in_the_end(make: Make, tmp_path: Path) -> None:
    left_behind(make, tmp_path)
    executor = make()
    executor.take_up(HANDLE, marks=MARKS)
    os.kill(guardian(tmp_path), signal.SIGSTOP)
    for _ in range(10):
        executor.end(HANDLE, force=True)

    assert end_of(executor).lost is not None


def test_what_was_given_up_is_not_started_any_more(make: Make, tmp_path: Path) -> None:
    assert make().take_up(HANDLE, marks=MARKS).fate is Fate.GONE

    with pytest.raises(LaunchError, match="given up"):
        make().start(launch(tmp_path, "touch ran"))


def test_a_guardian_that_is_on_its_way_when_its_attempt_is_given_up_starts_nothing(make: Make, tmp_path: Path) -> None:
    executor, folders = make(), folders_of(tmp_path)
    wanted = launch(tmp_path, "touch ran")
    with folders.made(HANDLE) as (alive_fd, orders):
        order = executor._guarded._order(wanted, alive=alive_fd, orders=orders)
        process, pipe = guarded._started(wanted, passed=(alive_fd, orders))
    seen = folders.lives(HANDLE)
    assert make_begun(folders.path(HANDLE))
    with pipe:
        pipe.write(order)

    assert seen
    assert process.wait(20) == 1
    assert not (tmp_path / "ran").exists()


def test_who_finds_a_folder_and_nobody_there_sees_to_it_that_nothing_begins_in_it(make: Make, tmp_path: Path) -> None:
    """Whoever made it may only be stopped, and go on."""
    folders = folders_of(tmp_path)
    with folders.made(HANDLE):
        pass
    found = make().take_up(HANDLE, marks=MARKS)

    assert found.fate is Fate.GONE
    assert not make_begun(folders.path(HANDLE))


def test_a_guardian_whose_order_was_cut_short_starts_nothing(make: Make, tmp_path: Path) -> None:
    executor, folders = make(), folders_of(tmp_path)
    wanted = launch(tmp_path, "touch ran")
    with folders.made(HANDLE) as (alive_fd, orders):
        order = executor._guarded._order(wanted, alive=alive_fd, orders=orders)
        process, pipe = guarded._started(wanted, passed=(alive_fd, orders))
    with pipe:
        pipe.write(order[:-10])

    assert process.wait(20) == 1
    assert make().take_up(HANDLE, marks=MARKS).fate is Fate.GONE
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "written",
    [b"", b"{", b"[]", b'{"version": 1}', b'{"version": true}', b'{"version": 1, "exit_code": "0"}', b"\xff"],
)
def test_an_end_that_cannot_be_read_makes_it_lost_with_the_reason(make: Make, tmp_path: Path, written: bytes) -> None:
    file = ended_unseen(make, tmp_path)
    file.write_bytes(written)
    found = make().take_up(HANDLE, marks=MARKS)

    assert found.exit is not None
    assert "cannot be read" in (found.exit.lost or "")


def test_an_end_that_is_too_large_makes_it_lost(make: Make, tmp_path: Path) -> None:
    ended_unseen(make, tmp_path).write_bytes(b" " * (MOST_BYTES + 1))
    found = make().take_up(HANDLE, marks=MARKS)

    assert found.exit is not None
    assert "more than" in (found.exit.lost or "")


def test_an_end_that_a_newer_program_wrote_is_not_known_and_not_lost(make: Make, tmp_path: Path) -> None:
    file = ended_unseen(make, tmp_path)
    written = file.read_text()
    file.write_text(json.dumps(json.loads(written) | {"version": 2}))
    found = make().take_up(HANDLE, marks=MARKS)
    file.write_text(json.dumps(json.loads(written) | {"a_field_of_later": 1}))
    after = make().take_up(HANDLE, marks=MARKS)

    assert found.fate is Fate.UNKNOWN
    assert "newer program" in found.why
    assert after.fate is Fate.ENDED


def test_an_end_as_long_as_it_may_be_is_read_again() -> None:
    text = "\N{SNOWMAN}" * 8192
    left = [(number, f"boot:{number}") for number in range(5000)]
    whole = Exit(handle=HANDLE, exit_code=0, stdout_tail=text, stderr_tail=text, fault="x" * 4000, left=left)
    written = told_end(whole)

    assert len(written) < MOST_BYTES


def test_for_want_of_descriptors_nothing_is_known_and_nothing_given_up(make: Make, tmp_path: Path) -> None:
    left_behind(make, tmp_path)
    executor = make()
    with no_descriptors():
        early = executor.take_up(HANDLE, marks=MARKS)
    later = executor.take_up(HANDLE, marks=MARKS)

    assert early.fate is Fate.UNKNOWN
    assert "open files" in early.why
    assert later.fate is Fate.RUNNING


def test_its_time_limit_holds_also_when_nobody_waits_for_it(make: Make, tmp_path: Path) -> None:
    first = make()
    first.start(launch(tmp_path, HOLD, timeout_s=0.5))
    first.let_go(HANDLE)
    wait_for(lambda: not folders_of(tmp_path).lives(HANDLE), what="the end of the attempt")
    found, process = make().take_up(HANDLE, marks=MARKS), folders_of(tmp_path).process(HANDLE)

    assert process is not None
    assert not alive(process.pid)
    assert found.exit is not None
    assert (found.exit.timed_out, found.exit.exit_code) == (True, -15)


def test_a_signal_from_outside_ends_it_and_it_counts_as_lost(make: Make, tmp_path: Path) -> None:
    executor = make()
    pid = started(executor, tmp_path)
    os.kill(guardian(tmp_path), signal.SIGTERM)
    ended = end_of(executor)

    assert (ended.exit_code, ended.lost) == (-15, "it was told to end from outside")
    assert not alive(pid)


def test_when_its_folder_is_gone_it_is_ended(make: Make, tmp_path: Path) -> None:
    pid = left_behind(make, tmp_path)
    (tmp_path / "attempts").rename(tmp_path / "elsewhere")
    wait_for(lambda: not alive(pid), what="the end of the task")


def test_when_its_folder_is_removed_its_guardian_ends_as_well(make: Make, tmp_path: Path) -> None:
    pid = left_behind(make, tmp_path)
    leader = guardian(tmp_path)
    shutil.rmtree(tmp_path / "attempts")
    wait_for(lambda: not alive(pid) and not alive(leader), timeout_s=30.0, what="the end of both")


def test_nothing_that_its_guardian_was_told_is_in_its_arguments_or_environment(make: Make, tmp_path: Path) -> None:
    executor = make()
    wanted = launch(tmp_path, HOLD)
    executor.start(wanted._replace(env={**wanted.env, "TOKEN": "hunter-two-42"}, mask=(b"hunter-two-42",)))
    wait_for((tmp_path / "me").exists, what="the task")
    shown = [Path(f"/proc/{guardian(tmp_path)}/{name}").read_bytes() for name in ("cmdline", "environ")]
    (tmp_path / "go").touch()
    end_of(executor)

    assert all(b"hunter" not in text for text in shown)
