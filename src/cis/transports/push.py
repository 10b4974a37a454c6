"""Messages by HTTP: sent to a peer, received and answered, and pings that track whether each peer answers.

Only the address under which the peer was enrolled is asked; a redirect is refused, certificates are checked, proxies of
the environment are not used, and every wait and every body is bounded. An answer counts when the peer signed it;
anything else means that the message is to be sent again. A ping also tells what time the peer has.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from cis.errors import CisError, MalformedMessageError
from cis.federation.executing.reporter import StatusAnswers
from cis.federation.messages import REPORT_REF, answer_message, blob_ref, check_blob, make_ping, read_reply
from cis.federation.service import Answered, NotDelivered, Sending, Wakeup
from cis.model.message import MAX_BLOB_BYTES, BlobRef, Message, MessageKind, Result
from cis.store.cluster import PeerRecord
from cis.transports.address import trusted_authorities
from cis.transports.envelope import (
    EXECUTE_PATH,
    MEDIA_TYPE,
    MESSAGES_PATH,
    FrameReader,
    SigningNode,
    frame,
    open_envelope,
    seal,
)
from cis.transports.keys import Signer
from cis.transports.receiver import Receiver

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

CONNECT_S = 5.0
ANSWER_S = 30.0  # for each piece of the answer
WHOLE_S = 300.0  # for all of it, and of the message: 16 MiB take their time on a slow line
MAX_CONNECTIONS = 64
_MAX_PROBLEM_BYTES = 4096

CONTENT_S = 15.0  # for 128 KiB at most; a stranger may keep a connection for so long
BLOB_S = 300.0

EVERY_S = 30.0
LOOK_EVERY_S = 0.5

T = TypeVar("T")
MakeRoom = Callable[[int], Awaitable[None]]


class PushClient:
    """Sends messages of this node to its peers; connections are kept and used again.

    What it takes is loaded for the first message, or before: a node that has no peers starts sooner.
    """

    def __init__(
        self,
        *,
        signer: Callable[[], Signer],
        clock_us: Callable[[], int],
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._signer = signer
        self._clock_us = clock_us
        self._transport = transport
        self._made: httpx.AsyncClient | None = None

    def make_ready(self) -> None:
        """Load now what the first message would have to wait for."""
        self._client()

    def _client(self) -> httpx.AsyncClient:
        if self._made is None:
            import httpx  # noqa: PLC0415 - 100 ms

            self._made = httpx.AsyncClient(
                timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S),
                limits=httpx.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=60.0),
                follow_redirects=False,
                trust_env=False,
                verify=trusted_authorities(),
                transport=self._transport,
            )
        return self._made

    async def aclose(self) -> None:
        """Close the connections."""
        if self._made is not None:
            await self._made.aclose()

    async def send(self, message: Message, peer: PeerRecord) -> Answered | NotDelivered:
        """Send a message to a peer that has an address, and return what came of it."""
        client = self._client()
        import httpx  # noqa: PLC0415 - the client has loaded it

        loop = asyncio.get_running_loop()
        begun_s, now_us = loop.time(), self._clock_us()
        path = EXECUTE_PATH if message.kind is MessageKind.EXECUTE else MESSAGES_PATH
        body = frame(seal(message, self._signer()), message)
        try:
            request = client.build_request(
                "POST", f"{(peer.url or '').rstrip('/')}{path}", content=body, headers={"Content-Type": MEDIA_TYPE}
            )
            async with asyncio.timeout(WHOLE_S):
                response = await client.send(request, stream=True)
                try:
                    middle_us = now_us + round((loop.time() - begun_s) * 5e5)
                    return await self._read(response, message, peer, now_us=middle_us)
                finally:
                    await response.aclose()
        except TimeoutError:
            fault = f"{peer.url} did not take it and answer within {WHOLE_S:g} s"
            return NotDelivered(fault=fault, uncertain=True, unreachable=True)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            return NotDelivered(fault=_words(error, peer), uncertain=False, unreachable=True)
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
            return NotDelivered(fault=_words(error, peer), uncertain=True, unreachable=True)

    async def _read(
        self, response: httpx.Response, message: Message, peer: PeerRecord, *, now_us: int
    ) -> Answered | NotDelivered:
        if response.is_redirect:
            fault = f"{peer.url} redirects, which is refused: give its own address"
            return NotDelivered(fault=fault, uncertain=False, redirected=True)
        if response.headers.get("content-type", "").partition(";")[0] != MEDIA_TYPE:
            fault = await _problem(response)
            return NotDelivered(fault=fault, uncertain=not 400 <= response.status_code < 500)
        reader = FrameReader(response.aiter_raw())
        try:
            opened = open_envelope(await reader.content(), trusted_key=lambda name: _key_of(peer, name)).message
            ref = blob_ref(opened, REPORT_REF)
            blob = None if ref is None or ref.size > MAX_BLOB_BYTES else check_blob(ref, await reader.blob(ref.size))
            ahead_us = opened.created_at_us - now_us
            return Answered(reply=read_reply(opened, message), message=opened, blob=blob, clock_ahead_us=ahead_us)
        except CisError as error:
            return NotDelivered(fault=f"{peer.url} gave no answer of node {peer.node_id}: {error}", uncertain=True)


def _key_of(peer: PeerRecord, name: str) -> str | None:
    return peer.public_key if name == peer.node_id else None


async def _problem(response: httpx.Response) -> str:
    data = b""
    async for part in response.aiter_raw():
        data += part
        if len(data) > _MAX_PROBLEM_BYTES:
            break
    try:
        detail = str(json.loads(data)["detail"])[:500]
    except (ValueError, KeyError, TypeError, RecursionError):
        detail = response.reason_phrase
    return f"HTTP {response.status_code}: {detail}"


def _words(error: Exception, peer: PeerRecord) -> str:
    return f"{peer.url}: {str(error) or type(error).__name__}"[:500]


class Pinger:
    """Pings each peer now, and again every ``EVERY_S``; *answered* is told of each that was away and is back."""

    def __init__(self, node: SigningNode, client: Sending, *, answered: Callable[[str], None]) -> None:
        self._node = node
        self._client = client
        self._answered = answered
        self._woken = Wakeup()

    def wake(self) -> None:
        """Something was stored: there may be a new peer, or one with another address."""
        self._woken.set()

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        all_at_s, known = 0.0, frozenset[tuple[str, str | None, str]]()
        while True:
            self._woken.clear()
            try:
                peers = await self._node.read(lambda store: store.peers.all())
                due = loop.time() >= all_at_s
                chosen = [peer for peer in peers if peer.url is not None and (due or _face(peer) not in known)]
                known = frozenset(_face(peer) for peer in peers)
                if due:
                    all_at_s = loop.time() + EVERY_S
                await asyncio.gather(*(self._ping(peer) for peer in chosen))
            except CisError as error:
                log.error("peers cannot be pinged; trying again", extra={"error": str(error)})
                await asyncio.sleep(1.0)
            if await self._woken.within(all_at_s - loop.time()):
                await asyncio.sleep(LOOK_EVERY_S)  # much is stored, and peers seldom change

    async def _ping(self, peer: PeerRecord) -> None:
        node = self._node
        ping = make_ping(node.this_node, target=peer.node_id)
        answer = await self._client.send(ping, peer)
        at_us = node.this_node.clock_us()
        if isinstance(answer, Answered):
            ahead_us = answer.clock_ahead_us
            await node.write(
                lambda store: store.peers.note_contact(peer.node_id, now_us=at_us, clock_ahead_us=ahead_us)
            )
            if peer.fault is not None:
                self._answered(peer.node_id)
        else:
            fault = answer.fault
            await node.write(lambda store: store.peers.note_fault(peer.node_id, fault))


def _face(peer: PeerRecord) -> tuple[str, str | None, str]:
    return peer.node_id, peer.url, peer.public_key


class Answering:
    """Takes one pushed message in and returns the bytes of its answer."""

    def __init__(self, node: SigningNode, receiver: Receiver) -> None:
        self._node = node
        self._receiver = receiver
        self._answers = StatusAnswers(node)

    async def open(self, reader: FrameReader, *, source: str) -> tuple[Message, PeerRecord]:
        """Read a message, and return it with the peer that signed it; what travels beside it is left for later.

        Raises:
            MalformedMessageError, UntrustedError: it is none, or nobody's who is trusted here.
        """
        try:
            content = await _in_time(reader.content(), CONTENT_S)
        except MalformedMessageError as error:
            await self._receiver.note_stranger(None, error, source=source)
            raise
        return await self._receiver.open(content, source=source)

    async def answer(
        self, message: Message, peer: PeerRecord, reader: FrameReader, *, source: str, make_room: MakeRoom
    ) -> bytes:
        """Act on an opened message, and return the signed answer; *make_room* waits for room for its blob.

        Raises:
            StoreError, OverloadedError: not now.
        """

        async def fetch(ref: BlobRef) -> bytes:
            await make_room(ref.size)
            return await _in_time(reader.blob(ref.size), BLOB_S)

        reply = await self._receiver.receive(message, peer, source=source, fetch=fetch)
        fields, blob = dict(reply.fields), None
        token = self._node.this_node.new_id()
        if message.kind is MessageKind.ASK and reply.result is Result.ACCEPTED:
            fields, blob = await self._answers.answer(message, token=token)
        node = self._node
        answer = answer_message(message, reply, message_id=token, this_node=node.this_node, fields=fields, blob=blob)
        return frame(seal(answer, node.keys.signer()), answer)


async def _in_time(reading: Awaitable[T], seconds: float) -> T:
    """Await what is read. Raises MalformedMessageError when it takes too long: whoever sends it may be gone."""
    try:
        async with asyncio.timeout(seconds):
            return await reading
    except TimeoutError as error:
        raise MalformedMessageError(f"a message did not come whole within {seconds:g} s") from error
