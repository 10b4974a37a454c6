"""A node's handle without threads: what transports are given, over one store, in the thread that asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from cis.engine.logfiles import LogFiles
from cis.engine.this_node import ThisNode
from cis.store.port import Store
from cis.transports.envelope import Keys
from cis.transports.keys import Signer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OneKey:
    """A key that stays."""

    key: Signer

    def signer(self) -> Signer:
        return self.key


@dataclass(slots=True)
class DirectHandle:
    """Reads and writes at once; a write that raises leaves nothing, as with the node's writer."""

    this_node: ThisNode
    logs: LogFiles
    keys: Keys
    store: Store
    woken: set[str] = field(default_factory=set)

    async def read(self, function: Callable[[Store], T]) -> T:
        return function(self.store)

    async def write(self, job: Callable[[Store], T]) -> T:
        with self.store.transaction(), self.store.savepoint():
            return job(self.store)

    def wake(self, worker_ids: Iterable[str] = ()) -> None:
        self.woken.update(worker_ids)
