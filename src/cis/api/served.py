"""A node as the API uses it: awaitables in front of the threads that read and write, and the tokens that are let in.

A bearer's token is the node's own, in a file, or one of those in the store. Only hashes are compared. The hash of what
the caller sent reveals nothing about the hash that is sought, and the comparison takes the same time wherever they
differ.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from cis.api.ports import MAX_BODY_BYTES, Rights
from cis.app.tokens import ADMIN, OWNER_NAME
from cis.engine.logfiles import LogFiles
from cis.engine.this_node import Site
from cis.node.cluster import Cluster
from cis.node.hub import Delivering, EventHub
from cis.node.store_threads import BatchedWrites, Readers, Writer
from cis.store.port import Store
from cis.store.records import RunRecord, TokenRecord
from cis.transports.asking import Answering

REMEMBER_S = 5.0
MAX_REMEMBERED = 256
OWNER = Rights(OWNER_NAME, frozenset({ADMIN}))


class OwnToken:
    """The token in the node's own file, read again whenever the file changed, so that rotating it needs no restart."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._digest = b""

    def matches(self, digest: bytes) -> bool:
        """Whether *digest* is that of the token; never when there is no token."""
        self._refresh()
        return bool(self._digest) and hmac.compare_digest(digest, self._digest)

    def _refresh(self) -> None:
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
            if stamp == self._stamp:
                return
            token = self._path.read_text().strip()
        except (OSError, UnicodeDecodeError):
            self._stamp, self._digest = None, b""
            return
        self._stamp = stamp
        self._digest = hashlib.sha256(token.encode()).digest() if token else b""


class ReadStore(Protocol):
    """Reads the store in a thread, as ``NodeServices.read`` does."""

    def __call__(self, function: Callable[[Store], TokenRecord | None], /) -> Awaitable[TokenRecord | None]: ...


class TokenCheck:
    """Finds the rights of a token. What the store says is remembered for ``REMEMBER_S``: a revoked one ends then."""

    def __init__(self, own: OwnToken, *, read: ReadStore, clock_s: Callable[[], float]) -> None:
        self._own = own
        self._read = read
        self._clock_s = clock_s
        self._known: OrderedDict[str, tuple[float, Rights]] = OrderedDict()

    async def rights(self, token: str) -> Rights | None:
        """Return what the bearer of *token* may, or None when nobody knows it."""
        digest = hashlib.sha256(token.encode(errors="replace"))
        if self._own.matches(digest.digest()):
            return OWNER
        name = digest.hexdigest()
        known = self._known.get(name)
        if known is not None and known[0] > self._clock_s():
            return known[1]
        record = await self._read(lambda store: store.token_by_sha256(name))
        self._known.pop(name, None)
        if record is None or not hmac.compare_digest(record.sha256, name):
            return None
        # One of that name was made before it was kept for the node's own token; it gets none of what that is spared.
        actor = f"{OWNER_NAME} (a token)" if record.name == OWNER_NAME else record.name
        rights = Rights(actor, frozenset(record.may), record.scopes)
        self._known[name] = (self._clock_s() + REMEMBER_S, rights)
        while len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        return rights


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

    def poke(self, *worker_ids: str) -> None:
        """Wake workers, or whoever starts them, and whoever listens to events: once for all pokes of a turn of the loop."""
        if not self._poked:
            asyncio.get_running_loop().call_soon(self._wake)
        self._poked.update(worker_ids)

    def _wake(self) -> None:
        poked, self._poked = self._poked, set()
        self._parts.wake(poked)
