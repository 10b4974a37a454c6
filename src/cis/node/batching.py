"""Writes of an event loop, gathered: what one turn of it hands in crosses to the writer at once, and so do the results.

Each crossing from one thread to another costs a wake-up, and while both are at work they take the interpreter's lock from
each other at every call of SQLite: with eight clients, twenty calls of ``futex`` for each submission that crossed alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from cis.node.writer import Job, Writer
from cis.store.port import Store

T = TypeVar("T")


class BatchedWrites:
    """Hands jobs to *writer*, from one event loop at a time."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._jobs: list[Job] = []
        self._results: _Results | None = None

    async def write(self, job: Callable[[Store], T]) -> T:
        """Have *job* done inside a transaction, and return its result once that is committed.

        Raises:
            OverloadedError: too many jobs wait, or the writer is closed.
        """
        result: T = await self._gathered(job)
        return result

    def _gathered(self, job: Callable[[Store], Any]) -> asyncio.Future[Any]:
        # Not in ``write``: an error would keep its frame, and with a name in that for what holds the error, all of it.
        if self._results is None:
            loop = asyncio.get_running_loop()
            self._results = _Results(loop)
            loop.call_soon(self._hand_over)
        awaited = self._results.awaited()
        self._jobs.append(Job(job, awaited))
        return awaited.future

    def _hand_over(self) -> None:
        jobs, self._jobs, self._results = self._jobs, [], None
        self._writer.take(jobs)


class _Results:
    """What comes of the jobs of one turn, on its way back to *loop*."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._settled: deque[_Awaited] = deque()
        self._told = False

    def awaited(self) -> _Awaited:
        """Return the place of one more result."""
        return _Awaited(self._loop.create_future(), give_back=self._add)

    def _add(self, awaited: _Awaited) -> None:
        """Have the loop told of a result, together with those that follow at once. From any thread."""
        self._settled.append(awaited)
        if not self._told:
            self._told = True
            with suppress(RuntimeError):  # the loop is closed, and nobody waits
                self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._told = False  # before looking: what is settled from here on may not be seen
        while self._settled:
            self._settled.popleft().tell()


class _Awaited:
    """An ``Outcome`` that is kept until the loop has its turn."""

    __slots__ = ("_error", "_give_back", "_result", "future")

    def __init__(self, future: asyncio.Future[Any], *, give_back: Callable[[_Awaited], None]) -> None:
        self.future = future
        self._give_back = give_back
        self._result: Any = None
        self._error: BaseException | None = None

    def set_running_or_notify_cancel(self) -> bool:
        return not self.future.cancelled()  # of another thread's loop: one that is cancelled this very moment is done

    def set_result(self, result: Any) -> None:
        self._result = result
        self._give_back(self)

    def set_exception(self, exception: BaseException | None) -> None:
        self._error = exception
        self._give_back(self)

    def tell(self) -> None:
        if self.future.done():
            return  # whoever waited has gone
        if self._error is not None:
            self.future.set_exception(self._error)
        else:
            self.future.set_result(self._result)
