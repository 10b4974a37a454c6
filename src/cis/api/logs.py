"""``GET /api/v1/runs/{run_id}/logs``: what tasks wrote, whole or as it is being written.

Without ``follow`` the answer is a list of attempts (or text, for ``Accept: text/plain``). With it, JSON lines, one
for each piece of text; ``Accept: text/event-stream`` gives server-sent events, ``text/plain`` text.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from cis.api.answers import encoded
from cis.api.describe import FLAG, TEXT, answers, or_nothing, parameters
from cis.api.ports import NodeServices
from cis.api.query import Query
from cis.api.request_limits import admission_of
from cis.api.requests import scopes_of
from cis.api.schemas import AttemptLogModel, LogPieceModel, PageModel
from cis.api.streams import EVENT_STREAM, HEARTBEAT, JSON_LINES, PLAIN_TEXT, sse, stream, wanted_type
from cis.engine.logfiles import LogFiles
from cis.engine.logreader import LogPiece, LogReader
from cis.engine.logs import AttemptParts, attempt_log, check_attempts, check_choice
from cis.model.dag import Json
from cis.store.port import Store
from cis.store.records import AttemptRecord

LOOK_EVERY_S = 0.2
PART_BYTES = 2**16
HEARTBEAT_S = 15.0
_JSON = "application/json"
_HIGHEST_ATTEMPT = 10**9


def log_routes(services: NodeServices) -> APIRouter:
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
            await services.read(lambda store: check_attempts(store, run_id, task=task, attempt=attempt, scopes=scopes))
            parts = AttemptParts(run_id, task=task, attempt=attempt)
            return stream(_attempt_list(services, parts), media_type=_JSON)
        check = partial(check_choice, task=task) if follow else partial(check_attempts, task=task, attempt=attempt)
        await services.read(lambda store: check(store, run_id, scopes=scopes))
        reader = LogReader(services.logfiles, run_id, task=task, attempt=attempt, follow=follow)
        return stream(_pieces(services, reader, run_id, form=form), media_type=form)

    return router


async def _attempt_list(services: NodeServices, parts: AttemptParts) -> AsyncIterator[bytes]:
    """Write the list a part at a time: together the attempts may be more than fits into memory."""
    yield b'{"items":['
    comma = b""
    while not parts.over:
        attempts = await services.read(parts.next)
        pieces = _list_pieces(attempts, services.logfiles, comma=comma)
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


async def _pieces(services: NodeServices, reader: LogReader, run_id: str, *, form: str) -> AsyncIterator[bytes]:
    last: tuple[str, int, str] | None = None
    quiet_s = 0.0
    while not reader.over and not services.hub.closed:
        pieces = await services.read(reader.look)
        if pieces:
            quiet_s = 0.0
            yield b"".join(_shown(piece, form=form, last=before) for before, piece in _with_before(last, pieces))
            last = _place(pieces[-1])
        elif reader.rests:
            quiet_s += LOOK_EVERY_S
            if quiet_s >= HEARTBEAT_S and form == EVENT_STREAM:
                quiet_s = 0.0
                yield HEARTBEAT
            await asyncio.sleep(LOOK_EVERY_S)
    if form != PLAIN_TEXT:
        status = await services.read(lambda store: _status(store, run_id))
        yield _line({"task_id": None, "attempt": None, "stream": "end", "text": status}, form=form)


def _with_before(
    last: tuple[str, int, str] | None, pieces: Sequence[LogPiece]
) -> list[tuple[tuple[str, int, str] | None, LogPiece]]:
    """Pair each piece with the place of the one before it."""
    return list(zip([last, *(_place(piece) for piece in pieces)], pieces, strict=False))


def _place(piece: LogPiece) -> tuple[str, int, str]:
    return piece.task_id, piece.attempt, piece.stream


def _shown(piece: LogPiece, *, form: str, last: tuple[str, int, str] | None) -> bytes:
    if form != PLAIN_TEXT:
        content = {
            "task_id": piece.task_id,
            "attempt": piece.attempt,
            "stream": str(piece.stream),
            "text": piece.text,
        }
        return _line(content, form=form)
    head = f"==> {piece.task_id}, attempt {piece.attempt}, {piece.stream} <==\n" if _place(piece) != last else ""
    return (head + piece.text).encode(errors="replace")


def _line(content: Json, *, form: str) -> bytes:
    return sse(content, event="log") if form == EVENT_STREAM else encoded(content) + b"\n"


def _status(store: Store, run_id: str) -> str:
    run = store.run(run_id)
    return "gone" if run is None else str(run.status)
