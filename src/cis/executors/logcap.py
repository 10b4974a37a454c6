"""A log file that a process writes to by itself, held open here so that it can be measured, cut and read.

The process appends (``O_APPEND``), so a file that is cut to its cap while the process writes goes on from the
cap: the first bytes stay, what came after them is dropped and counted. A write between measuring and cutting is
dropped uncounted, which is why the count of a file that was cut under a live process is a lower bound.
"""

from __future__ import annotations

import fcntl
import os
import signal
from contextlib import suppress

from cis.engine.ports import StrPath
from cis.store.records import TAIL_BYTES

_OWN = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
_FOR_PROCESS = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
NOTHING = -1
CAN_PASS_ON = hasattr(fcntl, "F_SETLEASE")
_LEASE_SIGNAL = signal.SIGURG  # of no effect where nobody waits for it


class CappedLog:
    """One stream of one process: a file of mode 0600 that keeps at most ``cap`` bytes, and says what it dropped.

    ``writer`` is for the process, and is closed here with ``hand_over`` once the process has it: it is a description of
    its own, so that the system can tell whether anybody still has the file.
    """

    __slots__ = ("_cap", "_cut_live", "_descriptor", "_dropped", "_path", "_signal_set", "writer")

    def __init__(self, path: StrPath, *, cap: int) -> None:
        self._descriptor = os.open(path, _OWN | os.O_CREAT, 0o600)
        self._path = path
        self._cap = cap
        self._dropped = 0
        self._cut_live = False
        self._signal_set = False
        try:
            self.writer = os.open(path, _FOR_PROCESS)
        except OSError:
            os.close(self._descriptor)
            raise

    def hand_over(self) -> None:
        """Close what the process now has."""
        os.close(self.writer)
        self.writer = NOTHING

    def pass_on(self, path: StrPath) -> bool:
        """Become the empty log at *path* of another process; return whether it could.

        It cannot when somebody else has the file: what the last process left in the background, or a reader. Only once
        the old name is gone can that be told for good.
        """
        try:
            os.rename(self._path, path)
        except OSError:
            return False
        with suppress(OSError):
            if self._is_ours_alone():
                self.writer = os.open(path, _FOR_PROCESS)
                if os.path.samestat(os.fstat(self.writer), os.fstat(self._descriptor)):
                    self._path = path
                    return True
                self.hand_over()
        try:
            os.rename(path, self._path)
        except OSError:  # then at least nothing is left where the other process is to have a file of its own
            with suppress(OSError):
                os.unlink(path)
        return False

    def _is_ours_alone(self) -> bool:
        """Whether nobody else can write to it or reads it, and nobody has written."""
        # A lease to write is refused while the file is open anywhere else. Whoever opens it meanwhile waits for the
        # microsecond, and this process is told by a signal: one that does not end it.
        if not self._signal_set:
            fcntl.fcntl(self._descriptor, fcntl.F_SETSIG, _LEASE_SIGNAL)
            self._signal_set = True
        fcntl.fcntl(self._descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(self._descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return os.fstat(self._descriptor).st_size == 0

    def keep_to_cap(self) -> None:
        """Drop what a live process wrote beyond the cap."""
        size = os.fstat(self._descriptor).st_size
        if size > self._cap:
            os.ftruncate(self._descriptor, self._cap)
            self._dropped += size - self._cap
            self._cut_live = True

    def finish(self) -> tuple[str, int]:
        """Return the tail of the text of a process that has ended, and the bytes it wrote."""
        size = os.fstat(self._descriptor).st_size
        written = size + self._dropped
        if written > self._cap:
            size = self._cut(size)
        return (self._tail(size) if size else ""), written

    def close(self) -> None:
        """Close the file and leave it as it is."""
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
