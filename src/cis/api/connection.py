"""Bounds on connections: how slow a client may be, and how much may come besides the bodies of requests.

The server bounds the time of a connection that is kept open without a word, but not of one on which a request comes byte
by byte, on which a body goes on after the answer, or whose client reads nothing of it. Each costs a descriptor, and what
is not read costs memory. Answers are written in parts of 64 KiB (``cis.api.gate``), so a client that reads at all,
however slowly, makes room for the next part in time.

When no connection can be accepted, one line says so: asyncio tries again a second later by itself.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from cis.engine.shortage import shortage_of

log = logging.getLogger(__name__)

REQUEST_WITHIN_S = 10.0
READ_WITHIN_S = 60.0
MAX_HEAD_BYTES = 64 * 2**10
MAX_PIPELINED = 100
_BAD_REQUEST = "Invalid HTTP request received."


class TimedConnection(HttpToolsProtocol):
    """Closes a connection whose client keeps the node waiting, and bounds what it may send besides bodies.

    Its next request is not there, or its answered one is not over, after ``REQUEST_WITHIN_S``; or nothing more could be
    written to it for ``READ_WITHIN_S``. The head of a request, and what follows a body, have about ``MAX_HEAD_BYTES``. A
    head names one host. A header after the body stands for nothing: who asks was looked at before.
    """

    _timer: asyncio.TimerHandle | None = None
    _give_up_s: float | None = None  # when, by the loop's clock; one timer for a connection, not one for each request
    _read_deadline: asyncio.TimerHandle | None = None
    _in_head = False
    _since_body_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as the server has it
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take in what came, and see whether a request is whole."""
        self._since_body_bytes += len(data)
        super().data_received(data)
        if self._since_body_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(_BAD_REQUEST)
        self._watch()

    def on_message_begin(self) -> None:
        """Begin with a head."""
        super().on_message_begin()
        self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take in a header."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Take in a head. What is raised here is answered with 400, and the connection is closed."""
        self._in_head = False
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (not hosts and self.parser.get_http_version() == "1.1"):
            raise ValueError("a request must name one host")
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests at once")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take in a part of a body."""
        self._since_body_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """See that a request is whole."""
        self._since_body_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Begin to wait for the rest of the request, or for the next one."""
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """Begin to wait for the client to read."""
        super().pause_writing()
        if self._read_deadline is None:
            self._read_deadline = self.loop.call_later(READ_WITHIN_S, self._give_up)

    def resume_writing(self) -> None:
        """Go on: it has read."""
        self._forget_reading()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._forget()
        self._forget_reading()
        super().connection_lost(exc)

    def _watch(self) -> None:
        newest: RequestResponseCycle | None = self.cycle
        if newest is not None and not newest.response_complete:
            self._give_up_s = None
        elif self._give_up_s is None:
            self._give_up_s = self.loop.time() + REQUEST_WITHIN_S
            if self._timer is None:
                self._timer = self.loop.call_at(self._give_up_s, self._look_at_clock)

    def _look_at_clock(self) -> None:
        self._timer = None
        if self._give_up_s is None:
            return
        if self._give_up_s <= self.loop.time():
            self._give_up()
        else:
            self._timer = self.loop.call_at(self._give_up_s, self._look_at_clock)

    def _forget(self) -> None:
        self._give_up_s = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _forget_reading(self) -> None:
        if self._read_deadline is not None:
            self._read_deadline.cancel()
            self._read_deadline = None

    def _give_up(self) -> None:
        self._forget()
        self.transport.abort()


def say_in_few_words(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Be the loop's handler of what nobody caught; all but a shortage of the machine goes the usual way."""
    short_of = shortage_of(context.get("exception"))
    if short_of is None:
        loop.default_exception_handler(context)
    else:
        log.warning("a connection could not be accepted; it is tried again", extra={"short_of": short_of})
