"""What this node says in the room: the outbox's items of that route, status events, and claims.

A send that is repeated has the same transaction id, so the homeserver takes it once. What it refuses for being too much
(429) waits as long as it says; meanwhile nothing else is sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from cis.engine.accept import dispatch
from cis.errors import (
    NotFoundError,
    PoisonRecordError,
    RoomError,
    RoomLimitedError,
    RoomRefusedError,
    RoomUnreachableError,
)
from cis.federation.messages import make_ping
from cis.federation.origin import outbox
from cis.federation.origin.outbox import message_of
from cis.federation.service import Wakeup, pause_s
from cis.model.dag import Json
from cis.model.message import Message, MessageKind
from cis.store.cluster import OutboxItem, RemoteRun, Route
from cis.transports.envelope import SigningNode, seal
from cis.transports.matrix.client import MatrixClient
from cis.transports.matrix.threads import NOTICE

log = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0
AT_ONCE = 8


class RoomSender:
    """Sends into one room. *offered* is called when this node has put a DAG on offer there."""

    def __init__(
        self,
        node: SigningNode,
        client: MatrixClient,
        *,
        room_id: str,
        jitter: Callable[[], float],
        offered: Callable[[], None],
    ) -> None:
        self._node = node
        self._client = client
        self._room_id = room_id
        self._jitter = jitter
        self._offered = offered
        self._woken = Wakeup()
        self._failures = 0
        self._hold_until_s = 0.0
        self._met: set[str] = set()

    def wake(self) -> None:
        """Look at the outbox now."""
        self._woken.set()

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            held_s = self._hold_until_s - loop.time()
            if held_s > 0:
                await asyncio.sleep(held_s)  # whoever wakes this: nothing may be sent
                continue
            self._woken.clear()
            await self._woken.within(await self._serve())

    async def send_status(self, message: Message, remote: RemoteRun) -> bool:
        """Send a report; return whether the homeserver took it, which renews no lease."""
        if asyncio.get_running_loop().time() < self._hold_until_s:
            return False
        relation = {"rel_type": "m.reference", "event_id": remote.event_id} if remote.event_id else None
        try:
            await self._send(message, txn_id=f"status-{message.run_id}-{message.message_id}", relation=relation)
        except RoomError as error:
            self._held_up(error)
            return False
        return True

    async def send_once(self, message: Message) -> bool:
        """Send a claim or a ping, which is not kept since it is worth nothing late; return whether it was taken."""
        if asyncio.get_running_loop().time() < self._hold_until_s:
            return False
        try:
            await self._send(message, txn_id=f"{message.kind.rpartition('.')[2]}-{message.message_id}")
        except RoomError as error:
            self._held_up(error)
            return False
        return True

    async def _serve(self) -> float:
        """Send what is due; return when there may be more."""
        now_us = self._node.this_node.clock_us()
        items, next_us = await self._node.read(
            lambda store: (
                store.outbox.due(Route.ROOM, now_us=now_us, limit=AT_ONCE),
                store.outbox.schedule(now_us=now_us).next_us,
            )
        )
        if not items:
            return LOOK_EVERY_S if next_us is None else min(LOOK_EVERY_S, max(0.05, (next_us - now_us) / 1e6))
        late = [item for item in items if item.expires_at_us <= now_us]
        if late:
            ended = await self._node.write(lambda store: dispatch.expire(store, late, now_us=now_us))
            self._node.wake(run.worker_id for run in ended)
        fresh = [item for item in items if item.expires_at_us > now_us]
        results = await asyncio.gather(*(self._send_item(item) for item in fresh if item.kind != NOTICE))
        for item in fresh:
            if item.kind == NOTICE:  # one after the other, as people are to read them
                results.append(await self._send_item(item))
        return 0.0 if all(results) else 0.05

    async def _send_item(self, item: OutboxItem) -> bool:
        node = self._node
        due_at_us = node.this_node.clock_us() + round(dispatch.SENDING_S * 1e6)
        if not await node.write(lambda store: store.outbox.begin_sending([item.message_id], due_at_us=due_at_us)):
            return True  # it was taken back meanwhile
        try:
            if item.kind == NOTICE:
                event_id = await self._client.send(
                    self._room_id, type="m.room.message", content=dict(item.fields), txn_id=f"notice-{item.message_id}"
                )
            else:
                message = await node.read(
                    lambda store: message_of(store, item, sender=node.this_node.node_id, lease_s=node.this_node.lease_s)
                )
                await self._meet(item)
                kind = item.kind.rpartition(".")[2]
                event_id = await self._send(message, txn_id=f"{kind}-{item.message_id}")
        except (NotFoundError, PoisonRecordError) as error:
            log.error("a message cannot be made", extra={"run_id": item.run_id, "error": str(error)})
            reason, now_us = str(error), node.this_node.clock_us()
            await node.write(lambda store: outbox.give_up(store, item, reason, now_us=now_us))
            return True
        except RoomError as error:
            await self._put_off(item, error)
            return False
        self._failures = 0
        await node.write(lambda store: outbox.sent_to_room(store, item, event_id, this_node=node.this_node))
        if item.kind == MessageKind.EXECUTE and not item.node_id:
            self._offered()
        return True

    async def _meet(self, item: OutboxItem) -> None:
        """Tell a node this node's time before the first run for it: it may have been away when that was told last."""
        if item.kind == MessageKind.EXECUTE and item.node_id and item.node_id not in self._met:
            ping = make_ping(self._node.this_node, target=item.node_id)
            await self._send(ping, txn_id=f"ping-{ping.message_id}")
            self._met.add(item.node_id)

    async def _send(self, message: Message, *, txn_id: str, relation: Json = None) -> str:
        mxc = None
        if message.blob is not None:
            mxc = await self._client.upload(
                message.blob.encode(), content_type="application/json", filename=f"{message.run_id}.json"
            )
        content = seal(message, self._node.keys.signer(), room_id=self._room_id, mxc=mxc)
        if relation is not None:
            content["m.relates_to"] = relation
        return await self._client.send(self._room_id, type=str(message.kind), content=content, txn_id=txn_id)

    async def _put_off(self, item: OutboxItem, error: RoomError) -> None:
        self._held_up(error)
        own = isinstance(error, RoomRefusedError)
        pause = pause_s(item.attempts + 1, jitter=self._jitter) if own else 0.0
        due_at_us, fault = self._node.this_node.clock_us() + round(pause * 1e6), str(error)
        maybe = item.uncertain or isinstance(error, RoomUnreachableError)
        await self._node.write(
            lambda store: store.outbox.put_off(item.message_id, due_at_us=due_at_us, fault=fault, uncertain=maybe)
        )

    def _held_up(self, error: RoomError) -> None:
        """Send nothing for a while, as *error* demands."""
        now_s = asyncio.get_running_loop().time()
        if isinstance(error, RoomLimitedError):
            hold_s = error.retry_after_s
        elif isinstance(error, RoomRefusedError):
            log.error("the homeserver refused an event", extra={"error": str(error)})
            return
        else:
            self._failures += 1
            hold_s = pause_s(self._failures, jitter=self._jitter, most_s=15.0)
        self._hold_until_s = max(self._hold_until_s, now_s + hold_s)
