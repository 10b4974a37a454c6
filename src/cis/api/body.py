"""Reading the body of a request: never more than is allowed, not for ever, and few large ones at once.

A document of 16 MiB becomes twenty times as much in memory, so the bytes that are read in at once are bounded
(``DocumentRooms``). A reader waits for its turn, in the order of coming, and keeps it until what it made of the
document is stored. Small documents have a room of their own and do not wait behind large ones.

``BodyTimeout`` stands in front of all readers and bounds the time that a body may take: a slow one would hold its place
for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Mapping

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cis.api.answers import QueryError
from cis.errors import DocumentTooLargeError, Fault, OverloadedError, SlowRequestError, UsageError
from cis.model.dag import Json

DRAIN_FACTOR = 4
_OPTIONAL_BODY_BYTES = 64 * 2**10

MAX_DOCUMENT_BYTES = 16 * 2**20
DOCUMENT_WAIT_S = 60.0
RETRY_AFTER_S = 5
_SMALL_BYTES = 256 * 2**10
_UNCOUNTED_BYTES = 16 * 2**10

PART_WITHIN_S = 10.0
BODY_WITHIN_S = 300.0


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
        UsageError: the body is not a JSON object.
        QueryError: a member is not known, or has another type.
    """
    data = await read_body(request, limit=_OPTIONAL_BODY_BYTES)
    if not data.strip():
        return {}
    try:
        options = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the body is not JSON: {error}") from error
    if not isinstance(options, dict):
        raise UsageError("the body must be a JSON object, or empty")
    faults = []
    for name, value in options.items():
        if name not in known:
            faults.append(Fault(place=f"body.{name}", message=f"is not known; known: {', '.join(known)}"))
        elif not isinstance(value, known[name]):
            faults.append(Fault(place=f"body.{name}", message=f"must be a {known[name].__name__}"))
    if faults:
        raise QueryError(faults)
    return options


def _declared_length(request: Request) -> int | None:
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None


class DocumentRooms:
    """A room for large documents and one for small ones, for one event loop."""

    def __init__(self, *, capacity: int = MAX_DOCUMENT_BYTES, wait_s: float = DOCUMENT_WAIT_S) -> None:
        self._small = _Room(capacity, wait_s=wait_s)
        self._large = _Room(capacity, wait_s=wait_s)

    @contextlib.asynccontextmanager
    async def room_for(self, size: int) -> AsyncIterator[None]:
        """Hold room for a document of *size* bytes. Raises OverloadedError when there is none for too long."""
        if size <= _UNCOUNTED_BYTES:
            yield
            return
        room = self._small if size <= _SMALL_BYTES else self._large
        taken = await room.take(size)
        try:
            yield
        finally:
            room.give_back(taken)


class _Room:
    """Bytes that are given out in the order in which they were asked for."""

    def __init__(self, capacity: int, *, wait_s: float) -> None:
        self._capacity = capacity
        self._free = capacity
        self._wait_s = wait_s
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> int:
        """Wait for *size* bytes, or for all of them; return how many were taken."""
        size = min(size, self._capacity)
        if not self._waiting and size <= self._free:
            self._free -= size
            return size
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            async with asyncio.timeout(self._wait_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.give_back(size)  # the turn came this very moment
            else:
                with contextlib.suppress(ValueError):  # it was passed over, since it was cancelled
                    self._waiting.remove((size, turn))
                self._let_in()
            if not isinstance(error, TimeoutError):
                raise
            what = f"{self._capacity >> 20} MiB of documents are being read already"
            raise OverloadedError(what, retry_after_s=RETRY_AFTER_S) from None
        return size

    def give_back(self, size: int) -> None:
        """Give bytes back, and let in whoever comes next."""
        self._free += size
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            size, turn = self._waiting.popleft()
            self._free -= size
            if turn.cancelled():
                self._free += size
            else:
                turn.set_result(None)


class BodyTimeout:
    """ASGI middleware: reading the body raises SlowRequestError when a part, or all of it, is too long in coming."""

    def __init__(self, app: ASGIApp, *, part_s: float = PART_WITHIN_S, body_s: float = BODY_WITHIN_S) -> None:
        self._app = app
        self._part_s = part_s
        self._body_s = body_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            receive = _Body(receive, part_s=self._part_s, body_s=self._body_s)
        await self._app(scope, receive, send)


class _Body:
    """Receives for one request; once its body is whole there is no hurry: only the connection's end can come."""

    __slots__ = ("_body_s", "_due_s", "_part_s", "_receive", "_whole")

    def __init__(self, receive: Receive, *, part_s: float, body_s: float) -> None:
        self._receive = receive
        self._part_s = part_s
        self._body_s = body_s
        self._due_s: float | None = None
        self._whole = False

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()
        now_s = asyncio.get_running_loop().time()
        self._due_s = now_s + self._body_s if self._due_s is None else self._due_s
        left_s = min(self._part_s, self._due_s - now_s)
        try:
            async with asyncio.timeout(max(0.0, left_s)):
                message = await self._receive()
        except TimeoutError as error:
            raise SlowRequestError(self._part_s, self._body_s) from error
        self._whole = message["type"] != "http.request" or not message.get("more_body", False)
        return message
