"""The lock files of nodes and workers: one process each, and a way to see who it is.

``flock`` is held by the process that acquired it and is gone with that process, however it ends, so a lock
file without a lock means nothing. The file's text is the holder's pid and, behind a blank, what tells that process from
a later one with its number: what was written by the last holder must not be taken for the next one's.

The file's time of change is the last sign of life of its holder (``SignOfLife``).
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from cis.engine.shortage import shortage_of
from cis.errors import AlreadyRunningError, ConfigError, Fault, LockGoneError

TIMEOUT_S = 0.2
TOUCH_EVERY_S = 0.2


class FileLock:
    """A lock that this process holds until ``release`` or its end."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path

    @property
    def held(self) -> bool:
        """Whether the file is still in its place: who locks another one there is not kept out by this lock."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), self._path.stat())
        except OSError as error:
            return shortage_of(error) is not None

    def check(self) -> None:
        """Raise LockGoneError unless the file is still in its place."""
        if not self.held:
            raise LockGoneError(str(self._path))

    def touch(self) -> None:
        """Set the file's time of change to now."""
        with suppress(OSError):  # a disk that is read-only by now
            os.utime(self._descriptor)

    def release(self) -> None:
        """Let go; the file stays, so that nobody can lock a file that was just removed."""
        os.close(self._descriptor)


class Holder(NamedTuple):
    """Who holds a lock: the pid, 0 when it has not written it down yet, and when that process started, if it said so.

    ``touched_ns`` is the file's time of change: another one each time that the holder gives a sign of life.
    """

    pid: int
    started: str | None = None
    touched_ns: int = 0


class SignOfLife:
    """Touches a lock again and again, as often as it is called but no more than every ``TOUCH_EVERY_S``.

    It takes no lock and writes nothing to the database, so whoever waits for others there can give it still.
    """

    def __init__(self, lock: FileLock) -> None:
        self._lock = lock
        self._due_s = 0.0

    def __call__(self) -> None:
        """Give a sign of life."""
        now_s = time.monotonic()
        if now_s >= self._due_s:
            self._due_s = now_s + TOUCH_EVERY_S
            self._lock.touch()


def worker_lock_path(run_dir: Path, worker_id: str) -> Path:
    """Return the lock file of a worker."""
    return run_dir / f"cis-worker-{worker_id}.lock"


def acquire(path: Path, *, what: str, started: str | None = None) -> FileLock:
    """Take the lock at *path* for *what*; *started* tells this process from a later one with its pid.

    Raises:
        AlreadyRunningError: another process holds it; the message says which.
        ConfigError: a symbolic link is in its place.
    """
    descriptor = _open(path, os.O_RDWR | os.O_CREAT)
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            # Whoever only looks (``holder``) has it for a moment, too.
            if time.monotonic() < deadline_s:
                time.sleep(0.01)
                continue
            pid = _read(descriptor).pid
            os.close(descriptor)
            raise AlreadyRunningError(what, holder=f"process {pid or '?'} ({path})") from None
    os.ftruncate(descriptor, 0)
    with suppress(OSError):  # a full disk: the lock is held all the same, and who asks reads "?"
        os.write(descriptor, f"{os.getpid()} {started or ''}".strip().encode() + b"\n")
    return FileLock(descriptor, path)


def holder(path: Path) -> str | None:
    """Return the pid, as text, of the process that holds the lock at *path*; None when nobody does."""
    found = holder_of(path)
    return None if found is None else str(found.pid or "?")


def holder_of(path: Path) -> Holder | None:
    """Return who holds the lock at *path*; None when nobody does. Raises ConfigError for a symbolic link."""
    try:
        descriptor = _open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(descriptor)
    else:
        return None
    finally:
        os.close(descriptor)


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise ConfigError([Fault(place=str(path), message="is a symbolic link, not a lock; remove it")]) from error


def _read(descriptor: int) -> Holder:
    pid, _, started = os.read(descriptor, 128).decode("ascii", "replace").strip().partition(" ")
    touched_ns = os.fstat(descriptor).st_mtime_ns
    return Holder(int(pid) if pid.isdecimal() else 0, started or None, touched_ns)
