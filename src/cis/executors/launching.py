"""Starting one process, and saying in words why it could not be started."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from pathlib import Path

from cis.engine.ports import Launch
from cis.errors import LaunchError


def spawn(launch: Launch, *, stdin: int, stdout: int, stderr: int) -> subprocess.Popen[bytes]:
    """Start the process, in a session and process group of its own.

    Raises:
        LaunchError: it cannot be started; the message says what to mend.
    """
    # Nothing here may take subprocess off its vfork path: no preexec_fn, no user or group.
    try:
        return subprocess.Popen(
            launch.argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=launch.cwd,
            env=launch.env,
            start_new_session=True,
        )
    except (OSError, ValueError, IndexError, TypeError) as error:
        raise LaunchError(explain(error, launch)) from error


def explain(error: Exception, launch: Launch) -> str:
    """Return what is wrong with a launch that failed with *error*, and the mend."""
    if not launch.argv:
        return "the command is empty"
    if not isinstance(error, OSError):
        if "\0" in "".join([*launch.argv, *launch.env, *launch.env.values(), os.fspath(launch.cwd)]):
            return "an argument, a variable or the cwd holds a NUL character, which no process can be given"
        return f"the command or its environment cannot be passed on: {error}"
    if error.errno in _MENDS:
        return _MENDS[error.errno]
    return _fault_of_directory(Path(launch.cwd)) or _fault_of_program(error, launch)


_MENDS = {
    errno.E2BIG: "the arguments and the environment are too long together; pass large data in a file",
    errno.EMFILE: "too many open files; use fewer slots, or raise the limit (ulimit -n)",
    errno.ENFILE: "too many open files on this machine; use fewer slots",
    errno.EAGAIN: "too many processes; use fewer slots, or raise the limit (ulimit -u)",
    errno.ENOMEM: "not enough memory for another process; use fewer slots",
}


def _fault_of_directory(cwd: Path) -> str | None:
    try:
        kind = cwd.stat().st_mode
    except FileNotFoundError:
        return f"cwd {cwd} does not exist; make it, or correct cwd"
    except OSError as error:
        return f"cwd {cwd} cannot be used: {error.strerror}"
    if not stat.S_ISDIR(kind):
        return f"cwd {cwd} is not a directory"
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
        what = "is a directory" if os.path.isdir(file) else "may not be executed; chmod +x makes a script a program"
        return f"program {name!r} {what}"
    if error.errno == errno.ENOEXEC:
        return f"program {name!r} has no first line that names an interpreter (#!), or is for another machine"
    return f"program {name!r} cannot be started: {error.strerror}"
