"""What a dead worker leaves behind is found and ended; whoever has its number by chance is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cis.engine.ports import Orphan
from cis.errors import OrphanError
from cis.executors import orphans, platform
from cis.executors.orphans import Inherited, kill_orphans
from cis.executors.platform import (
    HAS_PROC,
    ParentWatch,
    all_pids,
    environment_of,
    group_is_alive,
    is_dead,
    kill_process,
    process_started,
    still_runs,
)
from cis.executors.processes import children_of, see
from tests.worlds.descriptors import no_descriptors
from tests.worlds.waiting import wait_for

needs_proc = pytest.mark.skipif(not HAS_PROC, reason="processes are found by their environment on Linux only")
both_ways = pytest.mark.parametrize("portable", [pytest.param(False, id="proc"), pytest.param(True, id="portable")])


@pytest.fixture
def marks() -> dict[str, str]:
    return {"CIS_RUN_ID": str(uuid.uuid4()), "CIS_TASK_ID": "t", "CIS_ATTEMPT": "1"}


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait(10)


def spawn(line: str, marks: dict[str, str], started: list[subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    """Start a shell line in a group of its own, marked as an attempt."""
    env = {"PATH": os.environ["PATH"], **marks}
    process = subprocess.Popen(["/bin/sh", "-c", line], env=env, start_new_session=True)
    started.append(process)
    return process


def pid_in(file: Path) -> int:
    return int(wait_for(lambda: file.exists() and file.read_text().strip(), what=f"a pid in {file.name}"))


def is_running(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    answer = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return bool(answer.stdout.strip()) and not answer.stdout.startswith("Z")


@both_ways
def test_the_group_of_a_recorded_process_is_gone_afterwards(
    tmp_path: Path, started: list[subprocess.Popen[bytes]], *, portable: bool
) -> None:
    process = spawn(f"sleep 60 & echo $! > {tmp_path}/child; wait", {}, started)
    child = pid_in(tmp_path / "child")
    reaper = subprocess.Popen([sys.executable, "-c", "pass"])  # another child, none of its business
    identity = process_started(process.pid, portable=portable)
    assert identity is not None

    if portable:  # without /proc a zombie counts as there, so somebody has to reap, as init does for orphans
        threading.Thread(target=process.wait).start()
    kill_orphans([Orphan(process.pid, identity, {})], portable=portable)

    assert not is_running(process.pid)
    assert not is_running(child)
    assert not group_is_alive(process.pid)
    assert reaper.wait(10) == 0


@both_ways
def test_a_reused_pid_is_left_alone(
    marks: dict[str, str], started: list[subprocess.Popen[bytes]], *, portable: bool
) -> None:
    process = spawn("exec sleep 60", {}, started)
    identity = process_started(process.pid, portable=portable)

    kill_orphans([Orphan(process.pid, f"{identity}1", marks)], portable=portable)

    assert process.poll() is None
    kill_orphans([Orphan(process.pid, None, marks)], portable=portable)
    assert process.poll() is None


@needs_proc
def test_a_grandchild_that_left_the_session_is_found_by_its_environment(
    tmp_path: Path, marks: dict[str, str], started: list[subprocess.Popen[bytes]]
) -> None:
    hide = (
        "import os, time\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)"
    )
    process = spawn(f'exec {sys.executable} -c "{hide}"', marks, started)
    hidden = pid_in(tmp_path / "pid")
    process.wait(10)
    assert is_running(hidden)

    kill_orphans([Orphan(process.pid, "gone", marks)])

    assert not is_running(hidden)


@needs_proc
def test_many_attempts_are_ended_with_few_looks_at_all_processes(
    marks: dict[str, str], started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    left = []
    for number in range(40):
        own = {**marks, "CIS_TASK_ID": f"t{number}"}
        process = spawn("exec sleep 600", own, started)
        left.append(Orphan(process.pid, process_started(process.pid), own if number % 2 else {}))
    looks = []

    def counted() -> list[int]:
        looks.append(1)
        return all_pids()

    for module in (orphans, platform):
        monkeypatch.setattr(module, "all_pids", counted)
    kill_orphans(left)

    assert [process.wait(10) for process in started] == [-signal.SIGKILL] * 40
    assert len(looks) < 40


@needs_proc
def test_what_a_task_of_the_original_home_started_survives_the_worker_of_a_copy(
    tmp_path: Path, marks: dict[str, str], started: list[subprocess.Popen[bytes]]
) -> None:
    """Same run, same attempt, same process in the rows of both: only the place of the home tells them apart."""
    original, copy = tmp_path / "home", tmp_path / "home2"
    original.mkdir()
    (tmp_path / "link").symlink_to(original)
    process = spawn("exec sleep 60", {**marks, "CIS_OUTPUT": f"{original}/logs/.live/x.outputs"}, started)
    wait_for(lambda: b"CIS_OUTPUT" in Path(f"/proc/{process.pid}/environ").read_bytes(), what="the process's exec")
    identity = process_started(process.pid)

    kill_orphans([Orphan(process.pid, identity, marks)], home=copy)
    kill_orphans([Orphan(None, None, marks)], home=copy)
    assert process.poll() is None

    kill_orphans([Orphan(None, None, marks)], home=tmp_path / "link")
    assert process.wait(10) == -signal.SIGKILL


@needs_proc
def test_only_a_process_with_all_marks_is_meant(marks: dict[str, str], started: list[subprocess.Popen[bytes]]) -> None:
    """Another attempt of the same task, and another task of the same run, go on."""
    others = [
        spawn("exec sleep 60", marks | change, started) for change in ({"CIS_ATTEMPT": "2"}, {"CIS_TASK_ID": "u"})
    ]
    meant = spawn("exec sleep 60", marks, started)

    kill_orphans([Orphan(None, None, marks)])

    assert meant.wait(10) == -9
    assert [other.poll() for other in others] == [None, None]


@needs_proc
def test_a_process_that_forks_while_it_is_hunted_is_caught(
    marks: dict[str, str], started: list[subprocess.Popen[bytes]]
) -> None:
    runaway = "import os, time\nwhile True:\n  if os.fork(): time.sleep(0.005); os._exit(0)\n  os.setsid()\n"
    spawn(f"exec {sys.executable} -c '{runaway}'", marks, started).wait(10)

    kill_orphans([Orphan(None, None, marks)])

    assert marked(marks) == []


@needs_proc
def test_a_process_that_executes_another_program_again_and_again_is_caught(
    tmp_path: Path, marks: dict[str, str], started: list[subprocess.Popen[bytes]]
) -> None:
    """In the middle of exec a process has no environment for a moment, and must not pass for one without marks."""
    script = tmp_path / "again"
    script.write_text(f"exec /bin/sh {script}")
    runaways = [spawn(f"exec /bin/sh {script}", marks, started) for _ in range(4)]
    entries = {f"{name}={value}".encode() for name, value in marks.items()}

    seen = [environment_of(runaways[0].pid) for _ in range(5000)]
    kill_orphans([Orphan(None, None, marks)])

    assert None in seen
    assert all(entries <= environment for environment in seen if environment is not None)
    assert [runaway.wait(10) for runaway in runaways] == [-9] * 4


@needs_proc
def test_a_process_without_any_environment_is_no_riddle(started: list[subprocess.Popen[bytes]]) -> None:
    bare = subprocess.Popen(["/bin/sleep", "60"], env={})
    started.append(bare)

    assert wait_for(lambda: environment_of(bare.pid) is not None, what="the end of exec")
    assert environment_of(bare.pid) == frozenset()


@needs_proc
def test_without_marks_nobody_is_hunted(started: list[subprocess.Popen[bytes]]) -> None:
    process = spawn("exec sleep 60", {}, started)

    kill_orphans([Orphan(None, None, {})])

    assert process.poll() is None


@needs_proc
def test_the_hunter_and_those_above_it_are_spared(marks: dict[str, str]) -> None:
    """A task may itself run a worker, which then carries the marks it looks for."""
    hunt = (
        "import os, sys; from cis.engine.ports import Orphan; from cis.executors.orphans import kill_orphans\n"
        "from cis.executors.platform import process_started\n"
        "marks = {name: os.environ[name] for name in ('CIS_RUN_ID', 'CIS_TASK_ID', 'CIS_ATTEMPT')}\n"
        "parent = os.getppid()\n"
        "kill_orphans([Orphan(parent, process_started(parent), marks)]); print('alive')"
    )
    env = {**os.environ, **marks, "PYTHONPATH": os.pathsep.join(sys.path), "HUNT": hunt}
    answer = subprocess.run(
        ["/bin/sh", "-c", f'{sys.executable} -c "$HUNT"; echo parent too'],
        env=env,
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=30,
        check=False,
    )

    assert answer.stdout.split("\n") == ["alive", "parent too", ""], answer.stderr


def test_what_survives_kill_is_reported(
    started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that hangs in the kernel cannot be made here; one that no signal is sent to stands for it."""
    process = spawn("exec sleep 60", {}, started)
    monkeypatch.setattr(orphans, "signal_group", lambda *_: None)

    with pytest.raises(OrphanError, match=rf"process {process.pid}; end it by hand"):
        kill_orphans([Orphan(process.pid, process_started(process.pid), {})], timeout_s=0.1)


def test_a_pid_that_nobody_has_was_never_started() -> None:
    assert process_started(2**22 + 1) is None
    assert process_started(2**22 + 1, portable=True) is None


@both_ways
def test_the_start_time_survives_another_time_zone_and_language(
    monkeypatch: pytest.MonkeyPatch, *, portable: bool
) -> None:
    before = process_started(os.getpid(), portable=portable)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")

    assert before is not None
    assert process_started(os.getpid(), portable=portable) == before


@both_ways
def test_a_process_notices_that_its_parent_is_gone(tmp_path: Path, *, portable: bool) -> None:
    """The parent ends once the child watches it; the child then writes what it sees."""
    child = (
        "import os, select, sys, time; from pathlib import Path; from cis.executors.platform import ParentWatch\n"
        f"watch = ParentWatch(portable={portable}); first = watch.gone(); fd = watch.fileno()\n"
        "print('watching', flush=True); deadline = time.monotonic() + 20\n"
        "seen = bool(select.select([fd], [], [], 20)[0]) if fd is not None else None\n"
        "while not watch.gone() and time.monotonic() < deadline: time.sleep(0.01)\n"
        f"Path({str(tmp_path / 'part')!r}).write_text(repr((first, seen, watch.gone())))\n"
        f"os.rename({str(tmp_path / 'part')!r}, {str(tmp_path / 'seen')!r}); watch.close()"
    )
    parent = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", parent, child], env=env, check=True, timeout=30)

    wait_for((tmp_path / "seen").exists, what="the child's report")
    expected = (False, None if portable else True, True)
    assert (tmp_path / "seen").read_text() == repr(expected)


def test_a_parent_that_was_gone_before_the_watch_began_is_noticed() -> None:
    dead = subprocess.Popen(["/bin/sh", "-c", "exit"])
    dead.wait(10)

    watch = ParentWatch(dead.pid)

    assert watch.gone()
    assert watch.fileno() is None


def marked(marks: dict[str, str]) -> list[str]:
    """Return the processes whose environment carries all marks."""
    wanted = {f"{name}={value}".encode() for name, value in marks.items()}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            entries = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted <= set(entries):
            found.append(folder.name)
    return found


@both_ways
def test_a_process_is_killed_even_when_it_is_stopped_but_never_another_of_its_number(
    marks: dict[str, str], started: list[subprocess.Popen[bytes]], *, portable: bool
) -> None:
    process = spawn("sleep 600", marks, started)
    identity = process_started(process.pid, portable=portable)
    assert identity is not None
    process.send_signal(signal.SIGSTOP)

    assert kill_process(process.pid, f"not {identity}", portable=portable)
    assert is_running(process.pid)
    assert kill_process(process.pid, identity, portable=portable)
    assert process.wait(10) == -signal.SIGKILL
    assert kill_process(process.pid, identity, portable=portable)


@needs_proc
def test_a_process_of_which_nothing_can_be_told_for_want_of_a_descriptor_is_not_taken_for_a_stranger(
    marks: dict[str, str], started: list[subprocess.Popen[bytes]]
) -> None:
    orphan = spawn("exec sleep 600", marks, started)
    with no_descriptors(), pytest.raises(OSError, match="Too many open files"):
        environment_of(orphan.pid)


@needs_proc
def test_a_process_is_not_gone_for_want_of_a_descriptor_to_look_at_it(
    marks: dict[str, str], started: list[subprocess.Popen[bytes]]
) -> None:
    orphan = spawn("exec sleep 600", marks, started)
    identity = process_started(orphan.pid)
    assert identity is not None
    with no_descriptors():
        for look in (process_started, is_dead, see, children_of):
            with pytest.raises(OSError, match="Too many open files"):
                look(orphan.pid)
        with pytest.raises(OSError, match="Too many open files"):
            kill_orphans([Orphan(orphan.pid, identity, {})])
        with pytest.raises(OSError, match="Too many open files"):
            kill_process(orphan.pid, identity)

        assert still_runs(orphan.pid, identity)
        assert group_is_alive(orphan.pid)
    assert orphan.poll() is None


@needs_proc
def test_inherited_children_are_reaped_once_there_are_descriptors_to_look_at_them() -> None:
    child, inherited = subprocess.Popen(["true"]), Inherited()
    wait_for(lambda: is_dead(child.pid), what="the end of the child")
    with no_descriptors():
        for _ in range(2):
            inherited.reap(())
    early = Path(f"/proc/{child.pid}").exists()
    for _ in range(2):
        inherited.reap(())

    assert early
    assert not Path(f"/proc/{child.pid}").exists()
    child.wait(10)
