"""The node as transports use it; all of it may be called from the event loop that they run in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from cis.engine.logfiles import LogFiles
from cis.engine.this_node import ThisNode
from cis.store.port import Store
from cis.transports.keys import Signer

T = TypeVar("T")


class Keys(Protocol):
    """The node's keys."""

    def signer(self) -> Signer:
        """Return the node's key, as it is now."""
        ...


class NodePort(Protocol):
    """What a transport needs of its node."""

    @property
    def this_node(self) -> ThisNode: ...

    @property
    def logs(self) -> LogFiles: ...

    @property
    def keys(self) -> Keys: ...

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
