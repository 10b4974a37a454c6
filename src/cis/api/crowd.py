"""How many requests are answered at once, in front of everything else; beyond that, one is told when to come back.

Each request costs memory and a connection, a stream for as long as its client likes, a body its size. A body that may
be large waits a while for a place of its own among few, so that what is held of them all is bounded; whatever is
refused was not looked at. The probes are answered always: whoever minds this node has to see that it lives.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from cis.api.gate import OPEN_PATHS
from cis.api.messages import is_message
from cis.api.problems import problem_of
from cis.errors import OverloadedError

MAX_REQUESTS = 1024
MAX_STREAMS = 256
MAX_LARGE = 16
LARGE_BYTES = 256 * 2**10
LARGE_WAIT_S = 30.0
DRAIN_BYTES = 64 * 2**20
DRAIN_S = 10.0
RETRY_AFTER_S = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class CrowdBounds:
    """How many of each kind there may be at once, and how long a large body waits for its place."""

    requests: int = MAX_REQUESTS
    streams: int = MAX_STREAMS
    large: int = MAX_LARGE
    large_wait_s: float = LARGE_WAIT_S


class Crowd:
    """ASGI middleware that keeps to *bounds*."""

    def __init__(self, app: ASGIApp, *, bounds: CrowdBounds) -> None:
        self._app = app
        self._bounds = bounds
        self._requests = 0
        self._streams = 0
        self._large = asyncio.Semaphore(bounds.large)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        try:
            async with self._place(scope):
                await self._app(scope, receive, send)
        except OverloadedError as error:  # only of the place: the app answers its own
            await _drain(receive)
            await problem_of(error)(scope, receive, send)

    @contextlib.asynccontextmanager
    async def _place(self, scope: Scope) -> AsyncIterator[None]:
        """Take a place for as long as the request is answered. Raises OverloadedError when there is none."""
        bounds, is_stream = self._bounds, _is_stream(scope)
        if self._requests >= bounds.requests:
            raise OverloadedError(f"{bounds.requests} requests are being answered already", retry_after_s=RETRY_AFTER_S)
        if is_stream and self._streams >= bounds.streams:
            raise OverloadedError(f"{bounds.streams} streams are open already", retry_after_s=RETRY_AFTER_S)
        self._requests += 1
        self._streams += is_stream
        try:
            if _may_be_large(scope):
                async with self._large_place():
                    yield
            else:
                yield
        finally:
            self._requests -= 1
            self._streams -= is_stream

    @contextlib.asynccontextmanager
    async def _large_place(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._bounds.large_wait_s):
                await self._large.acquire()
        except TimeoutError as error:
            what = f"{self._bounds.large} large bodies are being read already"
            raise OverloadedError(what, retry_after_s=RETRY_AFTER_S) from error
        try:
            yield
        finally:
            self._large.release()


def _is_stream(scope: Scope) -> bool:
    path: str = scope["path"]
    return path == "/api/v1/events" or (path.endswith("/logs") and b"follow" in scope["query_string"])


def _may_be_large(scope: Scope) -> bool:
    """Whether a body may be large. A message of a node is bounded where it is read: a stranger's is small."""
    headers = dict(scope["headers"])
    if scope["method"] in ("GET", "HEAD") or is_message(headers.get(b"content-type", b"").decode("latin-1")):
        return False
    length = headers.get(b"content-length", b"")
    if not length:
        return b"transfer-encoding" in headers
    return not length.isdigit() or int(length[:20]) > LARGE_BYTES


async def _drain(receive: Receive) -> None:
    """Read and drop what a client sends: many look at the answer only once they have sent everything."""
    left = DRAIN_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
