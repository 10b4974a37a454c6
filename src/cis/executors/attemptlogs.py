"""The log files of attempts: made when one starts, and passed on when it ends and has written nothing.

Most tasks say nothing, on one of their streams at least. To make a file costs as much as a tenth of a short process,
on some file systems many times that, and a hundred thousand empty files are no use to anybody.
"""

from __future__ import annotations

from cis.engine.ports import StrPath
from cis.executors.logcap import CAN_PASS_ON, CappedLog

MOST_SPARE = 64


class AttemptLogs:
    """Opens logs and takes them back. ``cap`` is how many bytes a file may keep."""

    def __init__(self, *, cap: int) -> None:
        self._cap = cap
        self._spare: list[CappedLog] = []

    def open(self, path: StrPath) -> CappedLog:
        """Return the log at *path*, which is to be made. Raises OSError."""
        while self._spare:
            log = self._spare.pop()
            if log.pass_on(path):
                return log
            log.close()
        return CappedLog(path, cap=self._cap)

    def finish(self, log: CappedLog) -> tuple[str, int]:
        """Take back the log of a process that has ended; return the tail of its text and the bytes it wrote."""
        try:
            tail, written = log.finish()
        except OSError:
            log.close()
            raise
        if written or not CAN_PASS_ON or len(self._spare) >= MOST_SPARE:
            log.close()
        else:
            self._spare.append(log)
        return tail, written

    def close(self) -> None:
        """Close the files that nobody got."""
        for log in self._spare:
            log.close()
        self._spare.clear()
