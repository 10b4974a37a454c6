"""The threads of a node in which requests read: each has a store of its own, opened when first needed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from cis.store.port import Store

T = TypeVar("T")

DEFAULT_THREADS = 4


class Readers:
    """Runs functions that read the store, a few at a time."""

    def __init__(self, open_store: Callable[[], Store], *, threads: int = DEFAULT_THREADS) -> None:
        self._open_store = open_store
        self._mine = threading.local()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="reader")

    def submit(self, function: Callable[[Store], T]) -> Future[T]:
        """Have *function* called with a store in one of the threads."""
        return self._pool.submit(self._call, function)

    def close(self) -> None:
        """Finish what was handed in, then stop."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _call(self, function: Callable[[Store], T]) -> T:
        store: Store | None = getattr(self._mine, "store", None)
        if store is None:
            store = self._mine.store = self._open_store()
        return function(store)
