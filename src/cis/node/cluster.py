"""A node's dealings with other nodes: one thread with an event loop, in which its transports run.

The room is the one that the settings name.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cis.errors import CisError, ConfigError, Fault
from cis.federation.executing.first_word import FirstWord
from cis.federation.executing.reporter import Reporter
from cis.federation.inbox import Inbox
from cis.federation.origin.courier import Courier
from cis.federation.origin.status import StatusAsker
from cis.federation.service import Calm
from cis.model.message import Result
from cis.node.home import Home
from cis.node.settings import Settings
from cis.store.cluster import OutboxItem, PeerRecord
from cis.store.port import Store
from cis.transports.envelope import SigningNode
from cis.transports.push import Answering, Pinger, PushClient
from cis.transports.receiver import Receiver

if TYPE_CHECKING:
    from cis.transports.matrix.room import Room, RoomSettings

log = logging.getLogger(__name__)

STOP_S = 10.0
RESTART_S = 1.0
PAUSE_S = 0.02
UPKEEP_S = 3600.0
ASKED_FOR_US = 2 * 86_400_000_000  # no lease is longer than a day
REMEMBER_US = 30 * 86_400_000_000  # beyond its time: the sender's clock, or this one, may be wrong by days


def token_path(home: Home, settings: Settings) -> Path:
    """Return the file of the access token; a relative one lies in the home."""
    return home.root / Path(settings.access_token_file).expanduser()


def read_access_token(home: Home, settings: Settings) -> str:
    """Return the access token that the settings name. Raises ConfigError, with the mend."""
    path = token_path(home, settings)
    place = "cis.toml: matrix.access_token_file"
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        mend = "'cis room login' gets a token"
        raise ConfigError([Fault(place=place, message=f"{path} cannot be read: {error}; {mend}")]) from error
    if not token or any(character.isspace() for character in token):
        raise ConfigError([Fault(place=place, message=f"{path} holds no token; 'cis room login' gets one")])
    return token


def room_settings(home: Home, settings: Settings) -> RoomSettings | None:
    """Return the room that this node works in, or None when none is configured.

    Raises:
        ConfigError: the access token cannot be read.
    """
    if settings.homeserver is None or settings.matrix_user is None or settings.room_id is None:
        return None
    from cis.transports.matrix.chat import Person  # noqa: PLC0415 - 100 ms, and most nodes have no room
    from cis.transports.matrix.room import RoomSettings  # noqa: PLC0415

    return RoomSettings(
        homeserver=settings.homeserver,
        access_token=read_access_token(home, settings),
        user_id=settings.matrix_user,
        room_id=settings.room_id,
        labels=settings.labels,
        capacity=settings.slots if settings.accept_broadcast else None,
        grace_s=settings.grace_s,
        fall_back_after_s=settings.fall_back_after_s,
        allow={one.user_id: Person(may=one.may, scopes=one.scopes) for one in settings.allow},
    )


class Cluster:
    """Courier, reporter, asker, pinger and, where one is configured, the room.

    Its methods may be called from any thread.
    """

    def __init__(self, node: SigningNode, *, room: RoomSettings | None, first_word: FirstWord) -> None:
        self._node = node
        self._first_word = first_word
        self._room_settings = room
        self.room: Room | None = None
        self.receiver = Receiver(node, Inbox(node, taken=self._taken), spoke=self._spoke)
        self.answering = Answering(node, self.receiver)
        self._loop = asyncio.new_event_loop()
        self._calm = Calm(self._loop, self._wake, pause_s=PAUSE_S)
        self._stopped = asyncio.Event()
        self._courier: Courier | None = None
        self._reporter: Reporter | None = None
        self._pinger: Pinger | None = None
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._serve, args=(started,), name="cluster", daemon=True)
        self._thread.start()
        started.result()

    @property
    def public_key(self) -> str:
        """This node's key, base64."""
        return self._node.keys.signer().public_key

    @property
    def matrix_user(self) -> str | None:
        """As whom this node speaks in its room, if it has one."""
        return None if self._room_settings is None else self._room_settings.user_id

    def wake(self) -> None:
        """Something was stored: look at the outbox, and at what is to be told."""
        self._calm.wake()

    def send_now(self, item: OutboxItem) -> Future[Result | None]:
        """Send an item at once, which was marked as being sent in the transaction that stored it."""
        if self._courier is None:
            raise RuntimeError("the cluster is not running")
        return asyncio.run_coroutine_threadsafe(self._courier.send_now(item), self._loop)

    def stop(self) -> None:
        """Stop everything; what was not sent stays in the outbox. Harmless when repeated."""
        if self._thread.is_alive():
            self._soon(self._stopped.set)
            self._thread.join(STOP_S)

    def _soon(self, function: Callable[..., object], *arguments: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _spoke(self, node_id: str) -> None:
        self._soon(self._nudge, node_id)

    def _taken(self, run_id: str) -> None:
        if self._reporter is not None:
            self._soon(self._reporter.add, run_id)

    def _room_read(self) -> None:
        if self._first_word.room_read():
            self._node.wake()

    def _nudge(self, node_id: str) -> None:
        if self._courier is not None and self._reporter is not None:
            self._courier.nudge(node_id)
            self._reporter.nudge(node_id)

    def _wake(self) -> None:
        if self._courier is not None and self._reporter is not None:
            self._courier.wake()
            self._reporter.wake()
        if self._pinger is not None:
            self._pinger.wake()
        if self.room is not None:
            self.room.wake()

    def _serve(self, started: Future[None]) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._run(started))
        except BaseException as error:
            if not started.done():
                started.set_exception(error)
                return
            log.exception("the cluster's thread has ended")
        finally:
            self._loop.close()

    async def _run(self, started: Future[None]) -> None:
        client = PushClient(signer=self._node.keys.signer, clock_us=self._node.this_node.clock_us)
        if await self._has_peers():
            client.make_ready()
        self._courier = Courier(
            self._node,
            client,
            jitter=random.random,
            room_takes=self._room_takes,
            fall_back_after_s=self._room_settings.fall_back_after_s if self._room_settings else 0.0,
        )
        receive = self.receiver.inbox.receive
        self._reporter = Reporter(
            self._node, client, jitter=random.random, receive=receive, first_word=self._first_word
        )
        self._pinger = Pinger(self._node, client, answered=self._nudge)
        services = {
            "courier": self._courier.run,
            "reporter": self._reporter.run,
            "asker": StatusAsker(self._node, client, receive=receive).run,
            "pinger": self._pinger.run,
            "upkeep": self._upkeep,
        }
        if self._room_settings is not None:
            from cis.transports.matrix.room import Room  # noqa: PLC0415 - as above

            self.room = Room(self._node, self.receiver, self._room_settings, jitter=random.random, read=self._room_read)
            self._reporter.to_room = self.room.send_status
            services["room"] = self.room.run
        tasks = [asyncio.create_task(_kept(name, run)) for name, run in services.items()]
        started.set_result(None)
        await self._stopped.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.aclose()

    async def _has_peers(self) -> bool:
        try:
            return any(peer.url is not None for peer in await self._node.read(lambda store: store.peers.all()))
        except CisError:
            return False  # who asks them next says so

    async def _upkeep(self) -> None:
        """Forget, once an hour, what is of no use any more."""
        while True:
            now_us = self._node.this_node.clock_us()

            def job(store: Store, now_us: int = now_us) -> None:
                store.pruning.prune_notes(
                    expired_us=now_us, withdrawn_us=now_us - REMEMBER_US, asked_us=now_us - ASKED_FOR_US
                )

            await self._node.write(job)
            await asyncio.sleep(UPKEEP_S)

    def _room_takes(self, peer: PeerRecord) -> bool:
        return self.room is not None and peer.matrix_user is not None


async def _kept(name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a service until it is cancelled; one that fails is reported and begins again."""
    while True:
        try:
            await run()
        except CisError as error:
            log.error("a service failed; it begins again", extra={"service": name, "error": str(error)})
        except Exception:  # a fault of this program must not end the node's dealings with all others
            log.exception("a service failed; it begins again", extra={"service": name})
        await asyncio.sleep(RESTART_S)
