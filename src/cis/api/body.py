"""Reading a request's body, never more of it than is allowed."""

from __future__ import annotations

import json
from collections.abc import Mapping

from fastapi import Request

from cis.api.problems import QueryError
from cis.errors import DocumentTooLargeError, Fault, UsageError
from cis.model.dag import Json

DRAIN_FACTOR = 4
_SMALL = 64 * 2**10


async def read_body(request: Request, *, limit: int) -> bytes:
    """Return the body.

    One that is too large is refused as soon as that is known; what follows is read and dropped up to a point, since
    many clients only look at the answer once they have sent everything.

    Raises:
        DocumentTooLargeError: it has more than *limit* bytes.
    """
    declared = _declared_length(request)
    if declared is not None and declared > limit and "expect" in request.headers:
        raise DocumentTooLargeError(limit)
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size <= limit:
            parts.append(part)
        elif size > DRAIN_FACTOR * limit:
            break
        else:
            parts.clear()
    if size > limit:
        raise DocumentTooLargeError(limit)
    return b"".join(parts)


async def read_options(request: Request, *, known: Mapping[str, type]) -> dict[str, Json]:
    """Return the members of a small JSON object; none for an empty body.

    Raises:
        UsageError: the body is no JSON object.
        QueryError: a member is not known, or has another type.
    """
    data = await read_body(request, limit=_SMALL)
    if not data.strip():
        return {}
    try:
        options = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the body is no JSON: {error}") from error
    if not isinstance(options, dict):
        raise UsageError("the body has to be a JSON object, or empty")
    faults = []
    for name, value in options.items():
        if name not in known:
            faults.append(Fault(place=f"body.{name}", message=f"is not known; known: {', '.join(known)}"))
        elif not isinstance(value, known[name]):
            faults.append(Fault(place=f"body.{name}", message=f"has to be a {known[name].__name__}"))
    if faults:
        raise QueryError(faults)
    return options


def _declared_length(request: Request) -> int | None:
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None
