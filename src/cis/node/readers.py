"""The threads of a node in which requests read: each has a store of its own, opened when first needed.

What waits for them is bounded, as it is for the writer: a node whose disk is slow says so instead of remembering more and
more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from cis.errors import OverloadedError
from cis.store.port import Store

T = TypeVar("T")

DEFAULT_THREADS = 4
MAX_WAITING = 2048  # every request that is answered at once may read, and the node itself besides


class Readers:
    """Runs functions that read the store, a few at a time."""

    def __init__(
        self, open_store: Callable[[], Store], *, threads: int = DEFAULT_THREADS, max_waiting: int = MAX_WAITING
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
