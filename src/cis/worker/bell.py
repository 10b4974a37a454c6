"""Bells: how one process wakes another, through a FIFO in the run directory.

A ring is one byte; what is to be done stands in the database, so rings may be lost, doubled or merged without
harm, and a loop looks once a second by itself. A FIFO, because the path of a Unix socket ends at 108 bytes
and a worker's id alone may be longer (``docs/adr``).
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


class FifoBell:
    """The listening end of a bell; one for each process name, made anew where it is not there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if os.path.lexists(path) and not stat.S_ISFIFO(path.lstat().st_mode):
            path.unlink()
        if not os.path.lexists(path):
            os.mkfifo(path, 0o600)
        # Open for writing as well, so that the descriptor never reports that the last writer has gone.
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when somebody rings."""
        return self._descriptor

    def ring(self) -> None:
        """Ring it from the inside, from another thread or a signal handler."""
        _write(self._descriptor)

    def drain(self) -> bool:
        """Take all rings that came; return whether there was one."""
        rung = False
        while True:
            try:
                data = os.read(self._descriptor, 4096)
            except BlockingIOError:
                return rung
            rung = True
            if len(data) < 4096:
                return rung

    def close(self) -> None:
        """Stop listening; the FIFO stays for the next process of that name."""
        os.close(self._descriptor)


def bell_path(run_dir: Path, name: str) -> Path:
    """Return the FIFO of a worker id, or of ``node``."""
    return run_dir / f"{name}.wake"


def ring(run_dir: Path, name: str) -> bool:
    """Wake the process that listens under *name*; return whether there is one."""
    try:
        descriptor = os.open(bell_path(run_dir, name), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # no such FIFO, a link in its place, or nobody has it open
        return False
    try:
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return False  # what is written to a file stays in it
        _write(descriptor)
    except OSError:  # who listened went away this very moment
        return False
    finally:
        os.close(descriptor)
    return True


def _write(descriptor: int) -> None:
    try:
        os.write(descriptor, b"!")
    except BlockingIOError:
        return  # full of rings: it is awake already
