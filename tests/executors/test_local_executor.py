"""LocalExecutor with real processes; every truth holds with what only Linux has and without it."""

from __future__ import annotations

import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from cis.engine.ports import Launch
from cis.errors import LaunchError
from cis.executors import exits, launching
from cis.executors.local import LocalExecutor
from cis.executors.platform import HAS_PIDFD, group_is_alive
from cis.store.records import TAIL_BYTES
from tests.worlds.executing import end_of, launch, run, shown
from tests.worlds.waiting import wait_for

CAP = 100_000


needs_pidfd = pytest.mark.skipif(not HAS_PIDFD, reason="no pidfds on this system")


@pytest.fixture(
    params=[
        pytest.param("alone", marks=needs_pidfd),
        pytest.param("beside others", marks=needs_pidfd),
        pytest.param("portable"),
    ]
)
def executor(request: pytest.FixtureRequest) -> Iterator[LocalExecutor]:
    made = LocalExecutor(
        max_log_bytes=CAP, portable=request.param == "portable", alone=request.param == "alone", grace_s=0.3
    )
    yield made
    made.close()


def pid_of(executor: LocalExecutor, handle: str) -> int:
    """Return the process of an attempt that runs."""
    found = executor.identity(handle)
    assert found is not None
    return found.pid


def refusal(executor: LocalExecutor, wanted: Launch) -> str:
    """Return why a launch is refused."""
    with pytest.raises(LaunchError) as refused:
        executor.start(wanted)
    return str(refused.value)


def state_of(pid: int) -> str:
    """Return the state of a process as ps has it; empty when there is none."""
    answer = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return answer.stdout.strip()


def is_alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    return not state_of(pid).startswith("Z") and bool(state_of(pid))


def open_descriptors() -> int:
    gc.collect()  # what an earlier test left for it would otherwise be closed between two counts
    return len(list(Path("/dev/fd").iterdir()))


# --- how a process ends


@pytest.mark.parametrize(("line", "code"), [("true", 0), ("exit 7", 7), ("kill -KILL $$", -9), ("kill -TERM $$", -15)])
def test_the_exit_code_is_that_of_the_process_and_negative_for_a_signal(
    executor: LocalExecutor, tmp_path: Path, line: str, code: int
) -> None:
    assert run(executor, launch(tmp_path, line)).exit_code == code


def test_a_list_is_run_without_a_shell(executor: LocalExecutor, tmp_path: Path) -> None:
    ended = run(executor, launch(tmp_path, "echo", "$HOME; *"))

    assert ended.stdout_tail == "$HOME; *\n"


def test_many_processes_at_once_each_give_one_exit(executor: LocalExecutor, tmp_path: Path) -> None:
    codes = {executor.start(launch(tmp_path, f"exit {n}", name=str(n))): n for n in range(20)}

    seen: dict[str, int | None] = {}
    while len(seen) < len(codes):
        for ended in wait_for(lambda: executor.wait(1.0), what="an exit"):
            assert ended.handle not in seen
            seen[ended.handle] = ended.exit_code

    assert seen == codes


def test_wait_returns_empty_handed_when_the_time_is_over(executor: LocalExecutor, tmp_path: Path) -> None:
    handle = executor.start(launch(tmp_path, "exec sleep 60"))
    began = time.monotonic()

    assert executor.wait(0.15) == []
    assert 0.14 <= time.monotonic() - began < 5
    executor.end(handle, force=True)
    assert end_of(executor, handle).exit_code == -9


def test_an_exit_wakes_a_long_wait_at_once(executor: LocalExecutor, tmp_path: Path) -> None:
    executor.start(launch(tmp_path, "sleep 0.1"))
    began = time.monotonic()

    assert len(executor.wait(30.0)) == 1
    assert time.monotonic() - began < 5


def test_an_exit_between_two_waits_is_seen_by_a_wait_of_no_time(executor: LocalExecutor, tmp_path: Path) -> None:
    handle = executor.start(launch(tmp_path, "true"))
    pid = executor._pids[handle]
    wait_for(lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT), what="the end")

    assert [ended.handle for ended in executor.wait(0.0)] == [handle]


@pytest.mark.parametrize("portable", [False, True])
def test_children_of_others_are_left_to_them(tmp_path: Path, *, portable: bool) -> None:
    """Unless the executor was told that there are none (``alone``)."""
    executor = LocalExecutor(max_log_bytes=CAP, portable=portable)
    other = subprocess.Popen(["/bin/sh", "-c", "exit 5"])
    run(executor, launch(tmp_path, "sleep 0.1"))
    executor.close()

    assert other.wait(10) == 5


def test_an_exit_status_that_somebody_else_took_is_not_a_success(executor: LocalExecutor, tmp_path: Path) -> None:
    handle = executor.start(launch(tmp_path, "true"))
    os.waitpid(executor._pids[handle], 0)

    assert end_of(executor, handle).exit_code == exits.REAPED_BY_OTHERS


def test_an_inherited_ignored_sigchld_does_not_hide_exit_codes(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cis.engine.ports import Launch\n"
        "from cis.executors.local import LocalExecutor\n"
        "d = Path(sys.argv[1]); e = LocalExecutor(max_log_bytes=1)\n"
        "e.start(Launch(argv=('/bin/sh', '-c', 'exit 3'), env={}, cwd=d, stdin=b'', stdout=d/'o', stderr=d/'e', outputs=''))\n"
        "print(e.wait(10.0)[0].exit_code)\n"
    )
    line = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.executable, sys.argv[1:])"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    argv = [sys.executable, "-c", line, sys.executable, "-c", code, str(tmp_path)]
    answer = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE)

    assert answer.communicate(timeout=30)[0] == b"3\n"


def test_it_works_outside_of_the_main_thread(tmp_path: Path) -> None:
    codes: list[int | None] = []

    def work() -> None:
        executor = LocalExecutor(max_log_bytes=CAP, portable=True)
        codes.append(run(executor, launch(tmp_path, "exit 4")).exit_code)
        executor.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)

    assert codes == [4]


def test_portable_mode_gives_the_handling_of_sigchld_back() -> None:
    before = signal.getsignal(signal.SIGCHLD)

    LocalExecutor(max_log_bytes=CAP, portable=True).close()

    assert signal.getsignal(signal.SIGCHLD) == before
    assert signal.set_wakeup_fd(-1) == -1


# --- what a process is given


def test_the_environment_is_exactly_the_one_given(executor: LocalExecutor, tmp_path: Path) -> None:
    ended = run(
        executor, launch(tmp_path, sys.executable, "-c", "import os; print(sorted(os.environ))", env={"A": "1"})
    )

    assert "'A'" in ended.stdout_tail
    assert "PATH" not in ended.stdout_tail


@pytest.mark.parametrize("size", [1, 3_000_000])
def test_input_of_any_size_arrives_whole(executor: LocalExecutor, tmp_path: Path, size: int) -> None:
    """More than a pipe holds, for a process that reads late, would block a loop that feeds a pipe."""
    ended = run(executor, launch(tmp_path, "sleep 0.05; wc -c", stdin=b"x" * size))

    assert int(ended.stdout_tail) == size


def test_without_input_there_is_nothing_to_read(executor: LocalExecutor, tmp_path: Path) -> None:
    assert run(executor, launch(tmp_path, "wc -c")).stdout_tail.strip() == "0"


@pytest.mark.parametrize("portable", [False, True])
def test_a_process_leads_a_group_and_inherits_no_descriptors(tmp_path: Path, *, portable: bool) -> None:
    """Not even one that a worker was started with: what opened the worker's terminal, say."""
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    script = "import os; print(os.getpid() == os.getpgrp(), sorted(map(int, os.listdir('/dev/fd')))[:-1])"
    executor = LocalExecutor(max_log_bytes=CAP, portable=portable)
    try:
        ended = run(executor, launch(tmp_path, sys.executable, "-c", script))
    finally:
        executor.close()
        os.close(reading)
        os.close(writing)

    assert ended.stdout_tail == "True [0, 1, 2]\n"


def test_a_start_leaves_this_process_where_it_is_and_signals_as_they_are_elsewhere(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    """Python ignores SIGPIPE, and a shell could not even change that for what it starts."""
    before = Path.cwd()
    (tmp_path / "there").mkdir()
    ended = run(executor, launch(tmp_path, "pwd; grep SigIgn /proc/self/status", cwd=tmp_path / "there"))
    missing = launch(tmp_path, "true", cwd=tmp_path / "gone", name="other")
    with pytest.raises(LaunchError, match="does not exist"):
        executor.start(missing)

    assert Path.cwd() == before
    where, _, ignored = ended.stdout_tail.split()
    assert where == str(tmp_path / "there")
    assert not [number for number in (signal.SIGPIPE, signal.SIGXFSZ) if int(ignored, 16) >> (number - 1) & 1]


def test_identity_differs_between_processes_and_stays_for_one(executor: LocalExecutor, tmp_path: Path) -> None:
    handle = executor.start(launch(tmp_path, "exec sleep 60"))

    assert executor.identity(handle) is not None
    assert executor.identity(handle) == executor.identity(handle)
    executor.end(handle, force=True)
    end_of(executor, handle)
    assert executor.identity(handle) is None


def test_starting_stays_on_the_quick_path_of_subprocess() -> None:
    """With preexec_fn or another user, subprocess forks instead, which copies the page tables of a big worker."""
    source = Path(launching.__file__).read_text(encoding="utf-8")

    assert subprocess._USE_VFORK
    assert "preexec_fn=" not in source
    assert "user=" not in source


# --- logs


def test_streams_are_kept_apart_in_files_that_only_the_owner_may_read(executor: LocalExecutor, tmp_path: Path) -> None:
    ended = run(executor, launch(tmp_path, "echo out; echo err >&2; umask"))

    assert ended.stderr_tail == "err\n"
    assert (ended.stdout_bytes, ended.stderr_bytes) == (len(ended.stdout_tail), 4)
    assert (tmp_path / "task.err").read_text() == "err\n"
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("task.out", "task.err")] == [0o600, 0o600]


def test_bytes_that_are_no_text_are_replaced_in_the_tail_and_kept_in_the_file(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    ended = run(executor, launch(tmp_path, r"printf 'a\377\376b\000c'"))

    assert ended.stdout_tail == "a��b\0c"
    assert (tmp_path / "task.out").read_bytes() == b"a\xff\xfeb\0c"


def test_the_tail_is_the_end_and_says_how_much_is_before_it(executor: LocalExecutor, tmp_path: Path) -> None:
    line = f"import sys; sys.stdout.write('é' * {TAIL_BYTES} + 'x')"
    ended = run(executor, launch(tmp_path, sys.executable, "-X", "utf8", "-c", line))

    note, _, text = ended.stdout_tail.partition("\n")
    assert ended.stdout_bytes == 2 * TAIL_BYTES + 1
    assert text == "é" * (TAIL_BYTES // 2 - 1) + "x"
    assert note == f"[cis: {ended.stdout_bytes - len(text.encode())} earlier bytes are in the log file]"


def test_output_over_the_cap_is_cut_and_the_file_says_so(executor: LocalExecutor, tmp_path: Path) -> None:
    ended = run(executor, launch(tmp_path, f"head -c {CAP + 12_345} /dev/zero; echo fine >&2"))

    assert ended.stdout_bytes == CAP + 12_345
    note = f"\n[cis: cut at {CAP} bytes (max_log); 12345 more bytes were dropped]\n"
    assert (tmp_path / "task.out").read_bytes() == b"\0" * CAP + note.encode()
    assert ended.stdout_tail.endswith(note)
    assert ended.stderr_tail == "fine\n"


def test_output_at_the_cap_is_whole(executor: LocalExecutor, tmp_path: Path) -> None:
    ended = run(executor, launch(tmp_path, f"head -c {CAP} /dev/zero"))

    assert ended.stdout_bytes == CAP
    assert (tmp_path / "task.out").stat().st_size == CAP


def test_a_process_that_writes_on_and_on_is_held_to_the_cap_at_every_moment(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    out = tmp_path / "task.out"
    handle = executor.start(launch(tmp_path, f"echo first; head -c {20 * CAP} /dev/zero; touch written; exec sleep 60"))
    largest = 0

    def all_was_written() -> bool:
        nonlocal largest
        executor.wait(0.01)
        largest = max(largest, out.stat().st_size if out.exists() else 0)
        return (tmp_path / "written").exists()

    wait_for(all_was_written, what="twenty times the cap")
    executor.end(handle, force=True)
    ended = end_of(executor, handle)

    data = out.read_bytes()
    dropped = 20 * CAP + len("first\n") - CAP
    assert largest == CAP
    assert data[:CAP] == b"first\n" + b"\0" * (CAP - len("first\n"))
    assert data[CAP:] == f"\n[cis: cut at {CAP} bytes (max_log); {dropped} more bytes were dropped]\n".encode()
    assert ended.stdout_bytes == 20 * CAP + len("first\n")


def test_a_gigabyte_is_counted_to_the_byte_and_ends_as_a_file_of_the_cap(tmp_path: Path) -> None:
    executor = LocalExecutor(max_log_bytes=1_000_000)
    ended = run(executor, launch(tmp_path, "head -c 1000000000 /dev/zero"))
    executor.close()

    assert ended.stdout_bytes == 1_000_000_000
    assert (tmp_path / "task.out").stat().st_size < 1_000_200
    assert len(ended.stdout_tail) <= TAIL_BYTES + 100


# --- ending a process


def test_end_reaches_the_whole_group(executor: LocalExecutor, tmp_path: Path) -> None:
    handle = executor.start(launch(tmp_path, "sleep 60 & echo $!; wait"))
    child = int(wait_for(lambda: shown(executor, tmp_path / "task.out"), what="the pid of the child"))

    executor.end(handle, force=False)

    assert end_of(executor, handle).exit_code == -15
    wait_for(lambda: not is_alive(child), what="the end of the child")


def test_members_that_outlive_their_leader_have_until_force(executor: LocalExecutor, tmp_path: Path) -> None:
    line = "(trap 'sleep 0.3; echo cleaned; exit' TERM; echo up; while :; do sleep 0.05; done) & wait"
    handle = executor.start(launch(tmp_path, line))
    wait_for(lambda: shown(executor, tmp_path / "task.out") == "up\n", what="the child")

    executor.end(handle, force=False)
    ended = end_of(executor, handle)

    assert ended.stdout_tail.endswith("cleaned\n")


def test_force_ends_what_ignores_term_even_when_its_leader_is_gone(executor: LocalExecutor, tmp_path: Path) -> None:
    handle = executor.start(launch(tmp_path, "(trap '' TERM; echo up; while :; do sleep 0.05; done) & wait"))
    pid = pid_of(executor, handle)
    wait_for(lambda: shown(executor, tmp_path / "task.out") == "up\n", what="the child")
    executor.end(handle, force=False)
    wait_for(lambda: not executor.wait(0.05) and pid in executor._lingering, what="the end of the leader")

    executor.end(handle, force=True)

    assert end_of(executor, handle).exit_code == -15
    wait_for(lambda: not group_is_alive(pid), what="the end of the group")


def test_a_stopped_process_can_be_ended(executor: LocalExecutor, tmp_path: Path) -> None:
    handle = executor.start(launch(tmp_path, "exec sleep 60"))
    pid = pid_of(executor, handle)
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: state_of(pid).startswith("T"), what="the stop")

    executor.end(handle, force=False)

    assert end_of(executor, handle).exit_code == -15


def test_ending_what_has_ended_is_no_error(executor: LocalExecutor, tmp_path: Path) -> None:
    handle = executor.start(launch(tmp_path, "true"))
    pid = executor._pids[handle]
    wait_for(lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT), what="the end")

    executor.end(handle, force=False)
    assert end_of(executor, handle).exit_code == 0
    executor.end(handle, force=True)


@pytest.mark.parametrize(("code", "stays"), [(0, True), (3, False)])
def test_what_a_task_with_leave_puts_into_the_background_outlives_its_success_alone(
    executor: LocalExecutor, tmp_path: Path, *, code: int, stays: bool
) -> None:
    ended = run(executor, launch(tmp_path, f"sleep 60 >/dev/null 2>&1 & echo $!; exit {code}", leave=True))

    child = int(ended.stdout_tail)
    is_there = is_alive(child)
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    assert is_there is stays
    assert {pid for pid, _ in ended.left} <= {child}  # without the list of children nobody looks


def test_what_was_made_ahead_serves_the_start_of_that_launch_alone_and_is_given_back_in_vain(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    before = open_descriptors()
    said, other = launch(tmp_path, "echo said", name="said"), launch(tmp_path, "echo other", name="other")
    executor.foresee(said)
    assert open_descriptors() == before + 4
    handle = executor.start(said)
    assert open_descriptors() < before + 4
    assert end_of(executor, handle).stdout_tail == "said\n"
    executor.foresee(said)
    assert run(executor, other).stdout_tail == "other\n"
    executor.foresee(other)
    executor.foresee(said)
    assert run(executor, said).stdout_tail == "said\n"
    executor.wait(0.0)
    assert open_descriptors() == before
    assert (tmp_path / "other.out").read_text() == "other\n"


def test_close_leaves_no_process_and_no_descriptor(tmp_path: Path) -> None:
    before = open_descriptors()
    executor = LocalExecutor(max_log_bytes=CAP)
    handles = [executor.start(launch(tmp_path, "exec sleep 60", name=str(n))) for n in range(3)]
    pids = [pid_of(executor, handle) for handle in handles]

    executor.close()

    assert not any(is_alive(pid) for pid in pids)
    assert open_descriptors() == before


# --- what cannot be started


def test_refusals_name_the_cause_and_the_mend(executor: LocalExecutor, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("echo no")
    lost = tmp_path / "lost"
    lost.write_text("#!/no/such/interpreter\n")
    lost.chmod(0o700)
    before = open_descriptors()

    def why(*argv: str, cwd: Path | None = None) -> str:
        return refusal(executor, launch(tmp_path, *argv, "x", cwd=cwd))

    assert why("true", cwd=tmp_path / "gone") == f"cwd {tmp_path}/gone does not exist; make it, or correct cwd"
    assert why("true", cwd=plain) == f"cwd {plain} is not a folder"
    assert "program 'no-such-thing' was not found in PATH (" in why("no-such-thing")
    assert why("./absent") == "program './absent' does not exist"
    assert "'./plain' may not be executed; chmod +x" in why("./plain")
    assert why(str(tmp_path)) == f"program {str(tmp_path)!r} is a folder"
    assert "'./lost' cannot be run: the interpreter" in why("./lost")
    plain.chmod(0o700)
    assert "'./plain' has no first line that names an interpreter" in why("./plain")
    assert "too long together; hand large data over by stdin or in a file" in why("true", *["x" * 100_000] * 50)
    assert "argument 1 is one text of 195 KiB, and the system takes 128 KiB in one" in why("true", "x" * 200_000)
    assert "NUL character" in why("true", "a\0b")
    assert open_descriptors() == before
    assert run(executor, launch(tmp_path, "true")).exit_code == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every directory")
def test_a_directory_that_may_not_be_entered_is_named(executor: LocalExecutor, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o600)

    assert f"cwd {closed} may not be entered" in refusal(executor, launch(tmp_path, "true", cwd=closed))


def test_an_empty_command_is_refused(executor: LocalExecutor, tmp_path: Path) -> None:
    wanted = Launch(
        argv=(), env={}, cwd=tmp_path, stdin=b"", stdout=tmp_path / "task.out", stderr=tmp_path / "task.err", outputs=""
    )
    assert refusal(executor, wanted) == "the command is empty"


@pytest.mark.parametrize("spare", range(7))
def test_too_many_open_files_is_a_refusal_wherever_it_hits(tmp_path: Path, spare: int) -> None:
    """The limit is set for a process of its own, so that *spare* more descriptors can be opened there.

    Four are those of its pipes; once it runs, nothing that is missing ends it again.
    """
    code = (
        "import os, resource, sys; from pathlib import Path; from cis.engine.ports import Launch\n"
        "from cis.errors import LaunchError; from cis.executors.local import LocalExecutor\n"
        "d = Path(sys.argv[1]); e = LocalExecutor(max_log_bytes=1, portable=False)\n"
        "top = os.open('/dev/null', os.O_RDONLY); os.close(top); before = sorted(os.listdir('/dev/fd'))\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (top + int(sys.argv[2]), hard))\n"
        "try:\n"
        "    e.start(Launch(argv=('/bin/true',), env={}, cwd=d, stdin=b'', stdout=d/'o', stderr=d/'e', outputs=''))\n"
        "except LaunchError as error: print(error)\n"
        "else: print('started', e.wait(10.0)[0].exit_code)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))\n"
        "e.close(); print(set(os.listdir('/dev/fd')) <= set(before))\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    answer = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(spare)], env=env, capture_output=True, text=True, check=True
    )

    said, tidy = answer.stdout.splitlines()
    assert tidy == "True"
    assert "oo many open files" in said if spare < 4 else said == "started 0"


def test_many_that_end_at_once_give_back_what_as_many_need_to_start(executor: LocalExecutor, tmp_path: Path) -> None:
    """What is put off while a single process runs would else be missing, with a low limit of open files."""
    before = len(list(Path("/dev/fd").iterdir()))
    handles = {executor.start(launch(tmp_path, "true", name=str(number))) for number in range(20)}
    for handle in handles:
        wait_for(partial(os.waitid, os.P_PID, executor._pids[handle], os.WEXITED | os.WNOWAIT), what="the end")

    assert {ended.handle for ended in executor.wait(0.0)} == handles
    assert len(list(Path("/dev/fd").iterdir())) == before


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.ENFILE])
def test_a_machine_that_is_full_is_said_to_be(tmp_path: Path, number: int) -> None:
    text = launching.explain(OSError(number, os.strerror(number)), launch(tmp_path, "true"))

    assert "use fewer slots" in text


def test_a_place_that_cannot_be_come_back_to_loses_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = LocalExecutor(max_log_bytes=CAP)
    before = Path.cwd()
    change = os.chdir

    def refuse_to_go_back(place: object) -> None:
        if isinstance(place, int):
            raise PermissionError(errno.EACCES, "Permission denied")
        change(str(place))

    monkeypatch.setattr(os, "chdir", refuse_to_go_back)
    try:
        ended = run(executor, launch(tmp_path, "pwd"))
    finally:
        monkeypatch.undo()
        os.chdir(before)
        executor.close()

    assert ended.stdout_tail == f"{tmp_path}\n"


def test_where_this_process_may_not_read_its_own_directory_subprocess_starts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = os.open

    def refuse_here(path: str, flags: int, mode: int = 0o777) -> int:
        if path == ".":
            raise PermissionError(errno.EACCES, "Permission denied")
        return usual(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse_here)
    executor = LocalExecutor(max_log_bytes=CAP)
    ended = run(executor, launch(tmp_path, "pwd"))
    executor.close()

    assert executor._place is None
    assert ended.stdout_tail == f"{tmp_path}\n"
