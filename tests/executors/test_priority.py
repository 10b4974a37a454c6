"""Who comes first: a worker before its tasks, in one session where that is safe. Real processes and a real terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cis.executors.launching import lower

_TASK = """
import json, os, sys, time
usual, patience_s = map(float, sys.argv[1:])
patience_s += time.monotonic()
while os.getpriority(os.PRIO_PROCESS, 0) == usual and time.monotonic() < patience_s:
    time.sleep(0.001)
try:
    os.close(os.open("/dev/tty", os.O_RDWR))
    terminal = True
except OSError:
    terminal = False
print(json.dumps([os.getpriority(os.PRIO_PROCESS, 0), os.getsid(0), os.getpgrp() == os.getpid(), terminal]))
"""
_WORKER = """
import fcntl, json, os, pty, sys, termios
from cis.engine.ports import Launch
from cis.executors.local import LocalExecutor

nice, portable, terminal, task = json.loads(sys.argv[1])
if terminal:
    keep, mine = pty.openpty()
    fcntl.ioctl(mine, termios.TIOCSCTTY, 0)
usual, here = os.getpriority(os.PRIO_PROCESS, 0), os.getcwd()
argv = (sys.executable, "-c", task, str(usual), "20" if nice and usual < 19 else "0")
executor = LocalExecutor(max_log_bytes=10_000, nice=nice, portable=portable)
executor.start(Launch(argv=argv, env={}, cwd=here, stdin=b"", stdout=f"{here}/out", stderr=f"{here}/err", outputs=""))
ended = ()
while not ended:
    ended = executor.wait(60)
executor.close()
if ended[0].exit_code:
    sys.exit(ended[0].stderr_tail)
theirs, session, leads, terminal = json.loads(ended[0].stdout_tail)
print(json.dumps({"usual": usual, "theirs": theirs, "shared": session == os.getsid(0), "leads": leads, "terminal": terminal}))
"""


def seen(folder: Path, *before: str, nice: int, portable: bool = False, terminal: bool = False) -> dict[str, Any]:
    """Return what a task sees of itself, beside a worker that leads a session, perhaps one at a terminal."""
    argv = [*before, sys.executable, "-c", _WORKER, json.dumps([nice, portable, terminal, _TASK])]
    done = subprocess.run(
        argv, cwd=folder, capture_output=True, text=True, timeout=60, start_new_session=True, check=False
    )
    assert not done.returncode, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("nice", [0, 3])
def test_a_task_is_nicer_than_its_worker_by_what_is_set(tmp_path: Path, *, nice: int, portable: bool) -> None:
    found = seen(tmp_path, nice=nice, portable=portable)

    assert found["theirs"] == min(found["usual"] + nice, 19)


def test_a_worker_that_is_nice_itself_has_tasks_that_are_nicer_as_far_as_that_goes(tmp_path: Path) -> None:
    found = seen(tmp_path, "nice", "-n", "15", nice=10)

    assert (found["usual"] >= 15, found["theirs"]) == (True, 19)


def test_what_a_process_has_started_already_is_as_nice_as_itself() -> None:
    script = "sleep 60 & echo $!; wait"
    leader = subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE, text=True, process_group=0)
    with leader:
        assert leader.stdout is not None
        child = int(leader.stdout.readline())
        lower(leader.pid, by=3)
        nice = [os.getpriority(os.PRIO_PROCESS, pid) for pid in (leader.pid, child)]
        os.killpg(leader.pid, signal.SIGKILL)

    assert nice == [min(os.getpriority(os.PRIO_PROCESS, 0) + 3, 19)] * 2


@pytest.mark.parametrize("portable", [False, True])
def test_tasks_stay_in_the_session_of_a_worker_without_a_terminal(tmp_path: Path, *, portable: bool) -> None:
    """Linux weighs sessions against one another before it looks at what is nice."""
    found = seen(tmp_path, nice=10, portable=portable)

    assert (found["shared"], found["leads"], found["terminal"]) == (True, True, False)


@pytest.mark.parametrize("portable", [False, True])
def test_no_task_has_the_terminal_of_its_worker(tmp_path: Path, *, portable: bool) -> None:
    """It would be stopped there when it asks for a password, and never end."""
    found = seen(tmp_path, nice=10, portable=portable, terminal=True)

    assert (found["shared"], found["leads"], found["terminal"]) == (False, True, False)
