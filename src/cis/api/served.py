"""A node as the API uses it: its handle, with the writes of one turn in one go, and the tokens that are let in.

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
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from cis.app.submit import Asker
from cis.app.tokens import ADMIN, OWNER_NAME
from cis.model.scope_rules import Patterns
from cis.node.cluster import Cluster
from cis.node.handle import NodeHandle
from cis.node.hub import Delivering
from cis.node.store_threads import BatchedWrites
from cis.store.access_records import TokenRecord
from cis.store.port import Store
from cis.store.records import RunRecord

MAX_BODY_BYTES = 16 * 2**20
REMEMBER_S = 5.0
MAX_REMEMBERED = 256
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rights:
    """Who asks, and what they may: some of ``read``, ``execute``, ``control``, or ``admin``, which is all.

    ``scopes`` are those in which they may: of others they see nothing (None: all).
    """

    actor: str
    may: frozenset[str]
    scopes: Patterns | None = None

    def allows(self, right: str) -> bool:
        """Whether *right* is among them."""
        return right in self.may or ADMIN in self.may

    @property
    def asker(self) -> Asker:
        """Who hands a DAG in."""
        return Asker(name=f"token {self.actor!r}", scopes=self.scopes, shares=self.actor != OWNER_NAME)


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
    """Reads the store in a thread, as ``NodeHandle.read`` does."""

    def __call__(self, function: Callable[[Store], TokenRecord | None], /) -> Awaitable[TokenRecord | None]: ...


class TokenCheck:
    """Finds the rights of a token. What the store says is remembered for ``REMEMBER_S``: a revoked one ends then."""

    def __init__(self, own: OwnToken, *, read: ReadStore, clock_s: Callable[[], float]) -> None:
        self._own = own
        self._read = read
        self._clock_s = clock_s
        self._known: OrderedDict[str, tuple[float, Rights]] = OrderedDict()

    def known(self, token: str) -> Rights | None:
        """Return what the bearer of *token* may, if that is known without asking the store."""
        digest = _digest(token)
        if self._own.matches(digest):
            return OWNER
        known = self._known.get(digest.hex())
        return known[1] if known is not None and known[0] > self._clock_s() else None

    async def stored(self, token: str) -> Rights | None:
        """Return what the store says that the bearer of *token* may, or None when nobody knows it."""
        name = _digest(token).hex()
        record = await self._read(lambda store: store.tokens.by_sha256(name))
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


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()


class ServedNode:
    """A running node, as requests use it from their event loop: its handle, and what HTTP alone wants to know.

    Writes, and wakes, of one turn of the loop go out together. *url* is where this node answers, *allowed_hosts* are
    the names, besides those of the loopback, under which requests may ask for it (``*`` is any).
    """

    def __init__(
        self,
        node: NodeHandle,
        cluster: Cluster,
        *,
        token_path: Path,
        url: str,
        allowed_hosts: frozenset[str] = frozenset(),
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self.this_node = node.this_node
        self.events = node.events
        self.logs = node.logs
        self.read = node.read
        self.stage = node.stage
        self.url = url
        self.allowed_hosts = allowed_hosts
        self.max_body_bytes = max_body_bytes
        self.answering = cluster.answering
        self._node = node
        self._cluster = cluster
        self._writes = BatchedWrites(node.writer)
        self._to_wake: set[str] = set()
        self._delivering = Delivering(cluster, read=self.read)
        self._tokens = TokenCheck(OwnToken(token_path), read=self.read, clock_s=time.monotonic)

    @property
    def node_id(self) -> str:
        """The id of this node."""
        return self.this_node.node_id

    @property
    def public_key(self) -> str:
        """This node's key, base64."""
        return self._node.keys.signer().public_key

    @property
    def matrix_user(self) -> str | None:
        """As whom this node speaks in its room, if it has one."""
        return self._cluster.matrix_user

    @property
    def alive(self) -> bool:
        """Whether writes are being taken."""
        return self._node.writer.alive

    @property
    def writes_waiting(self) -> int:
        """How many writes wait for their commit."""
        return self._node.writer.depth

    def known_rights(self, token: str) -> Rights | None:
        """Return what the bearer of *token* may, if that is known at once. Compares in constant time."""
        return self._tokens.known(token)

    async def authenticate(self, token: str) -> Rights | None:
        """Return what the bearer of a token that is not known at once may, or None when nobody knows it."""
        return await self._tokens.stored(token)

    async def send_now(self, run: RunRecord) -> RunRecord:
        """Wait a moment for a run's delivery to another node, if it can be hoped for; return the run as it is then.

        Never raises: the run is accepted, and will be delivered.
        """
        return await self._delivering.send_now(run)

    async def write(self, job: Callable[[Store], T]) -> T:
        """Call *job* inside a transaction, in the thread that writes; it is committed when this returns.

        Raises:
            OverloadedError: too many wait already.
        """
        return await self._writes.write(job)

    def wake(self, worker_ids: Collection[str]) -> None:
        """Wake workers, or whoever starts them, and whoever listens to events: once for all of a turn of the loop."""
        if worker_ids and not self._to_wake:
            asyncio.get_running_loop().call_soon(self._wake)
        self._to_wake.update(worker_ids)

    def _wake(self) -> None:
        to_wake, self._to_wake = self._to_wake, set()
        self._node.wake(to_wake)
