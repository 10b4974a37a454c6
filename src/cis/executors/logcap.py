"""A log file that a process writes to by itself, held open here so that it can be measured, cut and read.

The process appends (``O_APPEND``), so a file that is cut to its cap while the process writes goes on from the
cap: the first bytes stay, what came after them is dropped and counted. A write between measuring and cutting is
dropped uncounted, which is why the count of a file that was cut under a live process is a lower bound.

Where the system can make files without names (Linux: ``O_TMPFILE``), a log gets its name only when there is something to
be read by it; until then nobody but its process can have it open.
"""

from __future__ import annotations

import fcntl
import os
import signal
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from cis.engine.ports import StrPath
from cis.store.records import TAIL_BYTES

T = TypeVar("T")
_OWN = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
_FOR_PROCESS = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
NOTHING = -1
HAS_UNNAMED = hasattr(os, "O_TMPFILE") and hasattr(fcntl, "F_SETLEASE") and os.path.isdir("/proc/self/fd")


class CappedLog:
    """One stream of one process: a file of mode 0600 that keeps at most ``cap`` bytes, and says what it dropped.

    ``writer`` is for the process, and is closed here with ``hand_over`` once the process has it: it is a description of
    its own, so that the system can tell whether anybody still has the file. ``named`` tells whether the file is at its path.
    ``nursery`` is a folder for files without names, of the same file system; else they are made where their names are to be.
    The folder of ``path`` is made, mode 0700, when the file gets its name.
    """

    __slots__ = ("_cap", "_cut_live", "_descriptor", "_dropped", "named", "path", "writer")

    def __init__(self, path: StrPath, *, cap: int, named: bool = False, nursery: StrPath | None = None) -> None:
        self.path = path
        self._cap = cap
        self._dropped = 0
        self._cut_live = False
        self.writer = NOTHING
        self._descriptor, self.named = _made(path, named=named, nursery=nursery)
        try:
            self.lend()
        except OSError:
            os.close(self._descriptor)
            raise

    def lend(self) -> None:
        """Have a ``writer`` for the next process. Raises OSError."""
        if self.writer != NOTHING:
            return
        if self.named:
            self.writer = os.open(self.path, _FOR_PROCESS | os.O_NOFOLLOW)
        else:
            self.writer = os.open(f"/proc/self/fd/{self._descriptor}", _FOR_PROCESS)

    def hand_over(self) -> None:
        """Close what the process now has."""
        os.close(self.writer)
        self.writer = NOTHING

    def give_name(self) -> None:
        """Put the file at its path, in place of what may be there. Raises OSError, and leaves it as it is."""
        if self.named:
            return
        try:
            _in_its_folder(self.path, self._link)
        except FileExistsError:
            os.unlink(self.path)
            self._link()
        self.named = True

    def _link(self) -> None:
        # Python follows the link in /proc, and does not try to link that, only where it is told of a folder as well.
        os.link(f"/proc/self/fd/{self._descriptor}", self.path, src_dir_fd=self._descriptor)

    def is_free(self) -> bool:
        """Whether a silent log without a name is as good as a new one: empty, this user's alone, in nobody else's hands."""
        try:  # a lease to write is refused while the file is open anywhere else
            fcntl.fcntl(self._descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            fcntl.fcntl(self._descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError:
            return False
        status = os.fstat(self._descriptor)  # only now: who had it may have written before letting go
        return not status.st_size and status.st_mode == stat.S_IFREG | 0o600 and status.st_uid == os.geteuid()

    def keep_to_cap(self) -> None:
        """Drop what a live process wrote beyond the cap."""
        size = os.fstat(self._descriptor).st_size
        if size > self._cap:
            os.ftruncate(self._descriptor, self._cap)
            self._dropped += size - self._cap
            self._cut_live = True

    def finish(self) -> tuple[str, int]:
        """Return the tail of the text of a process that has ended, and the bytes it wrote."""
        size = os.lseek(self._descriptor, 0, os.SEEK_END)  # a third of what all of its status costs
        written = size + self._dropped
        if written > self._cap:
            size = self._cut(size)
        return (self._tail(size) if size else ""), written

    def close(self) -> None:
        """Close the file and leave it as it is; without a name, it is gone."""
        os.close(self._descriptor)
        if self.writer != NOTHING:
            self.hand_over()

    def _cut(self, size: int) -> int:
        if size > self._cap:
            os.ftruncate(self._descriptor, self._cap)
            self._dropped += size - self._cap
        at_least = "at least " if self._cut_live else ""
        note = f"\n[cis: cut at {self._cap} bytes (max_log); {at_least}{self._dropped} more bytes were dropped]\n"
        with suppress(OSError):  # a full disk: the row still has both numbers
            os.write(self._descriptor, note.encode())
        return os.fstat(self._descriptor).st_size

    def _tail(self, size: int) -> str:
        start = max(0, size - TAIL_BYTES)
        data = os.pread(self._descriptor, TAIL_BYTES, start)
        if not start:
            return data.decode("utf-8", "replace")
        whole = data[:3].lstrip(bytes(range(0x80, 0xC0))) + data[3:]  # not from the middle of a character
        left_out = size - len(whole)
        return f"[cis: {left_out} earlier bytes are in the log file]\n" + whole.decode("utf-8", "replace")


def _made(path: StrPath, *, named: bool, nursery: StrPath | None) -> tuple[int, bool]:
    """Return a new file, or the one at *path*, and whether it has its name already, as it is to have if *named*."""
    if HAS_UNNAMED and not named:
        with suppress(OSError):  # a file system that knows no such files, or a nursery that is gone
            descriptor = os.open(nursery or os.path.dirname(path) or ".", os.O_TMPFILE | _OWN, 0o600)
            # What scans files may open this one while ``is_free`` has its lease; the usual signal of that would end us.
            fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
            return descriptor, False
    return _in_its_folder(path, lambda: os.open(path, _OWN | os.O_CREAT | os.O_NOFOLLOW, 0o600)), True


def _in_its_folder(path: StrPath, make: Callable[[], T]) -> T:
    """Do what makes the file at *path*, and make its folder, mode 0700, if that is what is missing."""
    try:
        return make()
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path) or ".", 0o700, exist_ok=True)
        return make()
