"""The one thread of a node through which requests write: what waits is grouped into one transaction.

A commit costs a flush to disk, whatever it carries, so a hundred submissions that come at once share one. Each job has
a savepoint of its own: one that is refused undoes itself alone. Nobody is answered before the commit, so an answer
means that it is on disk.

After a group of several it leaves the database to others for a moment: without that, workers find the write lock taken
whenever they look while submissions come in one after another, and what was accepted waits. The next group is the larger.

When the database itself fails in a job, the group is given up and every job is done again alone: the one that
cannot be done fails, the others do not. A job is therefore a function of the store that may be called twice. When
the commit fails, every job of the group fails with it, and is not done again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from cis.errors import FencedError, OverloadedError, PoisonRecordError, StoreError
from cis.store.port import Store

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_WAITING = 1024
MAX_GROUP = 128
GAP_S = 0.002  # longer than any pause after which a worker looks again (cis.store.sqlite.connection)


class Writer:
    """Runs jobs that write, grouped, in a thread of its own.

    Raises:
        StoreError: the store cannot be opened.
    """

    def __init__(self, open_store: Callable[[], Store], *, max_waiting: int = MAX_WAITING) -> None:
        self._max_waiting = max_waiting
        self._waiting: deque[_Job] = deque()
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

        Raises:
            OverloadedError: too many jobs wait, or the writer is closed.
        """
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                raise OverloadedError("the node is stopping", retry_after_s=5)
            if len(self._waiting) >= self._max_waiting:
                raise OverloadedError(f"{self._max_waiting} requests wait to be written already", retry_after_s=1)
            self._waiting.append(_Job(job, future))
            self._changed.notify()
        return future

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
            _do(store, [job for job in group if job.future.set_running_or_notify_cancel()])
            if len(group) > 1:
                time.sleep(GAP_S)
            del group  # what was answered may go while the next is waited for
        store.close()

    def _next_group(self) -> Sequence[_Job]:
        """Wait for jobs, and return those that wait; none when the writer is closed and all is done."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            return [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_GROUP))]


class _Job:
    """A function of the store, the future of its result, and what came of it until the commit."""

    __slots__ = ("error", "function", "future", "result")

    def __init__(self, function: Callable[[Store], Any], future: Future[Any]) -> None:
        self.function = function
        self.future = future
        self.result: Any = None
        self.error: Exception | None = None


class _DatabaseFailedError(Exception):
    """A job met a failing database: whether its transaction still stands is unknown, so it is given up."""


def _do(store: Store, group: Sequence[_Job]) -> None:
    try:
        with store.transaction():
            for job in group:
                _attempt(store, job)
    except _DatabaseFailedError as failed:
        if len(group) == 1:
            group[0].future.set_exception(failed.__cause__)
            return
        log.warning("the database failed in a group of writes; doing them one by one", extra={"jobs": len(group)})
        for job in group:
            _do(store, [job])
    except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for the answer
        for job in group:
            job.future.set_exception(error)
    else:
        for job in group:
            if job.error is not None:
                job.future.set_exception(job.error)
            else:
                job.future.set_result(job.result)


def _attempt(store: Store, job: _Job) -> None:
    job.error = None
    try:
        with store.savepoint():
            job.result = job.function(store)
    except (FencedError, PoisonRecordError) as error:
        job.error = error
    except StoreError as error:
        raise _DatabaseFailedError from error
    except Exception as error:  # noqa: BLE001 - it belongs to whoever handed the job in
        job.error = error
