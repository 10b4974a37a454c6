"""What differs between systems: when a process started, who is in a group, which machine this is.

Linux answers through ``/proc`` and pidfds. Elsewhere there is a slower way, which the tests run on Linux too
(``portable=True``). Nothing outside of ``cis.executors`` asks which system it is on. How ends of processes are noticed
is ``cis.executors.exits``; what only Linux can do is ``cis.executors.linux``.

A machine is known by a text that stays the same for as long as the system is installed on it (``machine_id``). A
container has no machine of its own: it is made anew over the same volume, on another host too, and its image may bring
a ``machine-id`` along. It is told by what the programs that make containers leave in them.
"""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from cis.engine.shortage import shortage_of

HAS_PROC = Path("/proc/self/stat").exists()

# Fields of /proc/PID/stat after the name, see proc(5).
_STATE, _PARENT, _GROUP, _STARTED, _SIZE, _ENV_BEGIN, _ENV_END = 0, 1, 2, 19, 20, 47, 48
_DEAD = ("Z", "X")
_EXEC_MOMENT_S = 0.001
_ASK_AGAIN_S = 0.02

# Docker; Podman; any with systemd in it.
_MARKS = (".dockerenv", "run/.containerenv", "run/systemd/container")
# systemd-nspawn, Podman and LXC; Kubernetes, whose runtimes leave no mark.
_VARIABLES = ("container", "KUBERNETES_SERVICE_HOST")
_CGROUPS = ("docker", "kubepods", "containerd", "libpod", "lxc")
_OVERLAYS = ("overlay", "fuse-overlayfs")
_IDS = ("etc/machine-id", "var/lib/dbus/machine-id")
_KEY = b"cis-dag home"
_UUID = r'"IOPlatformUUID" = "([^"]+)"'


def _has_pidfd() -> bool:
    if not hasattr(os, "pidfd_open"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:  # an old kernel, or a container that forbids the call
        return shortage_of(error) is not None
    return True


HAS_PIDFD = _has_pidfd()


def process_started(pid: int, *, portable: bool = False) -> str | None:
    """Return what tells process *pid* from every other that had or will have this number; None if there is none.

    The text only means something when compared with another one of this function, on this machine.

    Raises:
        OSError: there is no descriptor, process or memory to find it out with, so nothing can be told.
    """
    if HAS_PROC and not portable:
        fields = stat_fields(pid)
        return f"{_boot_id()}:{fields[_STARTED]}" if fields else None
    return _ps("lstart=", pid) or None


def still_runs(pid: int, started: str) -> bool:
    """Whether the process of that number is the one that started then (``process_started``), as far as can be told."""
    try:
        return process_started(pid) == started and (not HAS_PROC or not is_dead(pid))  # a zombie does nothing any more
    except OSError as error:
        if shortage_of(error) is None:
            raise
        return True


def _ps(what: str, pid: int) -> str:
    import subprocess  # noqa: PLC0415 - Linux has /proc

    # A fixed language and time zone: the same start must always give the same text.
    env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
    answer = subprocess.run(["ps", "-o", what, "-p", str(pid)], capture_output=True, env=env, check=False)
    return answer.stdout.decode("ascii", "replace").strip()


def group_is_alive(group: int) -> bool:
    """Whether a process that can still do something is in the group, as far as can be told; see ``living_groups``."""
    return bool(living_groups([group]))


def living_groups(groups: Iterable[int]) -> list[int]:
    """Return the groups with a process in them that can still do something, as far as can be told, with one look at all processes.

    Zombies that nobody reaps do not count, unless there is no descriptor or memory to see that they are zombies.
    """
    there: dict[int, bool] = {}  # by group, whether that is enough to know
    for group in groups:
        with suppress(ProcessLookupError):
            try:
                os.killpg(group, 0)
                there[group] = not HAS_PROC
            except PermissionError:
                there[group] = True  # somebody is there, under another user
    if all(there.values()):
        return list(there)
    try:
        stats = [fields for pid in all_pids() if (fields := stat_fields(pid))]
    except OSError as error:
        if shortage_of(error) is None:
            raise
        return list(there)
    busy = {int(fields[_GROUP]) for fields in stats if fields[_STATE] not in _DEAD}
    return [group for group, known in there.items() if known or group in busy]


def signal_group(group: int, signal_number: int) -> None:
    """Send a signal to every process of the group; no error when none is left."""
    # macOS says "not permitted" of a group in which only zombies are left.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal_number)


def all_pids() -> list[int]:
    """Return the number of every process that ``/proc`` shows; none where there is no ``/proc``."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()] if HAS_PROC else []


def environment_of(pid: int) -> frozenset[bytes] | None:
    """Return the ``NAME=value`` entries that a process was started with; empty when they cannot be read.

    None: the process is in the middle of ``exec``, where it has no environment for a moment; ask again.

    Raises:
        OSError: there is no descriptor or memory to read it with, so nothing can be told.
    """
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError as error:
        if shortage_of(error) is not None:
            raise
        return frozenset()
    if data or _has_no_environment(pid):
        return frozenset(data.split(b"\0")) if data else frozenset()
    return None


def _has_no_environment(pid: int) -> bool:
    """Whether an environment that reads as empty is so for good: a zombie, the kernel's own, or really empty."""
    fields = stat_fields(pid)
    if fields is None or fields[_STATE] in _DEAD or fields[_SIZE] == "0":
        return True
    place = fields[_ENV_BEGIN : _ENV_END + 1]
    if place[1] == "0" or place[0] != place[1]:
        return False
    # An environment that exec is about to fill has its begin for its end, too; but not for long.
    time.sleep(_EXEC_MOMENT_S)
    later = stat_fields(pid)
    return later is None or later[_ENV_BEGIN : _ENV_END + 1] == place


def is_dead(pid: int) -> bool:
    """Whether a process has ended, reaped or not. Raises OSError, as ``stat_fields`` does."""
    fields = stat_fields(pid)
    return fields is None or fields[_STATE] in _DEAD


def kill_if_still(pid: int, is_meant: Callable[[int], bool]) -> None:
    """Kill *pid* if it still *is_meant*, so that a number reused meanwhile hits nobody."""
    import signal  # noqa: PLC0415 - whoever only looks waits for no table of signals

    with suppress(ProcessLookupError, PermissionError):
        if not HAS_PIDFD:
            os.kill(pid, signal.SIGKILL)
            return
        descriptor = os.pidfd_open(pid)
        try:
            if is_meant(pid):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)


def kill_process(pid: int, started: str, *, timeout_s: float = 5.0, portable: bool = False) -> bool:
    """Kill the process *pid* that started then (``process_started``), never a later one; return whether it is gone.

    Raises:
        OSError: there is no descriptor or memory to look at it with, so nothing can be told.
    """
    import signal  # noqa: PLC0415 - as above

    try:
        descriptor = os.pidfd_open(pid) if HAS_PIDFD and not portable else None
    except ProcessLookupError:
        return True
    try:
        # Looked at with the descriptor open: from here on the number cannot become somebody else's unnoticed.
        if not _is_still(pid, started, portable=portable):
            return True
        if descriptor is None:
            os.kill(pid, signal.SIGKILL)
        else:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    else:
        return _has_ended(pid, started, descriptor, timeout_s=timeout_s, portable=portable)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _has_ended(pid: int, started: str, descriptor: int | None, *, timeout_s: float, portable: bool) -> bool:
    if descriptor is not None:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))
    deadline_s = time.monotonic() + timeout_s
    while _is_still(pid, started, portable=portable):
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(_ASK_AGAIN_S)
    return True


def _is_still(pid: int, started: str, *, portable: bool) -> bool:
    fields = None if portable else stat_fields(pid)
    state = fields[_STATE] if fields else _ps("stat=", pid)
    # One that nobody has reaped yet does nothing any more.
    return process_started(pid, portable=portable) == started and not state.startswith(_DEAD)


def ancestry() -> frozenset[int]:
    """Return this process and all processes above it, as far as can be told."""
    pids = {os.getpid(), os.getppid()}
    pid = os.getppid()
    while fields := stat_fields(pid):
        pid = int(fields[_PARENT])
        if pid in pids:
            break
        pids.add(pid)
    return frozenset(pids)


class ParentWatch:
    """Knows whether the process that started this one is gone.

    Make it early: a parent that ended before is only noticed if *parent_pid* says who it was.
    """

    def __init__(self, parent_pid: int | None = None, *, portable: bool = False) -> None:
        self._parent = os.getppid() if parent_pid is None else parent_pid
        self._descriptor: int | None = None
        if HAS_PIDFD and not portable:
            with suppress(OSError):  # gone already, or too many open files: polling tells, too
                self._descriptor = os.pidfd_open(self._parent)

    def fileno(self) -> int | None:
        """Return a descriptor that becomes readable when the parent is gone; None: only ``gone`` tells."""
        return self._descriptor

    def gone(self) -> bool:
        """Whether the parent has ended; whoever inherited this process does not count."""
        return os.getppid() != self._parent

    def close(self) -> None:
        """Give the descriptor back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@cache
def _boot_id() -> str:
    # The start time in /proc counts from the boot, so it needs the boot beside it.
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def stat_fields(pid: int) -> list[str] | None:
    """Return the fields of ``/proc/PID/stat`` after the name, see proc(5); None when there is no such process.

    Raises:
        OSError: there is no descriptor or memory to read them with, so nothing can be told.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError as error:
        if shortage_of(error) is not None:
            raise
        return None
    return text.rpartition(")")[2].split()  # the name before it may hold blanks and parentheses


def boot_id() -> str:
    """Return what names this life of the machine, if the system tells. Raises OSError for a shortage."""
    try:
        return _boot_id()
    except OSError as error:
        if shortage_of(error) is not None:
            raise
        return ""


def machine_id(*, root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> str:
    """Return what names this machine; empty in a container, or where nothing does.

    It is made from the system's own id, which is not to be shown to others (machine-id(5)).
    """
    if in_container(root=root, environ=environ):
        return ""
    for name in _IDS:
        found = _text(root / name).strip()
        if found and found != "uninitialized":
            return _hidden(found)
    return _hidden(_platform_uuid()) if os.uname().sysname == "Darwin" else ""


def in_container(*, root: Path, environ: Mapping[str, str]) -> bool:
    """Whether the system below *root* is a container: by its marks, its control group, or its file system."""
    if any((root / mark).exists() for mark in _MARKS) or any(environ.get(name) for name in _VARIABLES):
        return True
    groups = _text(root / "proc/1/cgroup")
    return any(maker in groups for maker in _CGROUPS) or _root_is_overlay(_text(root / "proc/self/mountinfo"))


def _root_is_overlay(mounts: str) -> bool:
    # proc(5): "36 35 98:0 / WHERE options … - TYPE source options"
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[4:5] == ["/"] and after.split()[:1] in ([one] for one in _OVERLAYS):
            return True
    return False


def _platform_uuid() -> str:
    import subprocess  # noqa: PLC0415 - as above

    try:
        answer = subprocess.run(
            ["/usr/sbin/ioreg", "-rd1", "-c", "IOPlatformExpertDevice"], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    match = re.search(_UUID, answer.stdout)
    return match[1] if match else ""


def _hidden(system_id: str) -> str:
    import hashlib  # noqa: PLC0415 - only who acts asks

    return hashlib.blake2b(system_id.encode(), key=_KEY, digest_size=16).hexdigest() if system_id else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        if shortage_of(error) is not None:
            raise
        return ""
