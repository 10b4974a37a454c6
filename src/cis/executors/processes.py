"""The processes of this machine as a table: whose child, in which group, started when; and a signal to one."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from cis.engine.shortage import shortage_of
from cis.executors.platform import HAS_PIDFD, HAS_PROC, all_pids, stat_fields

_STATE, _PARENT, _GROUP, _STARTED = 0, 1, 2, 19  # fields of /proc/PID/stat after the name, see proc(5)
_DEAD = ("Z", "X")
_COLUMNS = "pid=,ppid=,pgid=,stat=,lstart="
_Found = TypeVar("_Found")


class Seen(NamedTuple):
    """A process as it was when somebody looked. ``dead``: it has ended, and its parent has not noticed yet."""

    pid: int
    parent: int
    group: int
    started: str
    dead: bool


def see(pid: int) -> Seen | None:
    """Return a process as ``/proc`` shows it; None when there is none. Raises OSError when nothing can be told."""
    fields = stat_fields(pid)
    if fields is None:
        return None
    return Seen(pid, int(fields[_PARENT]), int(fields[_GROUP]), fields[_STARTED], fields[_STATE] in _DEAD)


def processes(*, portable: bool = False) -> list[Seen]:
    """Return every process that can be seen. Raises OSError when that cannot be told for a shortage."""
    if HAS_PROC and not portable:
        return [seen for seen in map(see, all_pids()) if seen is not None]
    env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
    answer = subprocess.run(["ps", "-A", "-o", _COLUMNS], capture_output=True, env=env, check=False)
    if answer.returncode != 0:
        raise OSError(errno.EAGAIN, answer.stderr.decode("ascii", "replace").strip() or "ps lists no processes")
    found = []
    for line in answer.stdout.decode("ascii", "replace").splitlines():
        pid, parent, group, state, *started = line.split()
        found.append(Seen(int(pid), int(parent), int(group), " ".join(started), state.startswith(_DEAD)))
    return found


def children_of(pid: int) -> list[int]:
    """Return the children of a process, whichever of its threads started them; none when it is gone.

    Raises:
        OSError: there is no descriptor or memory to read them with, so nothing can be told.
    """
    found: list[int] = []
    threads: list[str] = _unless_gone(lambda: os.listdir(f"/proc/{pid}/task"), [])
    for thread in threads:
        children = Path(f"/proc/{pid}/task/{thread}/children")
        found += map(int, _unless_gone(children.read_bytes, b"").split())
    return found


def _unless_gone(read: Callable[[], _Found], nothing: _Found) -> _Found:
    try:
        return read()
    except OSError as error:
        if shortage_of(error) is not None:
            raise
        return nothing


def signal_if_still(seen: Seen, number: int, *, portable: bool = False) -> bool:
    """Send a signal to that very process, and have it go on if it was stopped; False when it belongs to another user.

    Where there are no pidfds, a number that was used anew since the look could be hit.

    Raises:
        OSError: there is no descriptor or memory to make sure with, so nothing was sent.
    """
    try:
        if portable or not HAS_PIDFD:
            os.kill(seen.pid, number)
            os.kill(seen.pid, signal.SIGCONT)
            return True
        descriptor = os.pidfd_open(seen.pid)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    try:
        fields = stat_fields(seen.pid)
        if fields is not None and fields[_STARTED] == seen.started:
            signal.pidfd_send_signal(descriptor, number)
            signal.pidfd_send_signal(descriptor, signal.SIGCONT)  # a stopped process would never see TERM
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    finally:
        os.close(descriptor)
    return True
