"""Answers that go on for a while: changes of state, and logs while they are written.

``GET /api/v1/events`` sends every change of state as server-sent events. A listener that comes back with
``Last-Event-ID`` gets what it missed. Where that is no longer kept, the first event is a ``gap``: what the listener
shows has to be read anew.

``GET /api/v1/runs/{run_id}/logs`` sends what tasks wrote. Without ``follow`` the answer is a list of attempts (or text,
for ``Accept: text/plain``). With it, JSON lines, one for each piece of text; ``Accept: text/event-stream`` gives
server-sent events, ``text/plain`` text.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import lru_cache

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from cis.api.answers import FLAG, TEXT, QueryError, answers, encoded, or_nothing, parameters
from cis.api.request_limits import admission_of
from cis.api.requests import Query, scopes_of
from cis.api.schemas import AttemptLogModel, EventModel, LogPieceModel, PageModel
from cis.api.served import ServedNode
from cis.engine.logfiles import LogFiles
from cis.engine.observe.logreader import LogChoice, LogReader
from cis.engine.observe.logs import AttemptParts, attempt_log, check_attempts, open_logs
from cis.engine.observe.logtext import LogPiece, LogText
from cis.engine.observe.views import event_view
from cis.errors import Fault
from cis.model.dag import Json
from cis.model.scope import parse_worker_id
from cis.model.scope_rules import Patterns, allows
from cis.node.hub import Subscription
from cis.store.records import AttemptRecord, EventRecord
from cis.store.run_port import Runs

EVENT_STREAM = "text/event-stream"
JSON_LINES = "application/x-ndjson"
PLAIN_TEXT = "text/plain"

HEARTBEAT = b": still here\n\n"

HEARTBEAT_S = 15.0
_AT_ONCE = 500

LOOK_EVERY_S = 0.2
PART_BYTES = 2**16
_JSON = "application/json"
_HIGHEST_ATTEMPT = 10**9


def wanted_type(request: Request, offered: tuple[str, ...]) -> str:
    """Return the first of *offered* that the ``Accept`` header names; the first of all when it names none."""
    accepted = [part.partition(";")[0].strip().lower() for part in request.headers.get("accept", "").split(",")]
    return next((kind for kind in accepted if kind in offered), offered[0])


def sse(data: Json, *, event: str, event_id: int | None = None) -> bytes:
    """Return one server-sent event (WHATWG HTML, 9.2); JSON has no line breaks, so the data is one line."""
    head = f"id: {event_id}\n" if event_id is not None else ""
    return f"{head}event: {event}\ndata: ".encode() + encoded(data) + b"\n\n"


def stream(parts: AsyncIterator[bytes], *, media_type: str) -> StreamingResponse:
    """Return *parts* as a response that proxies pass on as it comes."""
    charset = "; charset=utf-8" if media_type.startswith("text/") else ""
    return StreamingResponse(parts, media_type=media_type + charset, headers={"X-Accel-Buffering": "no"})


def event_routes(node: ServedNode) -> APIRouter:
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
        return stream(_events(node, after, scopes_of(request)), media_type=EVENT_STREAM)

    return router


def _last_event_id(request: Request) -> int | None:
    text = request.headers.get("last-event-id", "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise QueryError([Fault(place="header.Last-Event-ID", message=f"must be a number, not {text!r}")])
    return int(text)


async def _events(node: ServedNode, after: int | None, scopes: Patterns | None) -> AsyncIterator[bytes]:
    hub = node.events
    with hub.subscribe() as bell:
        seq = hub.last_seq if after is None else after
        newest = await node.read(lambda store: store.events.last_seq())
        if seq > newest:
            seq = newest  # the listener knows another database, perhaps one that was restored since
            yield _gap(seq)
        yield b": listening\n\n"
        sent_s = time.monotonic()
        while not hub.closed:
            found = await _after(node, seq)
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


async def _after(node: ServedNode, seq: int) -> Sequence[EventRecord]:
    recent = node.events.after(seq, limit=_AT_ONCE)
    if recent is not None:
        return recent
    return await node.read(lambda store: store.events.after(seq, limit=_AT_ONCE))


def _gap(seq: int) -> bytes:
    message = "events were missed and are no longer kept: read anew what you show"
    return sse({"seq": seq, "message": message}, event="gap", event_id=seq)


def log_routes(node: ServedNode) -> APIRouter:
    """Return the route of logs."""
    router = APIRouter(prefix="/api/v1/runs", tags=["runs"])
    described = answers(PageModel[AttemptLogModel], errors=(404, 422))
    described[200]["content"] = {
        JSON_LINES: {"schema": LogPieceModel.model_json_schema()},
        EVENT_STREAM: {},
        PLAIN_TEXT: {},
    }

    @router.get(
        "/{run_id}/logs",
        responses=described,
        openapi_extra=parameters(
            ("task", "only this task", TEXT),
            (
                "attempt",
                "only this attempt",
                or_nothing({"type": "integer", "minimum": 1, "maximum": _HIGHEST_ATTEMPT}),
            ),
            ("follow", "go on until the run is over: JSON lines, events or text, as `Accept` says", FLAG),
        ),
        summary="What tasks wrote",
    )
    async def logs(run_id: str, request: Request) -> Response:
        query = Query(request.query_params)
        task, attempt = query.text("task"), query.number("attempt", low=1, high=_HIGHEST_ATTEMPT)
        follow = query.flag("follow")
        query.check()
        scopes = scopes_of(request)
        admission_of(request).stream()  # whatever its form and however it was asked for: it takes as long as its reader
        form = wanted_type(request, (JSON_LINES, EVENT_STREAM, PLAIN_TEXT) if follow else (_JSON, PLAIN_TEXT))
        if form == _JSON:
            await node.read(lambda store: check_attempts(store, run_id, task=task, attempt=attempt, scopes=scopes))
            parts = AttemptParts(run_id, task=task, attempt=attempt)
            return stream(_attempt_list(node, parts), media_type=_JSON)
        choice = LogChoice(task=task, attempt=attempt, follow=follow)
        reader = await node.read(lambda store: open_logs(store, node.logs, run_id, choice, scopes=scopes))
        return stream(_pieces(node, reader, run_id, form=form), media_type=form)

    return router


async def _attempt_list(node: ServedNode, parts: AttemptParts) -> AsyncIterator[bytes]:
    """Write the list a part at a time: together the attempts may be more than fits into memory."""
    yield b'{"items":['
    comma = b""
    while not parts.over:
        attempts = await node.read(parts.next)
        pieces = _list_pieces(attempts, node.logs, comma=comma)
        while part := await asyncio.to_thread(_next_part, pieces):
            comma = b","
            yield part
    yield b'],"next_cursor":null}'


def _list_pieces(attempts: Sequence[AttemptRecord], logfiles: LogFiles, *, comma: bytes) -> Iterator[bytes]:
    for attempt in attempts:
        log = attempt_log(attempt, logfiles)
        yield comma + encoded(log.facts)[:-1]
        for name, texts in ((b',"output":"', log.output), (b'","error":"', log.error)):
            yield name
            for text in texts:
                yield encoded(text)[1:-1]  # without its quotes
        yield b'"}'
        comma = b","


def _next_part(pieces: Iterator[bytes]) -> bytes:
    """Return some of what is left: enough that going to a thread for it is worth the way."""
    part, size = [], 0
    for piece in pieces:
        part.append(piece)
        size += len(piece)
        if size >= PART_BYTES:
            break
    return b"".join(part)


async def _pieces(node: ServedNode, reader: LogReader, run_id: str, *, form: str) -> AsyncIterator[bytes]:
    plain = LogText(alone=None, streams=True)
    quiet_s = 0.0
    with node.events.subscribe() as bell:
        while not reader.over and not node.events.closed:
            seq = node.events.last_seq
            pieces = await node.read(reader.look)
            if pieces:
                quiet_s = 0.0
                yield b"".join(_shown(piece, form=form, plain=plain) for piece in pieces)
            if reader.rests:
                quiet_s += await _rest(node, bell, reader, seq)
                if quiet_s >= HEARTBEAT_S and form == EVENT_STREAM:
                    quiet_s = 0.0
                    yield HEARTBEAT
    if form != PLAIN_TEXT:
        status = await node.read(lambda store: _status(store.runs, run_id))
        yield _line({"task_id": None, "attempt": None, "stream": "end", "text": status}, form=form)


async def _rest(node: ServedNode, bell: Subscription, reader: LogReader, seq: int) -> float:
    """Wait until something happens in what is read, or its logs may have grown; return for how long."""
    begun_s = time.monotonic()
    until_s = begun_s + max(LOOK_EVERY_S, reader.pause_s)
    while (left_s := until_s - time.monotonic()) > 0 and await bell.heard(timeout_s=left_s):
        events = node.events.after(seq)
        if events is None or node.events.closed or any(reader.concerned(event.run_id) for event in events):
            break
        seq = events[-1].seq if events else seq
    return time.monotonic() - begun_s


def _shown(piece: LogPiece, *, form: str, plain: LogText) -> bytes:
    if form == PLAIN_TEXT:
        return plain.text(piece).encode(errors="replace")
    content = {"task_id": piece.task_id, "attempt": piece.attempt, "stream": str(piece.stream), "text": piece.text}
    return _line(content, form=form)


def _line(content: Json, *, form: str) -> bytes:
    return sse(content, event="log") if form == EVENT_STREAM else encoded(content) + b"\n"


def _status(runs: Runs, run_id: str) -> str:
    run = runs.get(run_id)
    return "gone" if run is None else str(run.status)
