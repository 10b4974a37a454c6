"""What is said when no connection can be accepted: one line, since asyncio tries again a second later by itself."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from cis.engine.shortage import shortage_of

log = logging.getLogger(__name__)


def say_in_few_words(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Be the loop's handler of what nobody caught; all but a shortage of the machine goes the usual way."""
    short_of = shortage_of(context.get("exception"))
    if short_of is None:
        loop.default_exception_handler(context)
    else:
        log.warning("a connection could not be accepted; it is tried again", extra={"short_of": short_of})
