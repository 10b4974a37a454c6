"""Keeps knowing whether each peer with an address answers, and what time it has."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from cis.engine.site import Site
from cis.errors import CisError
from cis.model.message import Message, MessageKind
from cis.store.cluster import PeerRecord
from cis.transports.ports import Desk
from cis.transports.push import Answered, PushClient
from cis.transports.wakeup import Wakeup

log = logging.getLogger(__name__)

EVERY_S = 30.0
LOOK_EVERY_S = 0.5
_PING_FOR_US = 300_000_000


def make_ping(site: Site, *, target: str | None) -> Message:
    """Return a ping, which says what time this node has now; *target* None: to everyone in the room."""
    now_us = site.clock_us()
    return Message(
        kind=MessageKind.PING,
        message_id=site.new_id(),
        sender=site.node_id,
        target=target,
        created_at_us=now_us,
        expires_at_us=now_us + _PING_FOR_US,
    )


class Pinger:
    """Pings each peer now, and again every ``EVERY_S``; *answered* is told of each that was away and is back."""

    def __init__(self, desk: Desk, client: PushClient, *, answered: Callable[[str], None]) -> None:
        self._desk = desk
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
                peers = await self._desk.read(lambda store: store.peers())
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
        desk = self._desk
        ping = make_ping(desk.site, target=peer.node_id)
        answer = await self._client.send(ping, peer, signer=desk.signer, now_us=desk.site.clock_us())
        at_us = desk.site.clock_us()
        if isinstance(answer, Answered):
            ahead_us = answer.clock_ahead_us
            await desk.write(lambda store: store.note_contact(peer.node_id, now_us=at_us, clock_ahead_us=ahead_us))
            if peer.fault is not None:
                self._answered(peer.node_id)
        else:
            fault = answer.fault
            await desk.write(lambda store: store.note_fault(peer.node_id, fault))


def _face(peer: PeerRecord) -> tuple[str, str | None, str]:
    return peer.node_id, peer.url, peer.public_key
