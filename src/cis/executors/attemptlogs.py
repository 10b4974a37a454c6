"""The log files of attempts: without a name at first, which they get when there is something in them, or after a moment.

Most tasks say nothing, on one of their streams at least, and are over soon. To make a file costs as much as a tenth of a
short process, on some file systems many times that, and a hundred thousand empty files are no use to anybody. So a file
in which a short task wrote nothing is never seen, and is given to the next one.
"""

from __future__ import annotations

from cis.engine.ports import StrPath
from cis.executors.logcap import CappedLog

MOST_SPARE = 64
NAME_AFTER_S = 0.05


class AttemptLogs:
    """Opens logs and takes them back. ``cap`` is how many bytes a file may keep; ``portable``: all have names at once."""

    def __init__(self, *, cap: int, portable: bool = False) -> None:
        self._portable = portable
        self._cap = cap
        self._spare: list[CappedLog] = []

    def open(self, path: StrPath) -> CappedLog:
        """Return the log that is to be at *path*. Raises OSError."""
        if not self._spare:
            return CappedLog(path, cap=self._cap, named=self._portable)
        log = self._spare.pop()
        try:
            log.begin(path)
        except OSError:
            log.close()
            raise
        return log

    def finish(self, log: CappedLog) -> tuple[str, int]:
        """Take back the log of a process that has ended; return the tail of its text and the bytes it wrote."""
        try:
            tail, written = log.finish()
        except OSError:
            log.close()
            raise
        if not written and len(self._spare) < MOST_SPARE and log.is_free():
            self._spare.append(log)
        else:
            log.give_name()
            log.close()
        return tail, written

    def close(self) -> None:
        """Close the files that nobody got."""
        for log in self._spare:
            log.close()
        self._spare.clear()
