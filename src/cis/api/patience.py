"""How long a request's body may take, in front of whatever reads it: a slow one would hold its place for ever."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cis.errors import SlowRequestError

PART_WITHIN_S = 10.0
BODY_WITHIN_S = 300.0


class Patience:
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
    """Receives for one request; once its body is whole there is no hurry: what comes then is the end of the connection."""

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
