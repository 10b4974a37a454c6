"""The one handle of a running node: all that HTTP and the transports use of it, from their event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from cis.engine.logfiles import LogFiles
from cis.engine.this_node import ThisNode
from cis.node.hub import EventHub
from cis.node.identity import KeyFile
from cis.node.store_threads import Readers, Writer
from cis.store.port import Store

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHandle:
    """A running node; usable from the event loop of any thread. Whoever made its threads closes them.

    *writer*, *readers* and *stager* are the threads that write, read, and store what is large before it is accepted;
    *woken* takes the ids of the workers that have something to do.
    """

    this_node: ThisNode
    events: EventHub
    logs: LogFiles
    keys: KeyFile
    writer: Writer
    readers: Readers
    stager: Readers
    woken: Callable[[Iterable[str]], None]

    async def read(self, function: Callable[[Store], T]) -> T:
        """Call *function* with a store, in a thread that reads."""
        return await asyncio.wrap_future(self.readers.submit(function))

    async def write(self, job: Callable[[Store], T]) -> T:
        """Call *job* inside a transaction; it is committed when this returns.

        Raises:
            OverloadedError: too many wait already.
        """
        return await asyncio.wrap_future(self.writer.submit(job))

    async def stage(self, function: Callable[[Store], T]) -> T:
        """Call *function* with a store, in the one thread that stores what is large before it is accepted.

        Raises:
            OverloadedError: too many wait already.
        """
        return await asyncio.wrap_future(self.stager.submit(function))

    def wake(self, worker_ids: Iterable[str] = ()) -> None:
        """Have everybody look at what was stored: the supervisor, these workers, and whoever listens."""
        self.woken(worker_ids)
