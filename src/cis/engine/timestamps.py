"""Times as they are shown: RFC 3339, in UTC, with microseconds and a ``Z``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import overload

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)  # a list has thousands of times


@overload
def rfc3339(at_us: int) -> str: ...
@overload
def rfc3339(at_us: None) -> None: ...
@overload
def rfc3339(at_us: int | None) -> str | None: ...
def rfc3339(at_us: int | None) -> str | None:
    """Return a stored time as text, as in ``2026-01-31T12:03:10.000000Z``; None stays None."""
    if at_us is None:
        return None
    return (_EPOCH + timedelta(microseconds=at_us)).isoformat(timespec="microseconds") + "Z"
