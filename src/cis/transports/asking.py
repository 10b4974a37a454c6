"""Asking how a run goes, and answering: for an origin that its executor cannot reach, as a laptop behind NAT.

The origin asks (``Asker``) when it has heard nothing of a run for a while. It names the last answer that it has, and
the executor (``Teller``) goes on from there; when it remembers nothing of it, it tells all of it again, which does no
harm.

Any message that was pushed is answered by a message of this node, signed, with what came of it (``Answering``).
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from cis.engine.accept.dispatch import undeliverable
from cis.errors import CisError, MalformedMessageError
from cis.federation.executing.report import Cursor, build_report
from cis.federation.messages import REPORT_REF, ReceivedMessage, report_parts
from cis.federation.origin.status import ask_in_room
from cis.model.dag import Json
from cis.model.message import BlobRef, Message, MessageKind, Reply, Result
from cis.store.cluster import PeerRecord, RemoteRole, RemoteRun
from cis.store.port import Store
from cis.store.records import Delivery
from cis.transports.envelope import FrameReader, frame, seal
from cis.transports.ports import NodePort
from cis.transports.push import NotDelivered, PushClient
from cis.transports.reception import FetchBlob, Reception, report_of

log = logging.getLogger(__name__)

QUIET_S = 2.0
MOST_QUIET_S = 20.0
ROOM_QUIET_S = 600.0
MOST_ROOM_QUIET_S = 6 * 3600.0
AT_ONCE = 8
LOOK_EVERY_S = 1.0
MAX_REMEMBERED = 256
MAX_REMEMBERED_ROWS = 500_000  # of tasks and attempts, in all of them together
_ASK_FOR_US = 60_000_000

CONTENT_S = 15.0  # for 128 KiB at most; a stranger may keep a connection for so long
BLOB_S = 300.0
_ANSWER_FOR_US = 300_000_000

T = TypeVar("T")
MakeRoom = Callable[[int], Awaitable[None]]


class Teller:
    """The executor's side: remembers, for some runs, what was answered last."""

    def __init__(self, node: NodePort) -> None:
        self._node = node
        self._told: OrderedDict[str, tuple[str, Cursor]] = OrderedDict()

    async def answer(self, ask: Message, *, token: str) -> tuple[dict[str, Json], str | None]:
        """Return the fields and the blob of an answer; *token* names it for the next question."""
        remote = await self._node.read(lambda store: store.remotes.get(ask.run_id))
        if remote is None or remote.role is not RemoteRole.RECEIVED or remote.peer != ask.sender:
            return {"known": False}, None
        last = self._told.get(ask.run_id)
        cursor = last[1] if last is not None and last[0] == ask.fields.get("after") else Cursor()
        report = await self._node.read(
            lambda store: build_report(store, self._node.logs, ask.run_id, tasks=None, cursor=cursor)
        )
        self.remember(ask.run_id, token, report.cursor)
        inline, blob = report_parts(report.content)
        return {"known": True, "epoch": remote.epoch, "token": token, "more": report.more, **inline}, blob

    def remember(self, run_id: str, token: str, cursor: Cursor) -> None:
        """Keep how far a run was told, and forget what was told longest ago when it is too much."""
        self._told[run_id] = (token, cursor)
        self._told.move_to_end(run_id)
        while len(self._told) > MAX_REMEMBERED or (len(self._told) > 1 and self._rows() > MAX_REMEMBERED_ROWS):
            self._told.popitem(last=False)

    def _rows(self) -> int:
        return sum(len(cursor.versions) + len(cursor.ended) for _, cursor in self._told.values())


class Asker:
    """The origin's side: asks for the runs of which nothing was heard lately."""

    def __init__(self, node: NodePort, client: PushClient, reception: Reception) -> None:
        self._node = node
        self._client = client
        self._reception = reception
        self._quiet: dict[str, tuple[int, float, float]] = {}  # run: version heard, ask at, pause
        self._after: dict[str, str] = {}

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            try:
                await self._turn()
            except CisError as error:
                log.error("nobody can be asked; trying again", extra={"error": str(error)})
            await asyncio.sleep(LOOK_EVERY_S)

    async def _turn(self) -> None:
        now_s = asyncio.get_running_loop().time()
        open_runs = await self._node.read(_taken_on)
        known, self._quiet = self._quiet, {}
        due: list[tuple[RemoteRun, PeerRecord | None]] = []
        for remote, peer in open_runs:
            first_s, most_s = (ROOM_QUIET_S, MOST_ROOM_QUIET_S) if peer is None else (QUIET_S, MOST_QUIET_S)
            version, at_s, pause = known.get(remote.run_id, (-1, 0.0, first_s))
            if version != remote.heard_version:
                version, at_s, pause = remote.heard_version, now_s + first_s, first_s
            elif at_s <= now_s and len(due) < AT_ONCE:
                due.append((remote, peer))
                pause = min(most_s, pause * 1.5)
                at_s = now_s + pause
            self._quiet[remote.run_id] = (version, at_s, pause)
        self._after = {run_id: token for run_id, token in self._after.items() if run_id in self._quiet}
        await asyncio.gather(
            *(self._ask(remote, peer) if peer is not None else self._ask_in_room(remote) for remote, peer in due)
        )

    async def _ask(self, remote: RemoteRun, peer: PeerRecord) -> None:
        node = self._node
        for _ in range(1000):  # pages of one answer
            now_us = node.this_node.clock_us()
            ask = Message(
                kind=MessageKind.ASK,
                message_id=node.this_node.new_id(),
                sender=node.this_node.node_id,
                created_at_us=now_us,
                expires_at_us=now_us + _ASK_FOR_US,
                run_id=remote.run_id,
                target=peer.node_id,
                fields={"after": self._after.get(remote.run_id, "")},
            )
            answer = await self._client.send(ask, peer, signer=node.keys.signer(), now_us=now_us)
            if isinstance(answer, NotDelivered) or answer.reply.result is not Result.ACCEPTED:
                return
            told = answer.message.fields
            if told.get("known") is not True:
                await self._lost(remote, peer)
                return
            status = replace(answer.message, kind=MessageKind.STATUS, run_id=remote.run_id, expires_at_us=2**62)
            report = await report_of(status, _blob_of(answer.blob))
            outcome = await self._reception.act(
                ReceivedMessage(message=status, peer=peer, source=peer.url or "", report=report)
            )
            if outcome.reply.result is not Result.ACCEPTED or not isinstance(told.get("token"), str):
                self._after.pop(remote.run_id, None)
                return
            self._after[remote.run_id] = told["token"]
            if told.get("more") is not True:
                return

    async def _lost(self, remote: RemoteRun, peer: PeerRecord) -> None:
        """Fail a run that its executor took on, and knows nothing of any more."""
        error = f"node {peer.node_id} took it on, and does not know it any more"
        now_us = self._node.this_node.clock_us()
        await self._node.write(lambda store: undeliverable(store, remote.run_id, error=error, now_us=now_us))
        self._node.wake()

    async def _ask_in_room(self, remote: RemoteRun) -> None:
        now_us, message_id = self._node.this_node.clock_us(), self._node.this_node.new_id()
        await self._node.write(lambda store: ask_in_room(store, remote, message_id=message_id, now_us=now_us))
        self._node.wake()


def _blob_of(blob: str | None) -> FetchBlob:
    async def fetch(_: BlobRef) -> bytes:
        return (blob or "").encode()

    return fetch


def _taken_on(store: Store) -> list[tuple[RemoteRun, PeerRecord | None]]:
    """Return the runs that a peer has taken on, with the peer where it has an address; else the room is to be asked."""
    peers = {peer.node_id: peer for peer in store.peers.all()}
    found: list[tuple[RemoteRun, PeerRecord | None]] = []
    for remote in store.remotes.open(RemoteRole.SENT):
        run = store.runs.get(remote.run_id)
        if remote.epoch or remote.peer not in peers or run is None or run.delivery is not Delivery.PUSHED:
            continue  # one under a lease says itself that it lives, and how it goes
        peer = peers[remote.peer]
        found.append((remote, peer if peer.url is not None else None))
    return found


class Answering:
    """Takes one pushed message in and returns the bytes of its answer."""

    def __init__(self, node: NodePort, reception: Reception) -> None:
        self._node = node
        self._reception = reception
        self._teller = Teller(node)

    async def open(self, reader: FrameReader, *, source: str) -> tuple[Message, PeerRecord]:
        """Read a message, and return it with the peer that signed it; what travels beside it is left for later.

        Raises:
            MalformedMessageError, UntrustedError: it is none, or nobody's who is trusted here.
        """
        try:
            content = await _in_time(reader.content(), CONTENT_S)
        except MalformedMessageError as error:
            await self._reception.note_stranger(None, error, source=source)
            raise
        return await self._reception.open(content, source=source)

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

        reply = await self._reception.take(message, peer, source=source, fetch=fetch)
        fields, blob = dict(reply.fields), None
        token = self._node.this_node.new_id()
        if message.kind is MessageKind.ASK and reply.result is Result.ACCEPTED:
            fields, blob = await self._teller.answer(message, token=token)
        return self._sealed(message, reply, fields, blob=blob, message_id=token)

    def _sealed(
        self, message: Message, reply: Reply, fields: dict[str, Json], *, blob: str | None, message_id: str
    ) -> bytes:
        now_us = self._node.this_node.clock_us()
        answer = Message(
            kind=MessageKind.ANSWER,
            message_id=message_id,
            sender=self._node.this_node.node_id,
            target=message.sender,
            run_id=message.run_id,
            created_at_us=now_us,
            expires_at_us=now_us + _ANSWER_FOR_US,
            fields={
                **fields,
                "reply_to": message.message_id,
                "result": str(reply.result),
                "code": reply.code,
                "detail": reply.detail,
            },
            blob_name=None if blob is None else REPORT_REF,
            blob=blob,
        )
        return frame(seal(answer, self._node.keys.signer()), answer)


async def _in_time(reading: Awaitable[T], seconds: float) -> T:
    """Await what is read. Raises MalformedMessageError when it takes too long: whoever sends it may be gone."""
    try:
        async with asyncio.timeout(seconds):
            return await reading
    except TimeoutError as error:
        raise MalformedMessageError(f"a message did not come whole within {seconds:g} s") from error
