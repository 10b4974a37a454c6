"""A node as its transports use it: threads that read and write behind awaitables, its key, and who is to be woken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from cis.engine.logfiles import LogFiles
from cis.engine.site import Site
from cis.node.keyfile import KeyFile
from cis.node.readers import Readers
from cis.node.writer import Writer
from cis.store.port import Store
from cis.transports.keys import Signer

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDesk:
    """The ``Desk`` of a node; usable from the event loop of any thread. *woken* takes the worker ids."""

    site: Site
    logfiles: LogFiles
    writer: Writer
    readers: Readers
    keys: KeyFile
    woken: Callable[[Iterable[str]], None]

    @property
    def signer(self) -> Signer:
        """The node's key, as the file has it now."""
        return self.keys.signer()

    async def read(self, function: Callable[[Store], T]) -> T:
        """Call *function* with a store, in a thread that reads."""
        return await asyncio.wrap_future(self.readers.submit(function))

    async def write(self, job: Callable[[Store], T]) -> T:
        """Call *job* inside a transaction; it is committed when this returns."""
        return await asyncio.wrap_future(self.writer.submit(job))

    def wake(self, worker_ids: Iterable[str] = ()) -> None:
        """Have everybody look at what was stored."""
        self.woken(worker_ids)
