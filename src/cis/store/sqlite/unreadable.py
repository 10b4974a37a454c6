"""Says in the log what of the database could not be read; imported when that happens, since commands want no log."""

from __future__ import annotations

import logging

from cis.errors import PoisonRecordError

log = logging.getLogger(__name__)


def tell_left_out(error: PoisonRecordError | UnicodeDecodeError) -> None:
    """Tell of a row that is missing in an answer."""
    log.warning("a row was left out", extra={"error": str(error)})


def tell_queued(run_id: str, error: PoisonRecordError) -> None:
    """Tell of a run whose place in the queue cannot be read."""
    log.warning("a queued run cannot be read", extra={"run_id": run_id, "error": str(error)})
