"""Bounds on requests: how many are answered at once, and whose they are (``cis.api.connection`` bounds connections).

Each request costs memory and a connection, a stream for as long as its client likes, a body or an answer its size. So
there are places, and each bound is of something else:

    strangers      who is not known yet: a token that is looked up, a message whose signature is not checked. There are
                   few of these places, and whoever has waited in one for longest makes room for who comes, so that
                   strangers fill them only from each other.
    requests       those whose sender is known; one token or peer has a share of them, the node's own token any number
    streams        answers that go on for a while; a share of them, likewise
    large bodies   bodies, and answers, that are held whole: few at once, and one more waits for a while

Who is known pays with places of its own, and never waits behind who is not. The probes are answered always: whoever
minds this node has to see that it lives.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from types import TracebackType

from starlette.requests import Request
from starlette.types import Receive, Scope

from cis.api.body import DocumentRooms
from cis.errors import OverloadedError, ShareExceededError

MAX_REQUESTS = 1024
MAX_REQUESTS_OF_ONE = 256
MAX_STREAMS = 256
MAX_STREAMS_OF_ONE = 64
MAX_STRANGERS = 128
MAX_LARGE = 16
MAX_LARGE_OF_ONE = 4
LARGE_BYTES = 256 * 2**10
LARGE_WAIT_S = 30.0
DRAIN_BYTES = 64 * 2**20
DRAIN_S = 10.0
RETRY_AFTER_S = 2
OWNER = "owner"
_ANY = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestBounds:
    """How many of each kind there may be at once, of one token or peer and in all; how long what is large waits."""

    requests: int = MAX_REQUESTS
    requests_of_one: int = MAX_REQUESTS_OF_ONE
    streams: int = MAX_STREAMS
    streams_of_one: int = MAX_STREAMS_OF_ONE
    strangers: int = MAX_STRANGERS
    large: int = MAX_LARGE
    large_of_one: int = MAX_LARGE_OF_ONE
    large_wait_s: float = LARGE_WAIT_S


class RequestLimits:
    """Gives out places. For one event loop."""

    def __init__(self, bounds: RequestBounds) -> None:
        self.bounds = bounds
        self._requests = _Places("requests are being answered", most=bounds.requests, of_one=bounds.requests_of_one)
        self._streams = _Places("streams are open", most=bounds.streams, of_one=bounds.streams_of_one)
        self._large = _WaitingPlaces(most=bounds.large, of_one=bounds.large_of_one, wait_s=bounds.large_wait_s)
        self._documents = DocumentRooms()
        self._strangers: dict[asyncio.Timeout, None] = {}

    @contextlib.asynccontextmanager
    async def stranger(self) -> AsyncIterator[None]:
        """Hold a place of those who are not known yet.

        Raises:
            OverloadedError: it had to be given up, to one who came later.
        """
        while len(self._strangers) >= self.bounds.strangers:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.reschedule(0.0)
        place = asyncio.timeout(None)
        try:
            async with place:
                self._strangers[place] = None
                try:
                    yield
                finally:
                    self._strangers.pop(place, None)
        except TimeoutError:
            if not place.expired():
                raise
            what = f"more than {self.bounds.strangers} requests of senders that are not known yet came at once"
            raise OverloadedError(what, retry_after_s=RETRY_AFTER_S) from None

    def admitted(self, actor: str) -> Admission:
        """Hold a place of *actor*, with all that its request takes besides, within the block that this begins.

        Entering it raises OverloadedError or ShareExceededError when there is none.
        """
        return Admission(actor, self._requests, streams=self._streams, large=self._large, documents=self._documents)


class Admission:
    """A request that is being answered, of a token or peer that is known; its places are given back when it is over."""

    __slots__ = ("_actor", "_besides", "_documents", "_large", "_requests", "_streams")

    def __init__(
        self,
        actor: str,
        requests: _Places,
        *,
        streams: _Places,
        large: _WaitingPlaces,
        documents: DocumentRooms,
    ) -> None:
        self._actor = actor
        self._requests = requests
        self._streams = streams
        self._large = large
        self._documents = documents
        self._besides: contextlib.AsyncExitStack | None = None

    async def __aenter__(self) -> Admission:
        self._requests.take(self._actor)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._besides is not None:
                await self._besides.__aexit__(kind, error, trace)
        finally:
            self._requests.give_back(self._actor)

    @property
    def _held(self) -> contextlib.AsyncExitStack:
        """What is given back at the end; most requests hold nothing besides their place."""
        if self._besides is None:
            self._besides = contextlib.AsyncExitStack()
        return self._besides

    def document(self, size: int) -> contextlib.AbstractAsyncContextManager[None]:
        """Hold room for a document of *size* bytes, while it is read and stored. Raises OverloadedError."""
        return self._documents.room_for(size)

    def stream(self) -> None:
        """Take a place for an answer that goes on for a while. Raises OverloadedError or ShareExceededError."""
        self._held.enter_context(self._streams.one(self._actor))

    async def large(self) -> None:
        """Wait for a place for a body or an answer that is held whole. Raises OverloadedError or ShareExceededError."""
        await self._large.take(self._actor)
        self._held.callback(self._large.give_back, self._actor)

    async def make_room(self, size: int) -> None:
        """Wait for a place for *size* bytes, if they are many. Raises OverloadedError or ShareExceededError."""
        if size > LARGE_BYTES:
            await self.large()

    async def make_document_room(self, size: int) -> None:
        """Wait for a place for a document of *size* bytes that is still to come, and is then read into memory."""
        await self.make_room(size)
        await self._held.enter_async_context(self.document(size))


def admission_of(request: Request) -> Admission:
    """Return the admission under which a request is answered."""
    admission: Admission = request.state.admission
    return admission


class _Places:
    """Places of one kind, and who has how many."""

    def __init__(self, what: str, *, most: int, of_one: int) -> None:
        self._what = what
        self._most = most
        self._of_one = of_one
        self._taken = 0
        self._by_actor: Counter[str] = Counter()

    @contextlib.contextmanager
    def one(self, actor: str) -> Iterator[None]:
        self.take(actor)
        try:
            yield
        finally:
            self.give_back(actor)

    def take(self, actor: str) -> None:
        if self._taken >= self._most:
            raise OverloadedError(f"{self._most} {self._what} already", retry_after_s=RETRY_AFTER_S)
        if actor != OWNER and self._by_actor[actor] >= self._of_one:
            what = f"{self._of_one} {self._what} already for {actor!r}, its share"
            raise ShareExceededError(what, retry_after_s=RETRY_AFTER_S)
        self._taken += 1
        self._by_actor[actor] += 1

    def give_back(self, actor: str) -> None:
        self._taken -= 1
        _one_less(self._by_actor, actor)


class _WaitingPlaces:
    """Places that are waited for: first for one of the actor's own share, then for one of all."""

    def __init__(self, *, most: int, of_one: int, wait_s: float) -> None:
        self._most = most
        self._of_one = of_one
        self._wait_s = wait_s
        self._all = asyncio.Semaphore(most)
        self._shares: dict[str, asyncio.Semaphore] = {}
        self._users: Counter[str] = Counter()

    async def take(self, actor: str) -> None:
        self._users[actor] += 1
        own = self._shares.setdefault(actor, asyncio.Semaphore(_ANY if actor == OWNER else self._of_one))
        has_share = False
        try:
            async with asyncio.timeout(self._wait_s):
                has_share = await own.acquire()
                await self._all.acquire()
        except BaseException as error:
            if has_share:
                own.release()
            self._forget(actor)
            if not isinstance(error, TimeoutError):
                raise
            if has_share:
                raise OverloadedError(
                    f"{self._most} large bodies are held already", retry_after_s=RETRY_AFTER_S
                ) from None
            what = f"{self._of_one} large bodies are held already for {actor!r}, its share"
            raise ShareExceededError(what, retry_after_s=RETRY_AFTER_S) from None

    def give_back(self, actor: str) -> None:
        self._all.release()
        self._shares[actor].release()
        self._forget(actor)

    def _forget(self, actor: str) -> None:
        _one_less(self._users, actor)
        if actor not in self._users:
            del self._shares[actor]


def _one_less(counts: Counter[str], actor: str) -> None:
    counts[actor] -= 1
    if not counts[actor]:
        del counts[actor]


def may_be_large(scope: Scope) -> bool:
    """Whether the body of a request may be large."""
    if scope["method"] in ("GET", "HEAD"):
        return False
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"")
    if not length:
        return b"transfer-encoding" in headers
    return not length.isdigit() or int(length[:20]) > LARGE_BYTES


async def drain(receive: Receive) -> None:
    """Read and drop what a client sends: many look at the answer only once they have sent everything."""
    left = DRAIN_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
