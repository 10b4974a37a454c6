"""The lock files of nodes and workers: one process each, and a way to see who it is.

``flock`` is held by the process that acquired it and is gone with that process, however it ends, so a lock
file without a lock means nothing. The file's text is the holder's pid.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from cis.errors import AlreadyRunningError

PATIENCE_S = 0.2


class FileLock:
    """A lock that this process holds until ``release`` or its end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go; the file stays, so that nobody can lock a file that was just removed."""
        os.close(self._descriptor)


def worker_lock_path(run_dir: Path, worker_id: str) -> Path:
    """Return the lock file of a worker."""
    return run_dir / f"cis-worker-{worker_id}.lock"


def acquire(path: Path, *, what: str) -> FileLock:
    """Take the lock at *path* for *what*.

    Raises:
        AlreadyRunningError: another process holds it; the message says which.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            # Whoever only looks (``holder``) has it for a moment, too.
            if time.monotonic() < deadline_s:
                time.sleep(0.01)
                continue
            holder = os.read(descriptor, 64).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise AlreadyRunningError(what, holder=f"process {holder or '?'} ({path})") from None
    os.ftruncate(descriptor, 0)
    with suppress(OSError):  # a full disk: the lock is held all the same, and who asks reads "?"
        os.write(descriptor, f"{os.getpid()}\n".encode())
    return FileLock(descriptor)


def holder(path: Path) -> str | None:
    """Return the pid, as text, of the process that holds the lock at *path*; None when nobody does."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(descriptor, 64).decode("ascii", "replace").strip() or "?"
    else:
        return None
    finally:
        os.close(descriptor)
