"""The log files of attempts: without a name at first, which they get when there is something in them, or after a moment.

Most tasks say nothing, on one of their streams at least, and are over soon. To make a file costs as much as a tenth of a
short process, on some file systems many times that, and a hundred thousand empty files are no use to anybody. So a file
in which a short task wrote nothing is never seen, and is given to the next one.
"""

from __future__ import annotations

import errno
import logging
from contextlib import suppress

from cis.engine.ports import StrPath
from cis.executors.logcap import CappedLog

log = logging.getLogger(__name__)

MOST_SPARE = 64
AT_HAND = 4  # not looked at yet, and spare with a writer: enough for tasks one by one, and few descriptors
NAME_AFTER_S = 0.05
_WILL_PASS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM)


class AttemptLogs:
    """Opens logs and takes them back. ``cap`` is how many bytes a file may keep; ``named``: all have names at once.

    ``nursery`` is the folder in which files without names are made (``CappedLog``).
    """

    def __init__(self, *, cap: int, named: bool = False, nursery: StrPath | None = None) -> None:
        self._named = named
        self._nursery = nursery
        self._cap = cap
        self._silent: list[CappedLog] = []  # of processes that ended without a word
        self._spare: list[CappedLog] = []

    def open(self, path: StrPath) -> CappedLog:
        """Return the log that is to be at *path*. Raises OSError."""
        while self._spare:
            spare = self._spare.pop()
            with suppress(OSError):
                spare.lend()
                spare.path = path
                return spare
            spare.close()
        return CappedLog(path, cap=self._cap, named=self._named, nursery=self._nursery)

    def name(self, one: CappedLog) -> None:
        """Put a log where it can be found. Where that is never possible, those to come are made with their names."""
        try:
            one.give_name()
        except OSError as error:
            self._named = self._named or error.errno not in _WILL_PASS
            log.warning("a log file gets no name; its end alone is kept", extra={"path": one.path, "error": str(error)})

    def finish(self, one: CappedLog) -> tuple[str, int]:
        """Take back the log of a process that has ended; return the tail of its text and the bytes it wrote."""
        try:
            tail, written = one.finish()
        except OSError:
            one.close()
            raise
        if written or one.named:
            self._part_with(one)
        else:
            self._silent.append(one)
            if len(self._silent) > AT_HAND:
                self.tidy()
        return tail, written

    def tidy(self) -> None:
        """Make the logs of silent processes ready for others, where nobody else has them; to be called where there is time."""
        while self._silent:
            one = self._silent.pop()
            if len(self._spare) >= MOST_SPARE or not one.is_free():
                self._part_with(one)
                continue
            self._spare.append(one)
            if len(self._spare) <= AT_HAND:
                with suppress(OSError):  # too many open files: it is tried again when the log is wanted
                    one.lend()

    def close(self) -> None:
        """Close the files that nobody got."""
        self.tidy()
        for one in self._spare:
            one.close()
        self._spare.clear()

    def _part_with(self, one: CappedLog) -> None:
        self.name(one)
        one.close()
