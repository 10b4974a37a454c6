"""Answers that go on for a while, as text, as JSON lines, or as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import StreamingResponse

from cis.api.answers import encoded
from cis.model.dag import Json

EVENT_STREAM = "text/event-stream"
JSON_LINES = "application/x-ndjson"
PLAIN_TEXT = "text/plain"


def wanted_type(request: Request, offered: tuple[str, ...]) -> str:
    """Return the first of *offered* that the ``Accept`` header names; the first of all when it names none."""
    accepted = [part.partition(";")[0].strip().lower() for part in request.headers.get("accept", "").split(",")]
    return next((kind for kind in accepted if kind in offered), offered[0])


def sse(data: Json, *, event: str, event_id: int | None = None) -> bytes:
    """Return one server-sent event (WHATWG HTML, 9.2); JSON has no line breaks, so the data is one line."""
    head = f"id: {event_id}\n" if event_id is not None else ""
    return f"{head}event: {event}\ndata: ".encode() + encoded(data) + b"\n\n"


HEARTBEAT = b": still here\n\n"


def stream(parts: AsyncIterator[bytes], *, media_type: str) -> StreamingResponse:
    """Return *parts* as a response that proxies pass on as it comes."""
    charset = "; charset=utf-8" if media_type.startswith("text/") else ""
    return StreamingResponse(parts, media_type=media_type + charset, headers={"X-Accel-Buffering": "no"})
