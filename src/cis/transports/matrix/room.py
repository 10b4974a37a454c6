"""A node in its room: reads it without losing an event, acts on what it read, says what it has to say.

A node works in the one room that its settings name, and only while that room is not encrypted: in an encrypted one the
homeserver cannot hold people of low power back from sending DAGs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from cis.errors import CisError, RoomError, RoomLimitedError, RoomUnreachableError
from cis.federation.executing.claiming import Claimer
from cis.federation.messages import make_ping
from cis.federation.origin import arbiter
from cis.federation.service import pause_s
from cis.model.message import Message, MessageKind
from cis.store.access_records import AuditRecord
from cis.store.cluster import RemoteRole, RemoteRun, RoomCursor
from cis.store.port import Store
from cis.transports.envelope import SigningNode
from cis.transports.matrix.chat import Chat, Person
from cis.transports.matrix.client import MatrixClient
from cis.transports.matrix.journal import CHAT_TYPE, KEEP_EVENTS, MESSAGE_TYPES, Journal, journalled
from cis.transports.matrix.sender import RoomSender
from cis.transports.matrix.sync import Batch, RoomReader
from cis.transports.receiver import Receiver

log = logging.getLogger(__name__)

SYNC_S = 30.0
AGAIN_S = 5.0
LEASES_EVERY_S = 1.0
MAX_ASLEEP_S = 1.0
PRUNE_EVERY = 1000
PING_EVERY_S = 6 * 3600.0
ENCRYPTED = (
    "the room is encrypted, which cannot be undone: take room_id out of cis.toml, then 'cis room setup' makes a new one"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomSettings:
    """The room that a node works in, and how.

    ``capacity`` is how many runs the node takes from it at once; None: it claims nothing. ``grace_s`` is how long it
    may take to end a task, ``fall_back_after_s`` how long a push is tried before the room carries it as well. ``allow``
    says who may write ``!dag``, by Matrix user.
    """

    homeserver: str
    access_token: str
    user_id: str
    room_id: str
    labels: Sequence[str]
    capacity: int | None
    grace_s: float
    fall_back_after_s: float
    allow: Mapping[str, Person]


class Room:
    """One node's dealings with its room."""

    def __init__(
        self,
        node: SigningNode,
        receiver: Receiver,
        settings: RoomSettings,
        *,
        jitter: Callable[[], float],
        read: Callable[[], None],
    ) -> None:
        self.fault: str | None = "not connected yet"
        self._node = node
        self._settings = settings
        self._jitter = jitter
        self._read = read
        self._client = MatrixClient(settings.homeserver, settings.access_token)
        self._sender = RoomSender(
            node, self._client, room_id=settings.room_id, jitter=jitter, offered=self._offers_changed
        )
        self._chat = Chat(node, room_id=settings.room_id, allow=settings.allow)
        self._journal = Journal(
            node, receiver, self._client, room_id=settings.room_id, me=settings.user_id, chat=self._chat.receive
        )
        self._claimer = (
            Claimer(
                node,
                labels=settings.labels,
                capacity=settings.capacity,
                grace_s=settings.grace_s,
                send=self._sender.send_once,
                jitter=jitter,
            )
            if settings.capacity is not None
            else None
        )
        self._watch = arbiter.LeaseWatch()
        self._synced_s = 0.0
        self._since_prune = 0

    def wake(self) -> None:
        """Something was stored: there may be something to say, room for an offer, news for a thread."""
        self._sender.wake()
        self._chat.wake()
        self._offers_changed()

    async def send_status(self, message: Message, remote: RemoteRun) -> bool:
        """Send a report into the room; return whether the homeserver took it."""
        return self.fault is None and await self._sender.send_status(message, remote)

    async def run(self) -> None:
        """Serve until cancelled."""
        failures = 0
        while True:
            try:
                await self._enter()
                failures = 0
                await self._work()
            except RoomError as error:
                failures += 1
                if str(error) == ENCRYPTED != self.fault:
                    await self._audit_encryption()
                self._say_fault(str(error))
                pause = error.retry_after_s if isinstance(error, RoomLimitedError) else 0.0
                most_s = 15.0 if isinstance(error, RoomUnreachableError) else 60.0
                await asyncio.sleep(max(pause, pause_s(failures, jitter=self._jitter, most_s=most_s)))

    async def _enter(self) -> None:
        """Check that this is the right user, in the right room, which is fit to work in."""
        me = await self._client.whoami()
        if me.user_id != self._settings.user_id:
            raise RoomError(f"the access token is {me.user_id}'s, not {self._settings.user_id}'s")
        if self._settings.room_id not in await self._client.joined_rooms():
            raise RoomError(f"{me.user_id} is not in {self._settings.room_id}: 'cis room setup' joins it")
        if any(event.get("type") == "m.room.encryption" for event in await self._client.state(self._settings.room_id)):
            raise RoomError(ENCRYPTED)

    async def _work(self) -> None:
        services = [self._sync(), self._sender.run(), self._leases(), self._chat.run(), self._ping_again()]
        if self._claimer is not None:
            services.append(self._claimer.run())
        tasks = [asyncio.ensure_future(service) for service in services]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _sync(self) -> None:
        settings, loop = self._settings, asyncio.get_running_loop()
        reader = RoomReader(self._client, settings.room_id, types=(*MESSAGE_TYPES, CHAT_TYPE))
        cursor = await self._node.read(lambda store: store.room.cursor(settings.room_id))
        since = cursor.next_batch if cursor is not None and cursor.user_id == settings.user_id else None
        waiting = await self._journal.work()  # what was journalled before a crash
        failures, timeout_ms = 0, 0
        while True:
            begun_s, begun_us = loop.time(), self._node.this_node.clock_us()
            try:
                batch = await reader.catch_up(since, timeout_ms=timeout_ms)
            except RoomUnreachableError as error:
                failures += 1
                self._say_fault(str(error))
                await asyncio.sleep(pause_s(failures, jitter=self._jitter, most_s=5.0))
                timeout_ms = 0
                continue
            failures = 0
            self._check(batch)
            now_s, now_us = loop.time(), self._node.this_node.clock_us()
            slept = (now_us - begun_us) / 1e6 - (now_s - begun_s) > MAX_ASLEEP_S
            await self._keep(batch, heard_us=begun_us if slept else now_us - round(batch.walked_s * 1e6))
            since = batch.next_batch
            if batch.events or waiting:
                waiting = await self._journal.work()
                self._offers_changed()
            self._read()
            if MessageKind.STATUS not in waiting:  # what else waits renews no lease
                self._synced_s = begun_s
            if self.fault is not None:
                self.fault = None
                log.info("in the room", extra={"room": settings.room_id})
                self.wake()
            # Only a sync that began after a lease was over can show that it is, so none may take as long as one.
            timeout_ms = round(min(AGAIN_S if waiting else SYNC_S, self._node.this_node.lease_s / 2) * 1000)

    def _check(self, batch: Batch) -> None:
        if not batch.joined:
            raise RoomError(f"{self._settings.user_id} is not in {self._settings.room_id} any more")
        if any(event.type == "m.room.encryption" for event in (*batch.state, *batch.events)):
            raise RoomError(ENCRYPTED)

    async def _keep(self, batch: Batch, *, heard_us: int) -> None:
        """Write the events and the place up to which the room was read, in one transaction.

        *heard_us* is when the homeserver told the events' ages, or before that: leases are counted from it.
        """
        settings, now_us = self._settings, self._node.this_node.clock_us()
        events = journalled(batch.events, room_id=settings.room_id, me=settings.user_id, now_us=heard_us)
        self._since_prune += len(events)
        prune = self._since_prune >= PRUNE_EVERY
        if prune:
            self._since_prune = 0

        cursor = RoomCursor(
            room_id=settings.room_id, user_id=settings.user_id, next_batch=batch.next_batch, synced_at_us=now_us
        )

        def job(store: Store) -> None:
            store.room.append(events, cursor=cursor)
            if prune:
                store.room.prune(keep=KEEP_EVENTS)

        await self._node.write(job)

    async def _ping_again(self) -> None:
        """Say that this node is here, and what time it has: now, and every few hours."""
        this_node = self._node.this_node
        while True:
            sent = await self._sender.send_once(make_ping(this_node, target=None))
            await asyncio.sleep(PING_EVERY_S if sent else AGAIN_S)

    async def _leases(self) -> None:
        """Take back the runs whose holder has not been heard of for a whole lease."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LEASES_EVERY_S)
            try:
                remotes = await self._node.read(lambda store: store.remotes.open(RemoteRole.SENT))
                for remote in self._watch.over(remotes, now_s=loop.time(), synced_s=self._synced_s):
                    await self._node.write(partial(arbiter.take_back, seen=remote, this_node=self._node.this_node))
                    self._node.wake()
            except RoomError:
                raise
            except CisError as error:
                log.error("leases cannot be looked at; trying again", extra={"error": str(error)})

    def _offers_changed(self) -> None:
        if self._claimer is not None:
            self._claimer.wake()

    async def _audit_encryption(self) -> None:
        entry = AuditRecord(
            at_us=self._node.this_node.clock_us(),
            actor="matrix:unknown",
            action="refused.room",
            subject="the room is encrypted",
            source=f"room:{self._settings.room_id}",
        )
        await self._node.write(lambda store: store.audit.append(entry))

    def _say_fault(self, fault: str) -> None:
        if fault != self.fault:
            log.warning("the room cannot be used", extra={"room": self._settings.room_id, "reason": fault})
        self.fault = fault
