"""Bells: how one process wakes another, through a FIFO in the run directory.

A ring is one byte; what is to be done stands in the database, so rings may be lost, doubled or merged without
harm, and a loop looks once a second by itself. Whoever watches runs from another process (``cis dag logs --follow``)
has a bell in the folder ``watching``, and all of these are rung when something was stored. A FIFO, because the path of a Unix socket ends at 108 bytes
and a worker's id alone may be longer (``docs/adr``).
"""

from __future__ import annotations

import os
import select
import stat
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Self

WATCHING = "watching"
NEAR = b"!"
TOLD = b"?"  # by somebody who has told everybody else
TOLD_ALL = b"*"  # the same, and any worker may have something to do
MOST_WATCHERS = 256
POLL_S = 0.2  # where no bell can be made


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
        self._was_rung = False

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when somebody rings."""
        return self._descriptor

    def ring(self, what: bytes = NEAR) -> None:
        """Ring it from the inside, from another thread or a signal handler."""
        _write(self._descriptor, what)

    def drain(self) -> bytes:
        """Take all rings that came; return a byte for each kind of them, so nothing if there was none."""
        rung = b""
        while True:
            try:
                data = os.read(self._descriptor, 4096)
            except BlockingIOError:
                return rung
            rung += bytes({*data} - {*rung})
            if len(data) < 4096:
                return rung

    def woken(self) -> None:
        """Take all rings that came, and note them for ``was_rung``."""
        self._was_rung = bool(self.drain()) or self._was_rung

    def was_rung(self) -> bool:
        """Whether a ring was noted since this was asked last."""
        rung, self._was_rung = self._was_rung, False
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


class WatchBell:
    """The bell of one who watches this home; where none can be made, ``wait`` only lets a moment pass."""

    def __init__(self, run_dir: Path, name: str) -> None:
        self._path = bell_path(run_dir / WATCHING, name)
        self._bell: FifoBell | None = None
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            made = bell_path(run_dir, f"{WATCHING}-{name}")  # not seen by ``ring_watchers`` before somebody listens
            self._bell = FifoBell(made)
            made.rename(self._path)

    def wait(self, timeout_s: float) -> None:
        """Return when something was stored, or when the time is over."""
        if self._bell is None:
            time.sleep(max(0.0, min(timeout_s, POLL_S)))
        elif select.select([self._bell.fileno()], [], [], max(0.0, timeout_s))[0]:
            self._bell.drain()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bell is not None:
            self._bell.close()
            self._path.unlink(missing_ok=True)


def ring_watchers(run_dir: Path) -> None:
    """Wake everybody who watches this home; what one left who was killed is removed."""
    folder = run_dir / WATCHING
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, MOST_WATCHERS) if entry.name.endswith(".wake")]
    except OSError:  # nobody ever did
        return
    for name in names:
        if not ring(folder, name.removesuffix(".wake")):
            with suppress(OSError):
                (folder / name).unlink()


def _write(descriptor: int, what: bytes = NEAR) -> None:
    try:
        os.write(descriptor, what)
    except BlockingIOError:
        return  # full of rings: it is awake already
