"""A connection that keeps nobody waiting, and keeps nothing that has no end.

It is closed when its client takes too long to say what it wants. The server has a limit for a connection that is kept open
without a word, but none for one on which a request comes byte by byte, or on which a body goes on after the answer. Each
costs a descriptor, and a node has not many.

Nor has it a limit for what stands before a body and after it. What is read of those is kept until the request is whole, so
more than ``MAX_HEAD_BYTES`` is refused.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

REQUEST_WITHIN_S = 10.0
MAX_HEAD_BYTES = 64 * 2**10


class PatientConnection(HttpToolsProtocol):
    """Closes a connection whose next request is not there, or whose answered one is not over, after ``REQUEST_WITHIN_S``."""

    _deadline: asyncio.TimerHandle | None = None
    _head_bytes = 0  # of the line, the headers and the trailers of the request that comes
    _unread_bytes = 0  # that came since the parser last made something of any

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as the server has it
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take in what came, and see whether a request is whole."""
        self._unread_bytes += len(data)
        super().data_received(data)
        if self._unread_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("Invalid HTTP request received.")
        self._watch()

    def on_message_begin(self) -> None:
        """Begin to count."""
        self._head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Take a part of the first line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a trailer."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """Take a part of the body, which has a limit of its own (``cis.api.body``)."""
        self._unread_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Take the end of a request."""
        self._unread_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Begin to wait for the rest of the request, or for the next one."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._forget()
        super().connection_lost(exc)

    def _count(self, size: int) -> None:
        self._unread_bytes = 0
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError("the head of a request is too long")  # which the parser makes a bad request

    def _watch(self) -> None:
        # None before the first request, whatever its type says.
        if self.cycle is not None and not self.cycle.response_complete:  # type: ignore[redundant-expr]
            self._forget()  # it is for the node to say something
        elif self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_WITHIN_S, self._give_up)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self, *_: Any) -> None:
        self._deadline = None
        self.transport.abort()
