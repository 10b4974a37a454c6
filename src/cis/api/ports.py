"""What the API needs of the node that it speaks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from cis.app.submit import Asker
from cis.app.tokens import ADMIN, OWNER_NAME
from cis.engine.logfiles import LogFiles
from cis.engine.this_node import Site
from cis.model.scope_rules import Patterns
from cis.node.hub import EventHub
from cis.store.port import Store
from cis.store.records import RunRecord
from cis.transports.asking import Answering

T = TypeVar("T")

MAX_BODY_BYTES = 16 * 2**20


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


class NodeServices(Protocol):
    """A running node, as requests use it. All of it may be called from the event loop."""

    @property
    def node_id(self) -> str: ...

    @property
    def url(self) -> str:
        """Where this node answers, as in ``http://127.0.0.1:6767``."""
        ...

    @property
    def public_key(self) -> str:
        """This node's key, base64."""
        ...

    @property
    def matrix_user(self) -> str | None:
        """As whom this node speaks in its room, if it has one."""
        ...

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """The names, besides those of the loopback, under which requests may ask for this node; ``*`` is any."""
        ...

    @property
    def max_body_bytes(self) -> int: ...

    @property
    def site(self) -> Site: ...

    @property
    def hub(self) -> EventHub: ...

    @property
    def logfiles(self) -> LogFiles: ...

    @property
    def answering(self) -> Answering:
        """Takes in what other nodes say."""
        ...

    async def expedite(self, run: RunRecord) -> RunRecord:
        """Wait a moment for a run's delivery to another node, if it can be hoped for; return the run as it is then.

        Never raises: the run is accepted, and will be delivered.
        """
        ...

    @property
    def alive(self) -> bool:
        """Whether writes are being taken."""
        ...

    @property
    def writes_waiting(self) -> int:
        """How many writes wait for their commit."""
        ...

    async def authenticate(self, token: str) -> Rights | None:
        """Return what the bearer of *token* may, or None when nobody knows it. Compares in constant time."""
        ...

    async def read(self, function: Callable[[Store], T]) -> T:
        """Call *function* with a store, in a thread that reads."""
        ...

    async def write(self, job: Callable[[Store], T]) -> T:
        """Call *job* inside a transaction, in the thread that writes, and return once that is committed.

        Raises:
            OverloadedError: too many wait already.
        """
        ...

    async def stage(self, function: Callable[[Store], T]) -> T:
        """Call *function* with a store, in the one thread that stores what is large before it is accepted.

        Raises:
            OverloadedError: too many wait already.
        """
        ...

    def poke(self, *worker_ids: str) -> None:
        """Have workers, or whoever starts them, look at what was stored."""
        ...
