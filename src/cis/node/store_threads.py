"""The threads of a node that use its store: one through which requests write, and a few in which they read.

**Writing.** What waits is grouped into one transaction: a commit costs a flush to disk, whatever it carries, so a
hundred submissions that come at once share one. Each job has a savepoint of its own: one that is refused undoes itself
alone. Nobody is answered before the commit, so an answer means that it is on disk.

A transaction takes no further job on once it has taken ``GROUP_S``; the others go into the next. After a group of
several the writer lets others in (``Store.let_others_in``): without that, workers find the database taken whenever
they look while submissions come in one after another, and what was accepted waits. The next group is the larger.

When the database itself fails in a job, the group is given up and every job is done again alone: the one that cannot be
done fails, the others do not. A job is therefore a function of the store that may be called twice. When the commit
fails, every job of the group fails with it, and is not done again.

**From an event loop** (``BatchedWrites``), all writes of one turn cross to the writer at once, and so do the results.
Each crossing costs a wake-up, and while both threads are at work they take the interpreter's lock from each other at
every call of SQLite: with eight clients, twenty calls of ``futex`` for each submission that crossed alone.

**Reading** (``Readers``) is done in a few threads; each has a store of its own, opened when first needed.

What waits for either is bounded: a node whose disk is slow says so instead of remembering more and more.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from cis.errors import FencedError, OverloadedError, PoisonRecordError, StoreError
from cis.store.port import Store

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_WAITING = 1024
MAX_GROUP = 128
GROUP_S = 0.05  # after so long a transaction takes no further job on: it may hold up all others

DEFAULT_THREADS = 4
MAX_READS_WAITING = 2048  # every request that is answered at once may read, and the node itself besides


class Outcome(Protocol):
    """Where the result of a job goes; a ``concurrent.futures.Future`` is one."""

    def set_running_or_notify_cancel(self) -> bool:
        """Whether the result is still waited for; asked once, before the job is done."""
        ...

    def set_result(self, result: Any, /) -> None: ...

    def set_exception(self, exception: BaseException | None, /) -> None: ...


class Job:
    """A function of the store, where its result goes, and what came of it until the commit."""

    __slots__ = ("error", "function", "outcome", "result")

    def __init__(self, function: Callable[[Store], Any], outcome: Outcome) -> None:
        self.function = function
        self.outcome = outcome
        self.result: Any = None
        self.error: Exception | None = None


class Writer:
    """Runs jobs that write, grouped, in a thread of its own.

    Raises:
        StoreError: the store cannot be opened.
    """

    def __init__(self, open_store: Callable[[], Store], *, max_waiting: int = MAX_WAITING) -> None:
        self._max_waiting = max_waiting
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._serve, args=(open_store, opened), name="writer", daemon=True)
        self._thread.start()
        opened.result()

    @property
    def alive(self) -> bool:
        """Whether jobs are being taken and done."""
        return not self._closed and self._thread.is_alive()

    @property
    def depth(self) -> int:
        """How many jobs wait to be done."""
        return len(self._waiting)

    def submit(self, job: Callable[[Store], T]) -> Future[T]:
        """Have *job* done inside a transaction; its result, or what it raised, comes after the commit.

        The future raises OverloadedError when too many jobs wait, or the writer is closed.
        """
        future: Future[T] = Future()
        self.take([Job(job, future)])
        return future

    def take(self, jobs: Sequence[Job]) -> None:
        """Have *jobs* done, together where possible; those for which there is no room are refused."""
        with self._changed:
            closed = self._closed
            room = 0 if closed else max(0, self._max_waiting - len(self._waiting))
            self._waiting.extend(jobs[:room])
            self._changed.notify()
        for job in jobs[room:]:
            job.outcome.set_exception(
                OverloadedError("the node is stopping", retry_after_s=5)
                if closed
                else OverloadedError(f"{self._max_waiting} requests wait to be written already", retry_after_s=1)
            )

    def close(self) -> None:
        """Do what waits, then stop. Harmless when repeated."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _serve(self, open_store: Callable[[], Store], opened: Future[None]) -> None:
        try:
            store = open_store()
        except BaseException as error:  # noqa: BLE001 - it is raised again where the writer is made
            opened.set_exception(error)
            return
        opened.set_result(None)
        while group := self._next_group():
            left: Sequence[Job] = [job for job in group if job.outcome.set_running_or_notify_cancel()]
            while left:
                left = _do(store, left)
                if len(group) > 1:
                    store.let_others_in()
            del group  # what was answered may go while the next is waited for
        store.close()

    def _next_group(self) -> Sequence[Job]:
        """Wait for jobs, and return those that wait; none when the writer is closed and all is done."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            return [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_GROUP))]


class _DatabaseFailedError(Exception):
    """A job met a failing database: whether its transaction still stands is unknown, so it is given up."""


def _do(store: Store, group: Sequence[Job]) -> Sequence[Job]:
    """Do jobs in one transaction, for as long as it may take; return those that are left for the next."""
    done = 0
    try:
        with store.transaction():
            store.upkeep.check_current()  # what a newer program does not expect is not written beside it
            until_s = time.monotonic() + GROUP_S
            for job in group:
                _attempt(store, job)
                done += 1
                if time.monotonic() >= until_s:
                    break
    except _DatabaseFailedError as failed:
        if len(group) == 1:
            group[0].outcome.set_exception(failed.__cause__)
            return ()
        log.warning("the database failed in a group of writes; doing them one by one", extra={"jobs": len(group)})
        for job in group:
            _do(store, [job])
        return ()
    except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for the answer
        tried = group[:done] or group
        for job in tried:
            job.outcome.set_exception(error)
        return group[len(tried) :]
    for job in group[:done]:
        if job.error is not None:
            job.outcome.set_exception(job.error)
        else:
            job.outcome.set_result(job.result)
    return group[done:]


def _attempt(store: Store, job: Job) -> None:
    job.error = None
    try:
        with store.savepoint():
            job.result = job.function(store)
    except (FencedError, PoisonRecordError) as error:
        job.error = error
    except StoreError as error:
        raise _DatabaseFailedError from error
    except StopIteration as error:  # a future does not take one
        job.error = RuntimeError("a job let a StopIteration out")
        job.error.__cause__ = error
    except Exception as error:  # noqa: BLE001 - it belongs to whoever handed the job in
        job.error = error


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


class Readers:
    """Runs functions that read the store, a few at a time."""

    def __init__(
        self, open_store: Callable[[], Store], *, threads: int = DEFAULT_THREADS, max_waiting: int = MAX_READS_WAITING
    ) -> None:
        self._open_store = open_store
        self._places = threading.BoundedSemaphore(threads + max_waiting)
        self._max_waiting = max_waiting
        self._mine = threading.local()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="reader")

    def submit(self, function: Callable[[Store], T]) -> Future[T]:
        """Have *function* called with a store in one of the threads.

        Raises:
            OverloadedError: too many wait already, or the readers are closed.
        """
        if not self._places.acquire(blocking=False):
            raise OverloadedError(f"{self._max_waiting} requests wait to be read for already", retry_after_s=1)
        try:
            future = self._pool.submit(self._call, function)
        except RuntimeError as error:
            self._places.release()
            raise OverloadedError("the node is stopping", retry_after_s=5) from error
        future.add_done_callback(lambda _: self._places.release())
        return future

    def close(self) -> None:
        """Finish what was handed in, then stop."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _call(self, function: Callable[[Store], T]) -> T:
        store: Store | None = getattr(self._mine, "store", None)
        if store is None:
            store = self._mine.store = self._open_store()
        return function(store)
