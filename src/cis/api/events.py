"""``GET /api/v1/events``: every change of state, as server-sent events.

A listener that comes back with ``Last-Event-ID`` gets what it missed. Where that is no longer kept, the first event
is a ``gap``: what the listener shows has to be read anew.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from functools import lru_cache

from fastapi import APIRouter, Request
from starlette.responses import Response

from cis.api.describe import answers
from cis.api.ports import NodeServices
from cis.api.problems import QueryError
from cis.api.request_limits import admission_of
from cis.api.requests import scopes_of
from cis.api.schemas import EventModel
from cis.api.streams import EVENT_STREAM, HEARTBEAT, sse, stream
from cis.engine.views import event_view
from cis.errors import Fault
from cis.model.scope import parse_worker_id
from cis.model.scope_patterns import Patterns, allows
from cis.store.records import EventRecord

HEARTBEAT_S = 15.0
_AT_ONCE = 500


def event_routes(services: NodeServices) -> APIRouter:
    """Return the route of events."""
    router = APIRouter(tags=["events"])
    described = answers(EventModel, errors=(422,))
    described[200] = {
        "description": "Server-sent events `run`, `task` and `worker`; `gap` when some were missed for good",
        "content": {EVENT_STREAM: {"schema": EventModel.model_json_schema()}},
    }

    @router.get(
        "/api/v1/events",
        responses=described,
        openapi_extra={
            "parameters": [
                {"name": "Last-Event-ID", "in": "header", "required": False, "schema": {"type": "integer"}},
            ]
        },
        summary="Every change of state, as it happens",
    )
    async def events(request: Request) -> Response:
        after = _last_event_id(request)
        admission_of(request).stream()
        return stream(_events(services, after, scopes_of(request)), media_type=EVENT_STREAM)

    return router


def _last_event_id(request: Request) -> int | None:
    text = request.headers.get("last-event-id", "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise QueryError([Fault(place="header.Last-Event-ID", message=f"has to be a number, not {text!r}")])
    return int(text)


async def _events(services: NodeServices, after: int | None, scopes: Patterns | None) -> AsyncIterator[bytes]:
    hub = services.hub
    with hub.subscribe() as bell:
        seq = hub.last_seq if after is None else after
        newest = await services.read(lambda store: store.last_event_seq())
        if seq > newest:
            seq = newest  # the listener knows another database, perhaps one that was restored since
            yield _gap(seq)
        yield b": listening\n\n"
        sent_s = time.monotonic()
        while not hub.closed:
            found = await _after(services, seq)
            if found:
                if found[0].seq > seq + 1:
                    yield _gap(found[0].seq - 1)
                seen = found if scopes is None else [each for each in found if _may_see(each, scopes)]
                if seen:
                    yield b"".join(sse(event_view(each), event=each.kind, event_id=each.seq) for each in seen)
                    sent_s = time.monotonic()
                elif time.monotonic() - sent_s >= HEARTBEAT_S:  # much happens, and nothing that may be told
                    yield HEARTBEAT
                    sent_s = time.monotonic()
                seq = found[-1].seq
            elif not await bell.heard(timeout_s=HEARTBEAT_S):
                yield HEARTBEAT


def _may_see(event: EventRecord, scopes: Patterns) -> bool:
    """Whether an event is of one of *scopes*: the worker that each names is that of its scope."""
    return event.worker_id is not None and _allowed_worker(event.worker_id, scopes)


@lru_cache(maxsize=4096)
def _allowed_worker(worker_id: str, scopes: Patterns) -> bool:
    try:
        return allows(scopes, parse_worker_id(worker_id))
    except ValueError:
        return False


async def _after(services: NodeServices, seq: int) -> Sequence[EventRecord]:
    recent = services.hub.after(seq, limit=_AT_ONCE)
    if recent is not None:
        return recent
    return await services.read(lambda store: store.events_after(seq, limit=_AT_ONCE))


def _gap(seq: int) -> bytes:
    message = "events were missed and are no longer kept: read anew what you show"
    return sse({"seq": seq, "message": message}, event="gap", event_id=seq)
