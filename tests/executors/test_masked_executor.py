"""A task that is given secrets, as a real process: what it writes is masked before it is on disk."""

from __future__ import annotations

import base64
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cis.engine.ports import Exit, Launch, Orphan
from cis.errors import LaunchError
from cis.executors import local
from cis.executors.local import LocalExecutor
from cis.executors.orphans import kill_orphans
from cis.executors.platform import HAS_PIDFD, all_pids, environment_of
from cis.model.masking import masked as whole_masked
from cis.model.secret_forms import needles
from tests.worlds.executing import shown
from tests.worlds.waiting import wait_for

SECRET = "correct-horse+battery/staple"
MARKS = {"CIS_RUN_ID": f"run-of-masked-tasks-{os.getpid()}", "CIS_TASK_ID": "t", "CIS_ATTEMPT": "1"}


@pytest.fixture(
    params=[
        pytest.param(False, id="pidfd", marks=pytest.mark.skipif(not HAS_PIDFD, reason="no pidfds on this system")),
        pytest.param(True, id="portable"),
    ]
)
def executor(request: pytest.FixtureRequest) -> Iterator[LocalExecutor]:
    made = LocalExecutor(max_log_bytes=10_000_000, portable=request.param)
    yield made
    made.close()
    wait_for(lambda: not marked(), what="the masking processes to be gone")


def launch(folder: Path, line: str, *, name: str = "task") -> Launch:
    """Return a launch of a shell line that has the secret in S, and its own pid in ME."""
    return Launch(
        argv=("/bin/sh", "-c", line),
        env={"PATH": os.environ["PATH"], "S": SECRET, **MARKS},
        cwd=folder,
        stdin=b"",
        stdout=folder / f"{name}.out",
        stderr=folder / f"{name}.err",
        outputs="",
        mask=needles([SECRET]),
        handle=name,
    )


def end_of(executor: LocalExecutor, handle: str) -> Exit:
    """Wait for the end of one process."""
    (ended,) = wait_for(lambda: executor.wait(0.2), what="the end of the process")
    assert ended.handle == handle
    return ended


def marked() -> list[int]:
    """Return the processes that carry the marks of these tests' attempt."""
    entries = {f"{name}={value}".encode() for name, value in MARKS.items()}
    return [pid for pid in all_pids() if entries <= (environment_of(pid) or frozenset())]


def masking_processes() -> list[int]:
    """Return the masking processes among them."""
    found = []
    for pid in marked():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            if b"log_keeper" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def seen(path: Path) -> bytes:
    """Return what a file holds, with the secret masked."""
    return whole_masked(path.read_bytes(), needles([SECRET]))


def test_both_streams_are_masked_in_files_of_mode_0600_and_the_exit_code_is_that_of_the_task(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    line = 'echo "out $S"; echo "err $S" >&2; echo "user:$S" | base64; exit 7'

    ended = end_of(executor, executor.start(launch(tmp_path, line)))

    assert ended.exit_code == 7
    assert ended.fault is None
    assert ended.stderr_tail == "err ***\n"
    assert ended.stdout_tail.startswith("out ***\n")
    assert base64.b64encode(SECRET.encode())[3:20].decode() not in ended.stdout_tail
    assert SECRET not in ended.stdout_tail
    for name in ("task.out", "task.err"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
        assert SECRET not in (tmp_path / name).read_text()


def test_all_that_was_written_is_there_when_the_attempt_is_over(executor: LocalExecutor, tmp_path: Path) -> None:
    line = f'i=0; while [ $i -lt 20 ]; do echo "$i $S"; i=$((i+1)); done; head -c {2_000_000} /dev/zero | tr "\\0" x'

    ended = end_of(executor, executor.start(launch(tmp_path, line)))

    text = (tmp_path / "task.out").read_text()
    assert text == "".join(f"{number} ***\n" for number in range(20)) + "x" * 2_000_000
    assert ended.stdout_bytes == len(text)


def test_a_task_without_secrets_needs_no_such_process(executor: LocalExecutor, tmp_path: Path) -> None:
    handle = executor.start(launch(tmp_path, "sleep 60")._replace(mask=()))

    assert not masking_processes()
    executor.end(handle, force=True)
    end_of(executor, handle)


def test_text_is_shown_while_the_task_goes_on(executor: LocalExecutor, tmp_path: Path) -> None:
    handle = executor.start(launch(tmp_path, 'echo "first $S"; printf "then c"; exec sleep 60'))

    wait_for(lambda: shown(executor, tmp_path / "task.out") == "first ***\nthen c", what="the text")
    executor.end(handle, force=True)
    assert end_of(executor, handle).exit_code == -9


def test_a_secret_that_is_written_bit_by_bit_is_masked(executor: LocalExecutor, tmp_path: Path) -> None:
    line = 'printf "%s" "${S%battery*}"; sleep 0.5; printf "%s\\n" "battery${S#*battery}"'

    assert end_of(executor, executor.start(launch(tmp_path, line))).stdout_tail == "***\n"


def test_values_are_in_no_argument_and_no_environment_of_the_masking_process(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    handle = executor.start(launch(tmp_path, "exec sleep 60"))
    (pid,) = wait_for(masking_processes, what="the masking process")  # in the middle of exec it has no environment

    for name in ("cmdline", "environ"):
        assert b"***" not in seen(Path(f"/proc/{pid}/{name}"))
    executor.end(handle, force=True)
    end_of(executor, handle)


def test_a_task_whose_masking_process_is_killed_fails_and_nothing_gets_past(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    handle = executor.start(launch(tmp_path, 'echo up; trap "" PIPE; while :; do echo "$S"; sleep 0.05; done'))
    wait_for(lambda: "up" in shown(executor, tmp_path / "task.out"), what="a start")
    (pid,) = wait_for(masking_processes, what="the masking process")  # in the middle of exec it has no environment

    os.kill(pid, signal.SIGKILL)

    ended = end_of(executor, handle)
    assert ended.fault is not None
    assert "masks" in ended.fault
    assert SECRET not in (tmp_path / "task.out").read_text()


def test_what_may_stay_in_the_background_does_not_keep_an_attempt_from_its_end_is_masked_and_held_to_the_cap(
    tmp_path: Path,
) -> None:
    executor = LocalExecutor(max_log_bytes=1000)
    wait = "i=0; while [ ! -e go ] && [ $i -lt 400 ]; do sleep 0.05; i=$((i+1)); done"
    line = f'echo "now $S"; ({wait}; echo "later $S"; head -c 100000 /dev/zero; touch written) &'
    began_s = time.monotonic()

    ended = end_of(executor, executor.start(launch(tmp_path, line)._replace(leave=True)))

    assert time.monotonic() - began_s < local.DRAIN_TIMEOUT_S
    assert (ended.exit_code, ended.fault, ended.stdout_tail) == (0, None, "now ***\n")
    (tmp_path / "go").touch()
    wait_for((tmp_path / "written").exists, what="the later text")
    wait_for(lambda: not executor.wait(0.05) and not marked(), what="the end of what keeps the log")
    assert (tmp_path / "task.out").read_bytes() == (b"now ***\nlater ***\n" + bytes(1000))[:1000]
    executor.close()


@pytest.mark.parametrize("secret", [False, True])
def test_a_log_with_a_keeper_is_kept_on_when_its_executor_is_gone(tmp_path: Path, *, secret: bool) -> None:
    """For what a task means to leave behind: it can go on writing, and finds its log masked and within its bound."""
    executor = LocalExecutor(max_log_bytes=1000)
    wait = "i=0; while [ ! -e go ] && [ $i -lt 400 ]; do sleep 0.05; i=$((i+1)); done"
    wanted = launch(tmp_path, f"echo now; ({wait}; echo later; head -c 100000 /dev/zero) &")
    ended = end_of(
        executor, executor.start(wanted._replace(mask=wanted.mask if secret else (), leave=True, keep_log=True))
    )
    executor.close()
    (tmp_path / "go").touch()

    assert (ended.stdout_tail, ended.stdout_bytes) == ("now\n", 4)
    wait_for(lambda: not marked(), what="the end of what keeps the log")
    assert (tmp_path / "task.out").read_bytes() == (b"now\nlater\n" + bytes(1000))[:1000]


def test_a_kept_log_is_counted_to_the_byte_and_its_tail_is_that_of_its_file(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    wanted = launch(tmp_path, "printf 'é%.0s' $(seq 100000); echo only >&2")._replace(mask=(), keep_log=True)

    ended = end_of(executor, executor.start(wanted))

    assert (ended.stdout_bytes, ended.stderr_bytes, ended.stderr_tail) == (200_000, 5, "only\n")
    assert ended.stdout_tail.endswith("é" * 4000)
    assert ended.stdout_tail.startswith("[cis: ")


def test_a_task_that_closes_its_streams_goes_on(executor: LocalExecutor, tmp_path: Path) -> None:
    handle = executor.start(launch(tmp_path, "exec >&- 2>&-; sleep 0.3; touch done; exit 3"))

    ended = end_of(executor, handle)

    assert (ended.exit_code, ended.fault) == (3, None)
    assert (tmp_path / "done").exists()


def test_a_task_that_is_ended_gives_what_it_wrote_last(executor: LocalExecutor, tmp_path: Path) -> None:
    line = 'trap "echo bye $S; exit 4" TERM; echo up; while :; do sleep 0.05; done'
    handle = executor.start(launch(tmp_path, line))
    wait_for(lambda: shown(executor, tmp_path / "task.out") == "up\n", what="a start")

    executor.end(handle, force=False)

    ended = end_of(executor, handle)
    assert (ended.exit_code, ended.stdout_tail) == (4, "up\nbye ***\n")


def test_a_start_that_fails_leaves_no_process_and_no_descriptor(executor: LocalExecutor, tmp_path: Path) -> None:
    before = len(os.listdir("/dev/fd"))  # noqa: PTH208 - a count

    with pytest.raises(LaunchError, match="was not found"):
        executor.start(launch(tmp_path, "")._replace(argv=("no-such-program",)))

    wait_for(lambda: not executor.wait(0.05) and not marked(), what="the masking process to be gone")
    wait_for(
        lambda: not executor.wait(0.05) and len(os.listdir("/dev/fd")) == before,  # noqa: PTH208
        what="its descriptors to be given back",
    )


def test_a_masking_process_that_cannot_start_is_the_reason_that_the_task_does_not(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")

    with pytest.raises(LaunchError, match="masks the task's secrets and keeps its logs cannot be started"):
        executor.start(launch(tmp_path, "echo $S"))
    assert not any(path.read_text() for path in tmp_path.glob("task.*"))


def test_whoever_ends_what_a_dead_worker_left_finds_the_masking_process(tmp_path: Path) -> None:
    executor = LocalExecutor(max_log_bytes=1000)
    executor.start(launch(tmp_path, "exec sleep 60"))
    wait_for(lambda: len(marked()) == 2, what="both processes")

    kill_orphans([Orphan(None, None, MARKS)])

    executor.close()
    assert not marked()
