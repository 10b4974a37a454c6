"""How a node, its workers and a run that is run here write their logs: a line an event, a constant message, facts.

What anybody can cause ten thousand times a second would fill the disk, so of one message the first of a minute are
written; the others are counted, and the next one says how many there were.
"""

from __future__ import annotations

import logging
import sys
import threading

from cis.store.shares import Shares

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}

MAX_OF_ONE_MESSAGE = 60
WITHIN_US = 60_000_000


class FactFormatter(logging.Formatter):
    """Puts the facts of a record (its ``extra``) behind its message, as ``name=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of one record."""
        line = super().format(record)
        facts = [f"{name}={value}" for name, value in vars(record).items() if name not in _STANDARD]
        return "  ".join([line, *facts])


class FloodFilter(logging.Filter):
    """Passes no more than ``MAX_OF_ONE_MESSAGE`` of one message within ``WITHIN_US``; whatever its facts are."""

    def __init__(self) -> None:
        super().__init__()
        self._shares = Shares(most=MAX_OF_ONE_MESSAGE, within_us=WITHIN_US)
        self._lock = threading.Lock()  # the handler's own is not held yet

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is written."""
        with self._lock:
            left_out = self._shares.take(f"{record.name} {record.msg}", at_us=int(record.created * 1e6))
        if left_out:
            vars(record)["left_out_before"] = left_out  # a fact, as those of ``extra``
        return left_out is not None


def log_to_stderr() -> None:
    """Send every warning, and this program's news, to standard error: the log of a node or a worker."""
    _log_in_lines("%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger("cis").setLevel(logging.INFO)


def log_beside_run(*, quiet: bool) -> None:
    """Send warnings to standard error, as a command says what it has to say; of a *quiet* one errors alone."""
    _log_in_lines("cis: %(message)s", level=logging.ERROR if quiet else logging.WARNING)


def _log_in_lines(line: str, *, level: int) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(FloodFilter())
    handler.setFormatter(FactFormatter(line))
    logging.basicConfig(level=level, handlers=[handler], force=True)
