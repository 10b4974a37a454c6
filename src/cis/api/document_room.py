"""How many bytes of documents are read into memory at once: a document of 16 MiB becomes twenty times as much.

Whoever has one waits for its turn, in the order of coming, until what it is made into is stored. Small ones do not wait
behind large ones: each kind has a room of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator

from cis.errors import OverloadedError

MAX_DOCUMENT_BYTES = 16 * 2**20
DOCUMENT_WAIT_S = 60.0
RETRY_AFTER_S = 5
_SMALL_BYTES = 256 * 2**10
_NO_MATTER_BYTES = 16 * 2**10


class DocumentRooms:
    """A room for large documents and one for small ones, for one event loop."""

    def __init__(self, *, capacity: int = MAX_DOCUMENT_BYTES, wait_s: float = DOCUMENT_WAIT_S) -> None:
        self._small = _Room(capacity, wait_s=wait_s)
        self._large = _Room(capacity, wait_s=wait_s)

    @contextlib.asynccontextmanager
    async def room_for(self, size: int) -> AsyncIterator[None]:
        """Hold room for a document of *size* bytes. Raises OverloadedError when there is none for too long."""
        if size <= _NO_MATTER_BYTES:
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
