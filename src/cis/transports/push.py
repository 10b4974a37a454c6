"""Speaking to a peer by HTTP: one message and its signed answer, and pings that track whether each peer answers.

Only the address under which the peer was enrolled is asked; a redirect is refused, certificates are checked, proxies of
the environment are not used, and every wait and every body is bounded. An answer counts when the peer signed it;
anything else means that the message is to be sent again. A ping also tells what time the peer has.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from cis.engine.this_node import ThisNode
from cis.errors import CisError, MalformedMessageError
from cis.federation.messages import REPORT_REF
from cis.model.dag import Json
from cis.model.message import MAX_BLOB_BYTES, Message, MessageKind, Reply, Result
from cis.store.cluster import PeerRecord
from cis.transports.envelope import (
    EXECUTE_PATH,
    MEDIA_TYPE,
    MESSAGES_PATH,
    FrameReader,
    blob_ref,
    check_blob,
    frame,
    open_envelope,
    seal,
)
from cis.transports.keys import Signer
from cis.transports.ports import NodePort
from cis.transports.tls import trusted_authorities
from cis.transports.wakeup import Wakeup

log = logging.getLogger(__name__)

CONNECT_S = 5.0
ANSWER_S = 30.0  # for each piece of the answer
WHOLE_S = 300.0  # for all of it, and of the message: 16 MiB take their time on a slow line
MAX_CONNECTIONS = 64
_MAX_PROBLEM_BYTES = 4096

EVERY_S = 30.0
LOOK_EVERY_S = 0.5
_PING_FOR_US = 300_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The peer's signed answer. ``clock_ahead_us`` is how far its clock is ahead, give or take half the round trip."""

    reply: Reply
    message: Message
    blob: str | None
    clock_ahead_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NotDelivered:
    """Why there is no answer; with ``uncertain`` the message may have arrived all the same.

    ``redirected``: the peer's address sends elsewhere, where nobody was asked.
    """

    fault: str
    uncertain: bool
    unreachable: bool = False
    redirected: bool = False


class PushClient:
    """Sends messages of this node to its peers; connections are kept and used again."""

    def __init__(self, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S),
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=60.0),
            follow_redirects=False,
            trust_env=False,
            verify=trusted_authorities(),
            transport=transport,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def send(self, message: Message, peer: PeerRecord, *, signer: Signer, now_us: int) -> Answered | NotDelivered:
        """Send a message to a peer that has an address, and return what came of it."""
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        path = EXECUTE_PATH if message.kind is MessageKind.EXECUTE else MESSAGES_PATH
        body = frame(seal(message, signer), message)
        try:
            request = self._client.build_request(
                "POST", f"{(peer.url or '').rstrip('/')}{path}", content=body, headers={"Content-Type": MEDIA_TYPE}
            )
            async with asyncio.timeout(WHOLE_S):
                response = await self._client.send(request, stream=True)
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
            return _answered(opened, message, blob=blob, now_us=now_us)
        except CisError as error:
            return NotDelivered(fault=f"{peer.url} gave no answer of node {peer.node_id}: {error}", uncertain=True)


def _key_of(peer: PeerRecord, name: str) -> str | None:
    return peer.public_key if name == peer.node_id else None


def _answered(opened: Message, message: Message, *, blob: str | None, now_us: int) -> Answered:
    fields = opened.fields
    if (
        opened.kind is not MessageKind.ANSWER
        or opened.target != message.sender
        or fields.get("reply_to") != message.message_id
        or fields.get("result") not in list(Result)  # it may be something that no set can be asked for
    ):
        raise MalformedMessageError("it is the answer to something else")
    reply = Reply(
        result=Result(fields["result"]),
        code=_text(fields.get("code")),
        detail=_text(fields.get("detail")),
        fields=fields,
    )
    return Answered(reply=reply, message=opened, blob=blob, clock_ahead_us=opened.created_at_us - now_us)


def _text(value: Json) -> str:
    return value[:2000] if isinstance(value, str) else ""


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


def make_ping(this_node: ThisNode, *, target: str | None) -> Message:
    """Return a ping, which says what time this node has now; *target* None: to everyone in the room."""
    now_us = this_node.clock_us()
    return Message(
        kind=MessageKind.PING,
        message_id=this_node.new_id(),
        sender=this_node.node_id,
        target=target,
        created_at_us=now_us,
        expires_at_us=now_us + _PING_FOR_US,
    )


class Pinger:
    """Pings each peer now, and again every ``EVERY_S``; *answered* is told of each that was away and is back."""

    def __init__(self, node: NodePort, client: PushClient, *, answered: Callable[[str], None]) -> None:
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
        answer = await self._client.send(ping, peer, signer=node.keys.signer(), now_us=node.this_node.clock_us())
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
