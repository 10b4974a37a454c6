"""How a node and its workers write their logs: one line an event, a constant message, facts beside it."""

from __future__ import annotations

import logging
import sys

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class FactFormatter(logging.Formatter):
    """Puts the facts of a record (its ``extra``) behind its message, as ``name=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of one record."""
        line = super().format(record)
        facts = [f"{name}={value}" for name, value in vars(record).items() if name not in _STANDARD]
        return "  ".join([line, *facts])


def log_to_stderr() -> None:
    """Send every warning, and this program's news, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FactFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("cis").setLevel(logging.INFO)
