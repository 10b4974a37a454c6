"""Starting one process: how, at which priority, and in words why it could not be started.

``posix_spawn`` takes two thirds of the time that ``subprocess`` does, but looks up no program in the task's own
``PATH``, starts it where this process is, and closes nothing. So this process goes into the task's directory and comes
back, which nobody notices as long as it has one thread, and keeps to itself whatever it was given
(``_keep_descriptors``).

A worker comes before its tasks (``lower``): it needs little of the processor, but at once, and each free slot waits for
it. Linux shares the processor between sessions first, and by ``nice`` only within one (sched(7), autogroup). A task in
a session of its own would weigh as much as its worker, however nice it is, and a scope with many tasks more than a
person's own programs. So tasks stay in their worker's session, unless that has a terminal, at which they would be
stopped when they ask for a password.

Whether the machine has what another process needs is found out by starting one that does nothing (``shortage``).
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from cis.engine.ports import LONGEST_TEXT, Launch
from cis.engine.shortage import SHORTAGES, shortage_of
from cis.errors import LaunchError, TooLongError
from cis.executors.exits import Child, Process

_STDERR = 2
_LOUD = (signal.SIGPIPE, signal.SIGXFSZ)  # Python ignores them, and what is ignored stays so in a new program

_MENDS = {
    errno.E2BIG: "the arguments and the environment are too long together; hand large data over by stdin or in a file"
    " (it is not tried again)",
    **SHORTAGES,
}

_DESCRIPTORS = 4  # its two logs, its input, and what tells of its end


def spawn(
    launch: Launch, *, stdin: int, stdout: int, stderr: int, own_session: bool, place: int | None = None
) -> Process:
    """Start the process, in a process group of its own and, with ``own_session``, in a session of its own.

    ``place`` is a descriptor of the directory that this process is in; without it, ``subprocess`` does the work.

    Raises:
        LaunchError: it cannot be started; the message says what to mend.
        TooLongError: its arguments or its environment are longer than the system takes.
    """
    try:
        if place is not None and launch.argv[0].startswith("/") and os.fspath(launch.cwd).startswith("/"):
            return Child(_posix_spawn(launch, stdin, stdout, stderr, place, own_session=own_session))
        # Nothing here may take subprocess off its vfork path: no preexec_fn, no user or group.
        return subprocess.Popen(
            launch.argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=launch.cwd,
            env=launch.env,
            start_new_session=own_session,
            process_group=None if own_session else 0,
        )
    except (OSError, ValueError, IndexError, TypeError) as error:
        kind = TooLongError if isinstance(error, OSError) and error.errno == errno.E2BIG else LaunchError
        raise kind(explain(error, launch)) from error


def _posix_spawn(launch: Launch, stdin: int, stdout: int, stderr: int, place: int, *, own_session: bool) -> int:
    streams = ((os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1), (os.POSIX_SPAWN_DUP2, stderr, 2))
    argv = tuple(launch.argv)
    os.chdir(launch.cwd)
    try:
        if own_session:
            return os.posix_spawn(argv[0], argv, launch.env, file_actions=streams, setsid=True, setsigdef=_LOUD)
        return os.posix_spawn(argv[0], argv, launch.env, file_actions=streams, setpgroup=0, setsigdef=_LOUD)
    finally:
        # The process is there and must not be lost; whoever stays in its directory loses nothing.
        with suppress(OSError):
            os.chdir(place)


def let_tasks_have_default_signals() -> None:
    """Have what this process starts begin with every signal at its default, whatever its parent ignored or blocked.

    A signal that is ignored stays so in a new program (under ``nohup``, in a script's background), and a task that
    waits for one would wait in vain; one that is caught becomes the default. So this process catches what it ignores,
    and does nothing. Call it in the main thread.
    """
    for number in signal.valid_signals() - set(_LOUD) - {signal.SIGCHLD}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _passed_over)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _passed_over(_number: int, _frame: object) -> None:
    return


def place_to_spawn_from() -> int | None:
    """Return a descriptor of the directory of this process, if ``posix_spawn`` can do here all that is wanted."""
    if not _has_spawn():
        return None
    try:
        _keep_descriptors()
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # of a directory that may not be read, or without /dev/fd
        return None


def _has_spawn() -> bool:
    if sys.platform != "linux":
        return False
    try:
        os.posix_spawn("", ["nothing"], {}, setsid=True)
    except NotImplementedError:  # this Python was built for a C library of before 2.26
        return False
    except OSError:
        return True
    return False


def _keep_descriptors() -> None:
    """Have no process that starts from here inherit a descriptor that this one was given, but its three streams."""
    for name in os.listdir("/dev/fd"):
        if int(name) > _STDERR:
            with suppress(OSError):  # the one that lists them
                os.set_inheritable(int(name), False)


def explain(error: Exception, launch: Launch) -> str:
    """Return what is wrong with a launch that failed with *error*, and the mend."""
    if not launch.argv:
        return "the command is empty"
    if not isinstance(error, OSError):
        if "\0" in "".join([*launch.argv, *launch.env, *launch.env.values(), os.fspath(launch.cwd)]):
            return "an argument, a variable or the cwd holds a NUL character, which no process can be given"
        return f"the command or its environment cannot be passed on: {error}"
    if error.errno == errno.E2BIG:
        long = _too_long(launch)
        if long is not None:
            return long
    if error.errno in _MENDS:
        return _MENDS[error.errno]
    return _fault_of_directory(Path(launch.cwd)) or _fault_of_program(error, launch)


def _too_long(launch: Launch) -> str | None:
    """Return which single text is longer than the system takes, if one is: it bounds each, and all together."""
    texts = [(f"argument {number}", text) for number, text in enumerate(launch.argv)]
    texts += [(f"the variable {name}", f"{name}={value}") for name, value in launch.env.items()]
    for what, text in texts:
        size = len(os.fsencode(text)) + 1
        if size > LONGEST_TEXT:
            named = "its command" if text == launch.argv[-1] and len(launch.argv) > 1 else what
            return (
                f"{named} is one text of {size // 2**10} KiB, and the system takes {LONGEST_TEXT // 2**10} KiB in one;"
                " hand it over by stdin or in a file (it is not tried again)"
            )
    return None


def _fault_of_directory(cwd: Path) -> str | None:
    try:
        kind = cwd.stat().st_mode
    except FileNotFoundError:
        return f"cwd {cwd} does not exist; make it, or correct cwd"
    except OSError as error:
        return f"cwd {cwd} cannot be used: {error.strerror}"
    if not stat.S_ISDIR(kind):
        return f"cwd {cwd} is not a folder"
    return None if os.access(cwd, os.X_OK) else f"cwd {cwd} may not be entered: permission denied"


def _fault_of_program(error: OSError, launch: Launch) -> str:
    name = launch.argv[0]
    file = os.path.join(launch.cwd, name)
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        if "/" not in name:
            path = launch.env.get("PATH", os.defpath)
            return f"program {name!r} was not found in PATH ({path}); install it, or write its whole path"
        if not os.path.exists(file):
            return f"program {name!r} does not exist"
        return f"program {name!r} cannot be run: the interpreter that its first line names does not exist"
    if error.errno == errno.EACCES:
        what = "is a folder" if os.path.isdir(file) else "may not be executed; chmod +x makes a script a program"
        return f"program {name!r} {what}"
    if error.errno == errno.ENOEXEC:
        return f"program {name!r} has no first line that names an interpreter (#!), or is for another machine"
    return f"program {name!r} cannot be started: {error.strerror}"


def has_terminal() -> bool:
    """Whether a terminal belongs to the session of this process."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def lower(group: int, *, by: int) -> None:
    """Make a process group, whose leader was not reaped yet, nicer than this process; the system stops at the most there is.

    All of the group: its leader may have started others already. What forbids it harms nobody.
    """
    if by:
        with suppress(OSError):
            os.setpriority(os.PRIO_PGRP, group, os.getpriority(os.PRIO_PROCESS, 0) + by)


def shortage() -> str | None:
    """Return what the machine is short of, with the mend; None: a process could be started."""
    descriptors: list[int] = []
    try:
        for _ in range(_DESCRIPTORS):
            descriptors.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))  # noqa: PERF401 - each is to be closed
        pid = os.posix_spawn("/bin/sh", ["sh", "-c", ":"], {})
    except OSError as error:
        return shortage_of(error)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)
    return None


def input_of(launch: Launch) -> int:
    """Return a descriptor to read the input of *launch* from: a file, so no pipe can fill up. Raises LaunchError."""
    if isinstance(launch.stdin, str):
        return _opened(launch.stdin)
    import tempfile  # noqa: PLC0415 - few tasks have input

    try:
        with tempfile.TemporaryFile(buffering=0) as file:
            view = memoryview(launch.stdin)
            while view:
                view = view[file.write(view) :]
            file.seek(0)
            return os.dup(file.fileno())
    except OSError as error:
        raise LaunchError(f"the task's input cannot be stored: {error.strerror}") from error


def _opened(path: str) -> int:
    """Return a descriptor of a regular file: to open a pipe might wait for ever."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise LaunchError(f"the file for its stdin, {path}, cannot be opened: {why}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise LaunchError(f"the file for its stdin, {path}, is not a regular file; copy what it gives into one")
    return descriptor
