"""A log file that a process writes to by itself, held open here so that it can be measured, cut and read.

The process appends (``O_APPEND``), so a file that is cut to its cap while the process writes goes on from the
cap: the first bytes stay, what came after them is dropped and counted. A write between measuring and cutting is
dropped uncounted, which is why the count of a file that was cut under a live process is a lower bound.
"""

from __future__ import annotations

import os
from contextlib import suppress

from cis.engine.ports import StrPath
from cis.store.records import TAIL_BYTES

_FLAGS = os.O_CREAT | os.O_APPEND | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


class CappedLog:
    """One stream of one process: a file of mode 0600 that keeps at most ``cap`` bytes, and says what it dropped."""

    __slots__ = ("_cap", "_cut_live", "_dropped", "descriptor")

    def __init__(self, path: StrPath, *, cap: int) -> None:
        self.descriptor = os.open(path, _FLAGS, 0o600)
        self._cap = cap
        self._dropped = 0
        self._cut_live = False

    def keep_to_cap(self) -> None:
        """Drop what a live process wrote beyond the cap."""
        size = os.fstat(self.descriptor).st_size
        if size > self._cap:
            os.ftruncate(self.descriptor, self._cap)
            self._dropped += size - self._cap
            self._cut_live = True

    def finish(self) -> tuple[str, int]:
        """Close the file of a process that has ended; return the tail of its text and the bytes it wrote."""
        try:
            size = os.fstat(self.descriptor).st_size
            written = size + self._dropped
            if written > self._cap:
                size = self._cut(size)
            return (self._tail(size) if size else ""), written
        finally:
            self.close()

    def close(self) -> None:
        """Close the file and leave it as it is."""
        os.close(self.descriptor)

    def _cut(self, size: int) -> int:
        if size > self._cap:
            os.ftruncate(self.descriptor, self._cap)
            self._dropped += size - self._cap
        at_least = "at least " if self._cut_live else ""
        note = f"\n[cis: cut at {self._cap} bytes (max_log); {at_least}{self._dropped} more bytes were dropped]\n"
        with suppress(OSError):  # a full disk: the row still has both numbers
            os.write(self.descriptor, note.encode())
        return os.fstat(self.descriptor).st_size

    def _tail(self, size: int) -> str:
        start = max(0, size - TAIL_BYTES)
        data = os.pread(self.descriptor, TAIL_BYTES, start)
        if not start:
            return data.decode("utf-8", "replace")
        whole = data[:3].lstrip(bytes(range(0x80, 0xC0))) + data[3:]  # not from the middle of a character
        left_out = size - len(whole)
        return f"[cis: {left_out} earlier bytes are in the log file]\n" + whole.decode("utf-8", "replace")
