"""An attempt has ended when everything is gone that descends from it, in whatever group or session it hides."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cis.engine.ports import Exit, Launch, Orphan
from cis.executors import streams
from cis.executors.linux.descendants import Adopted, adopt_descendants
from cis.executors.linux.stamps import Stamping, can_stamp, stamp_of, stamp_on
from cis.executors.local import LAST_WORDS_S, LocalExecutor
from cis.executors.orphans import kill_orphans
from cis.executors.platform import HAS_PIDFD, process_started
from tests.worlds.descriptors import no_descriptors
from tests.worlds.waiting import wait_for

pytestmark = pytest.mark.skipif(not HAS_PIDFD or not can_stamp(), reason="what descends is found on Linux only")

PY = sys.executable
DOUBLE_FORK = "import os, time\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n"
NEW_SESSION = "import subprocess, sys; subprocess.Popen(sys.argv[1:], start_new_session=True)"

# Each starts {beat}, which writes its pid into a file and goes on for a minute, where no signal to the group reaches it.
WAYS = {
    "timeout": "timeout 60 {beat} & {wait}",
    "setsid": "setsid {beat} & {wait}",
    "setsid that forks": "setsid -f {beat}; {wait}",
    "monitor": "bash -c 'set -m; {beat} & {wait}'",
    "double fork": f"{PY} -c \"{DOUBLE_FORK}os.execv('/bin/sh', ['sh', '{{file}}'])\"; {{wait}}",
    "new session": f"{PY} -c '{NEW_SESSION}' {{beat}}; {{wait}}",
    "no environment": "env -i setsid /bin/sh {file} & {wait}",
    "no environment, no parent": "(env -i setsid /bin/sh {file} &) ; {wait}",
    "nohup": "nohup {beat} >/dev/null 2>&1 & {wait}",
    "stopped": "setsid sh -c '/bin/sh {file} & until [ -s {pid} ]; do sleep 0.01; done; kill -STOP $!; wait' & {wait}",
}
ways = pytest.mark.parametrize("way", WAYS)


@pytest.fixture
def executor() -> Iterator[LocalExecutor]:
    made = LocalExecutor(max_log_bytes=100_000, alone=True, grace_s=0.5)
    yield made
    made.close()


def launch(folder: Path, line: str, *, name: str = "task", leave: bool = False) -> Launch:
    """Return a launch of a shell line, with the marks of an attempt of its own."""
    marks = {"CIS_RUN_ID": str(folder), "CIS_TASK_ID": name, "CIS_ATTEMPT": "1"}
    return Launch(
        argv=("/bin/sh", "-c", line),
        env={"PATH": os.environ["PATH"], **marks},
        cwd=folder,
        stdin=b"",
        stdout=folder / f"{name}.out",
        stderr=folder / f"{name}.err",
        outputs="",
        marks=marks,
        leave=leave,
        handle=name,
    )


def escaping(folder: Path, way: str, *, wait: str, name: str = "task") -> str:
    """Return a shell line that starts a process which gets away as *way* says, and then does what *wait* says."""
    script = folder / f"{name}.beat"
    script.write_text(f"echo $$ > {folder}/{name}.part; mv {folder}/{name}.part {folder}/{name}.pid; exec sleep 60\n")
    return WAYS[way].format(beat=f"/bin/sh {script}", file=script, pid=f"{folder}/{name}.pid", wait=wait)


def pid_of(folder: Path, name: str = "task") -> int:
    """Return the pid of the process that got away, once it runs."""
    file = folder / f"{name}.pid"
    return int(wait_for(lambda: file.exists() and file.read_text(), what="the process that gets away"))


def is_alive(pid: int) -> bool:
    """Whether a process is there; a zombie is not reaped by whoever should."""
    return Path(f"/proc/{pid}").exists()


def end_of(executor: LocalExecutor, handle: str, *, within_s: float = 20.0) -> Exit:
    """Wait for the end of an attempt."""
    (ended,) = wait_for(lambda: executor.wait(0.2), timeout_s=within_s, what="the end of the attempt")
    assert ended.handle == handle
    return ended


@ways
def test_what_left_the_group_is_told_to_end_with_its_task(executor: LocalExecutor, tmp_path: Path, way: str) -> None:
    handle = executor.start(launch(tmp_path, escaping(tmp_path, way, wait="sleep 60")))
    escaped = pid_of(tmp_path)

    executor.end(handle, force=False)
    end_of(executor, handle)

    assert not is_alive(escaped)


def test_the_number_of_an_attempt_is_given_to_no_other_process_before_its_end(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    handle = executor.start(launch(tmp_path, "trap '' TERM; " + escaping(tmp_path, "setsid that forks", wait="exit 3")))
    leader = executor._pids[handle]
    escaped = pid_of(tmp_path)
    for _ in range(5):
        assert executor.wait(0.05) == []
    while_it_lingers = is_alive(leader)
    ended = end_of(executor, handle)

    assert while_it_lingers
    assert ended.exit_code == 3
    assert not is_alive(escaped)
    executor.wait(0.0)  # which gives the number back
    assert not is_alive(leader)


def test_a_stray_of_which_nothing_can_be_read_for_want_of_descriptors_takes_the_worker_not_down(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    handle = executor.start(
        launch(tmp_path, f"bash -c 'ulimit -x 5; {escaping(tmp_path, 'setsid that forks', wait='sleep 60')}'")
    )
    escaped = pid_of(tmp_path)
    with no_descriptors():
        for _ in range(3):
            executor.end(handle, force=False)
            executor.wait(0.05)
    executor.end(handle, force=True)
    end_of(executor, handle)

    assert not is_alive(escaped)


def test_an_attempt_is_not_over_while_there_is_no_descriptor_to_tell_whose_a_stray_is(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "stamp_of", lambda *_, **__: None)  # where nothing can be stamped
    other = executor.start(launch(tmp_path, "sleep 60", name="other"))
    go = tmp_path / "go"
    way = escaping(tmp_path, "setsid that forks", wait=f"until [ -d {go} ]; do sleep 0.01; done")
    handle = executor.start(launch(tmp_path, way))
    escaped = pid_of(tmp_path)
    with no_descriptors():
        go.mkdir()
        early = [ended for _ in range(10) for ended in executor.wait(0.1)]
        gone_early = not is_alive(escaped)
    end_of(executor, handle)

    assert early == []
    assert not gone_early
    assert not is_alive(escaped)
    executor.end(other, force=True)
    end_of(executor, other)


def test_a_known_stray_is_killed_also_when_there_is_no_descriptor_to_look_at_it(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    handle = executor.start(
        launch(tmp_path, "trap '' TERM; " + escaping(tmp_path, "setsid that forks", wait="sleep 60"))
    )
    escaped = pid_of(tmp_path)
    with no_descriptors():
        executor.end(handle, force=True)
        (ended,) = wait_for(lambda: executor.wait(0.1), what="the end of the attempt")

        assert ended.handle == handle
        assert not is_alive(escaped)


def test_what_left_the_group_is_found_beside_a_thousand_others(executor: LocalExecutor, tmp_path: Path) -> None:
    many = "i=0; while [ $i -lt 1000 ]; do sleep 60 & i=$((i+1)); done"
    crowd = executor.start(launch(tmp_path, many, name="crowd", leave=True))
    group = executor._pids[crowd]
    end_of(executor, crowd, within_s=60.0)
    try:
        handle = executor.start(launch(tmp_path, escaping(tmp_path, "setsid that forks", wait="exit 0")))
        escaped = pid_of(tmp_path)
        end_of(executor, handle)

        assert not is_alive(escaped)
    finally:
        os.killpg(group, signal.SIGKILL)


@ways
def test_what_left_the_group_is_killed_with_its_task(executor: LocalExecutor, tmp_path: Path, way: str) -> None:
    handle = executor.start(launch(tmp_path, "trap '' TERM; " + escaping(tmp_path, way, wait="sleep 60")))
    escaped = pid_of(tmp_path)

    executor.end(handle, force=False)
    assert executor.wait(0.1) == []
    executor.end(handle, force=True)
    end_of(executor, handle)

    assert not is_alive(escaped)


@ways
def test_what_a_task_leaves_in_the_background_is_gone_before_its_end(
    executor: LocalExecutor, tmp_path: Path, way: str
) -> None:
    """Another attempt runs all the while, and what it started is let be."""
    other = executor.start(
        launch(tmp_path, escaping(tmp_path, "setsid that forks", wait="sleep 60", name="b"), name="b")
    )
    theirs = pid_of(tmp_path, "b")
    until = f"until [ -s {tmp_path}/task.pid ]; do sleep 0.01; done"
    handle = executor.start(launch(tmp_path, escaping(tmp_path, way, wait=until)))

    assert end_of(executor, handle).exit_code == 0

    assert not is_alive(pid_of(tmp_path))
    assert is_alive(theirs)
    executor.end(other, force=True)
    end_of(executor, other)
    assert not is_alive(theirs)


def test_what_is_left_may_finish_what_it_says_before_it_is_told_to_end(executor: LocalExecutor, tmp_path: Path) -> None:
    """``exec > >(tee …)`` is an idiom, and its last lines come after the end of the shell."""
    line = "(sleep 0.2; echo last) & echo first"

    ended = end_of(executor, executor.start(launch(tmp_path, line)))

    assert ended.stdout_tail == "first\nlast\n"


def test_what_ignores_term_in_the_background_is_killed_after_the_grace_period(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    handle = executor.start(launch(tmp_path, "(trap '' TERM; while :; do sleep 0.05; done) & :"))
    began_s = time.monotonic()

    ended = end_of(executor, handle)

    assert ended.exit_code == 0
    assert LAST_WORDS_S + 0.5 <= time.monotonic() - began_s < 10.0


def test_what_sheds_every_mark_is_ended_with_the_last_attempt(executor: LocalExecutor, tmp_path: Path) -> None:
    """Without its stamp, its environment and its group only this tells: it is a child here, and nobody else's."""
    (tmp_path / "shed.py").write_text(
        "import os, resource, time; resource.setrlimit(10, (7, -1)); os.setsid()\n"
        "open('part', 'w').write(str(os.getpid())); os.rename('part', 'pid'); time.sleep(60)\n"
    )
    line = f"(env -i {PY} shed.py &) ; until [ -s pid ]; do sleep 0.01; done"
    other = executor.start(launch(tmp_path, "sleep 60", name="other"))
    first = executor.start(launch(tmp_path, line))
    wait_for((tmp_path / "pid").exists, what="a process without marks")  # before anybody looks whose it is
    end_of(executor, first)
    shed = int((tmp_path / "pid").read_text())
    assert stamp_on(shed) is None
    assert is_alive(shed)

    executor.end(other, force=True)
    end_of(executor, other)

    assert not is_alive(shed)


def test_zombies_that_a_task_left_are_reaped(executor: LocalExecutor, tmp_path: Path) -> None:
    line = "for i in 1 2 3 4 5; do (setsid sh -c 'echo $$ >> pids; sleep 0.1' &) ; done; sleep 1"
    end_of(executor, executor.start(launch(tmp_path, line)))

    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 5
    assert not any(is_alive(pid) for pid in pids)


def test_the_status_of_a_child_that_somebody_waits_for_is_never_taken() -> None:
    waited = subprocess.Popen([PY, "-c", "raise SystemExit(3)"])
    assert adopt_descendants()
    family = Adopted(lambda pid: pid == waited.pid)
    try:
        wait_for(lambda: os.waitid(os.P_PID, waited.pid, os.WEXITED | os.WNOWAIT), what="the end")
        family.look()
    finally:
        family.close()

    assert waited.wait(10) == 3


def test_what_an_attempt_was_allowed_to_leave_stays_with_what_it_starts_later(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    daemon = "echo $$ > pid; until [ -e go ]; do sleep 0.02; done; (setsid sh -c 'echo $$ > later; exec sleep 60' &) ; exec sleep 60"
    line = f'(setsid sh -c "{daemon.replace("$$", chr(92) + "$$")}" >/dev/null 2>&1 &) ; until [ -s pid ]; do sleep 0.01; done'
    ended = end_of(executor, executor.start(launch(tmp_path, line, leave=True)))
    left = int((tmp_path / "pid").read_text())
    (tmp_path / "go").touch()
    later = int(wait_for(lambda: (tmp_path / "later").exists() and (tmp_path / "later").read_text().strip(), what="it"))
    try:
        end_of(executor, executor.start(launch(tmp_path, "true", name="next")))

        assert ended.left == [(left, process_started(left))]
        assert is_alive(left)
        assert is_alive(later)
    finally:
        os.kill(left, signal.SIGKILL)
        os.kill(later, signal.SIGKILL)


def test_a_stamp_is_handed_down_and_never_kept(tmp_path: Path) -> None:
    marks = {"CIS_RUN_ID": str(tmp_path), "CIS_TASK_ID": "t", "CIS_ATTEMPT": "1"}
    stamp = stamp_of(marks)
    with Stamping()(stamp):
        process = subprocess.Popen(["env", "-i", "setsid", "sleep", "60"])
    try:
        assert stamp is not None
        assert stamp_on(process.pid) == stamp
        assert stamp_on(os.getpid()) != stamp
        assert stamp_of({**marks, "CIS_ATTEMPT": "2"}) != stamp
    finally:
        process.kill()
        process.wait(10)


def test_what_runs_for_a_copy_of_a_home_wears_another_stamp(tmp_path: Path) -> None:
    marks = {"CIS_RUN_ID": str(tmp_path), "CIS_TASK_ID": "t", "CIS_ATTEMPT": "1"}
    (tmp_path / "link").symlink_to(tmp_path / "home")

    assert stamp_of(marks, home=tmp_path / "home") != stamp_of(marks, home=tmp_path / "copy")
    assert stamp_of(marks, home=tmp_path / "home") == stamp_of(marks, home=str(tmp_path / "link"))


def test_what_a_dead_worker_left_is_found_by_its_stamp(tmp_path: Path) -> None:
    """It is in a session of its own, has no environment, and its parent is gone."""
    marks = {"CIS_RUN_ID": str(tmp_path), "CIS_TASK_ID": "t", "CIS_ATTEMPT": "1"}
    with Stamping()(stamp_of(marks)):
        line = f"(env -i setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 60' &)"
        first = subprocess.Popen(["/bin/sh", "-c", line])
    pid = int(wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip(), what="it"))
    first.wait(10)
    started = process_started(pid)

    kill_orphans([Orphan(None, None, marks)])

    assert process_started(pid) != started or Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
