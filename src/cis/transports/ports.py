"""The node as transports use it; all of it may be called from the event loop that they run in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from cis.engine.logfiles import LogFiles
from cis.engine.this_node import Site
from cis.store.port import Store
from cis.transports.keys import Signer

T = TypeVar("T")


class Desk(Protocol):
    """What a transport needs of its node."""

    @property
    def site(self) -> Site: ...

    @property
    def logfiles(self) -> LogFiles: ...

    @property
    def signer(self) -> Signer:
        """The node's key, as it is now."""
        ...

    async def read(self, function: Callable[[Store], T]) -> T:
        """Call *function* with a store, in a thread that reads."""
        ...

    async def write(self, job: Callable[[Store], T]) -> T:
        """Call *job* inside a transaction, and return once that is committed.

        Raises:
            OverloadedError: too many wait already.
        """
        ...

    def wake(self, worker_ids: Iterable[str] = ()) -> None:
        """Have everybody look at what was stored: the supervisor, these workers, and whoever listens."""
        ...
