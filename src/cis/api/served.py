"""A node as the API uses it: threads that read and write behind awaitables, and the tokens that are let in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cis.api.ports import MAX_BODY_BYTES, Rights
from cis.api.tokens import OwnToken, TokenCheck
from cis.engine.logfiles import LogFiles
from cis.engine.site import Site
from cis.node.batching import BatchedWrites
from cis.node.cluster import Cluster
from cis.node.delivery import Delivering
from cis.node.hub import EventHub
from cis.node.readers import Readers
from cis.node.writer import Writer
from cis.store.port import Store
from cis.store.records import RunRecord
from cis.transports.answering import Answering

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedParts:
    """What a served node is made of; whoever made the threads closes them."""

    site: Site
    writer: Writer
    readers: Readers
    stager: Readers
    hub: EventHub
    logfiles: LogFiles
    cluster: Cluster
    token_path: Path
    wake: Callable[[Iterable[str]], None]
    url: str
    allowed_hosts: frozenset[str] = frozenset()
    max_body_bytes: int = MAX_BODY_BYTES


class ServedNode:
    """The ``NodeServices`` of a node in this process."""

    def __init__(self, parts: ServedParts) -> None:
        self._parts = parts
        self._writes = BatchedWrites(parts.writer)
        self._poked: set[str] = set()
        self._delivering = Delivering(parts.cluster, read=self.read)
        self._tokens = TokenCheck(OwnToken(parts.token_path), read=self.read, clock_s=time.monotonic)

    @property
    def node_id(self) -> str:
        """The id of this node."""
        return self._parts.site.node_id

    @property
    def url(self) -> str:
        """Where this node answers."""
        return self._parts.url

    @property
    def public_key(self) -> str:
        """This node's key, base64."""
        return self._parts.cluster.public_key

    @property
    def matrix_user(self) -> str | None:
        """As whom this node speaks in its room."""
        return self._parts.cluster.matrix_user

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """Names under which requests may ask for this node."""
        return self._parts.allowed_hosts

    @property
    def max_body_bytes(self) -> int:
        """The largest body that is read."""
        return self._parts.max_body_bytes

    @property
    def site(self) -> Site:
        """Where submissions happen."""
        return self._parts.site

    @property
    def hub(self) -> EventHub:
        """The events of this node."""
        return self._parts.hub

    @property
    def logfiles(self) -> LogFiles:
        """Where the logs of tasks lie."""
        return self._parts.logfiles

    @property
    def answering(self) -> Answering:
        """Takes in what other nodes say."""
        return self._parts.cluster.answering

    async def expedite(self, run: RunRecord) -> RunRecord:
        """Wait a moment for a run's delivery to another node."""
        return await self._delivering.expedite(run)

    @property
    def alive(self) -> bool:
        """Whether writes are being taken."""
        return self._parts.writer.alive

    @property
    def writes_waiting(self) -> int:
        """How many writes wait for their commit."""
        return self._parts.writer.depth

    async def authenticate(self, token: str) -> Rights | None:
        """Return what the bearer of *token* may."""
        return await self._tokens.rights(token)

    async def read(self, function: Callable[[Store], T]) -> T:
        """Call *function* with a store, in a thread that reads."""
        return await asyncio.wrap_future(self._parts.readers.submit(function))

    async def write(self, job: Callable[[Store], T]) -> T:
        """Call *job* inside a transaction; it is committed when this returns."""
        return await self._writes.write(job)

    async def stage(self, function: Callable[[Store], T]) -> T:
        """Call *function* with a store, in the one thread that stores what is large before it is accepted."""
        return await asyncio.wrap_future(self._parts.stager.submit(function))

    def poke(self, worker_id: str) -> None:
        """Wake a worker, or whoever starts one, and whoever listens to events: once for all pokes of a turn of the loop."""
        if not self._poked:
            asyncio.get_running_loop().call_soon(self._wake)
        self._poked.add(worker_id)

    def _wake(self) -> None:
        poked, self._poked = self._poked, set()
        self._parts.wake(poked)
