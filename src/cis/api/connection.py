"""A connection that keeps nobody waiting: it is closed when its client is too slow to say what it wants, or to be told.

The server has a limit for a connection that is kept open without a word, but none for one on which a request
comes byte by byte, on which a body goes on after the answer, or whose client reads nothing of it. Each costs a
descriptor, of which a node has not many, and what is not read costs memory. Answers are written in parts of 64 KiB
(``cis.api.gate``), so a client that reads at all, however slowly, makes room for the next part in time.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_WITHIN_S = 10.0
READ_WITHIN_S = 60.0


class PatientConnection(H11Protocol):
    """Closes a connection whose client keeps the node waiting.

    Its next request is not there, or its answered one is not over, after ``REQUEST_WITHIN_S``; or nothing more could be
    written to it for ``READ_WITHIN_S``.
    """

    _deadline: asyncio.TimerHandle | None = None
    _read_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as the server has it
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take in what came, and see whether a request is whole."""
        super().data_received(data)
        self._watch()

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
        theirs, ours = self.conn.their_state, self.conn.our_state
        answered = ours in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED)
        if theirs is h11.IDLE or (theirs is h11.SEND_BODY and answered):
            if self._deadline is None:
                self._deadline = self.loop.call_later(REQUEST_WITHIN_S, self._give_up)
        else:
            self._forget()

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _forget_reading(self) -> None:
        if self._read_deadline is not None:
            self._read_deadline.cancel()
            self._read_deadline = None

    def _give_up(self, *_: Any) -> None:
        self._deadline = None
        self.transport.abort()
