"""An origin and the word of the nodes that execute its runs: receives status messages, asks when none come.

A report is only taken from the node that holds the run, under the grant that it holds it by, and merges row by row
(``cis.federation.origin.mirror``).

The origin asks (``StatusAsker``) when it has received nothing about a run for a while: its executing node may not reach it,
as a laptop behind NAT. It names the last answer that it has, and the executing node goes on from there
(``cis.federation.executing.reporter``).
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from cis.engine.accept.dispatch import delivered, undeliverable
from cis.engine.logfiles import LogFiles
from cis.engine.this_node import ThisNode
from cis.errors import CisError, MessageRefusedError
from cis.federation import restored
from cis.federation.messages import (
    CONTROL_ASKED,
    INCOMPLETE,
    FetchBlob,
    Outcome,
    Receive,
    ReceivedMessage,
    outcome,
    refusal_text,
    report_of,
)
from cis.federation.origin import arbiter
from cis.federation.origin.mirror import apply_report
from cis.federation.service import NodePort, NotDelivered, Sending
from cis.model.dag import Json
from cis.model.lease_terms import Standing
from cis.model.message import BlobRef, Message, MessageKind, Reply, Result
from cis.store.cluster import OutboxItem, PeerRecord, RemoteRole, RemoteRun, room_item
from cis.store.port import Store
from cis.store.records import Delivery
from cis.store.run_port import Runs

log = logging.getLogger(__name__)

ASK_FOR_US = 3_600_000_000
QUIET_S = 2.0
MOST_QUIET_S = 20.0
ROOM_QUIET_S = 600.0
MOST_ROOM_QUIET_S = 6 * 3600.0
AT_ONCE = 8
LOOK_EVERY_S = 1.0
_PUSHED_ASK_FOR_US = 60_000_000


def receive_status(store: Store, received: ReceivedMessage, *, this_node: ThisNode, logfiles: LogFiles) -> Outcome:
    """Apply what the node that holds a run reports: a report, a refusal, or a question after a restore."""
    message, remote = received.message, held_run(store, received)
    now_us = this_node.clock_us()
    answer = restored.receive_question(store, received, remote, this_node=this_node)
    if answer is not None:
        return answer
    refusal = message.fields.get("refused")
    is_restored = remote.epoch > 0 and store.restores.doubts(message.run_id)
    if is_restored and refusal is not None:
        return outcome(Result.DUPLICATE)  # of long ago perhaps: it is offered again in any case
    if is_restored:
        store.remotes.put(remote)
    if refusal is not None and remote.epoch:
        arbiter.take_back(store, remote, this_node=this_node, why=refusal_text(message.sender, refusal))
        return outcome(Result.ACCEPTED)
    if refusal is not None:
        undeliverable(store, message.run_id, error=refusal_text(message.sender, refusal), now_us=now_us)
        return outcome(Result.ACCEPTED)
    delivered(store, message.run_id, now_us=now_us)
    arbiter.receive_standing(store, remote, Standing.read(message.fields), this_node=this_node)
    fresh = store.remotes.get(message.run_id)
    if fresh is None or fresh.role is not RemoteRole.SENT or not fresh.open:
        return outcome(Result.DUPLICATE)
    applied = apply_report(store, logfiles, fresh, received.report, now_us=now_us)
    if applied.run.status.final:
        store.outbox.remove_of_run(message.run_id, MessageKind.CONTROL)
    if applied.incomplete:
        if received.event_id is not None:
            post_ask(store, fresh, message_id=this_node.new_id(), now_us=now_us)
        return Outcome(reply=Reply(result=Result.LATER, code=INCOMPLETE, detail="tell all of it again"))
    asked = _asked_of(store, fresh)
    fields: dict[str, Json] = {} if asked is None else {CONTROL_ASKED: dict(asked.fields)}
    rings = _parent_ring(store.runs, applied.parent_run_id)
    return Outcome(reply=Reply(result=Result.ACCEPTED, fields=fields), rings=rings)


def _asked_of(store: Store, remote: RemoteRun) -> OutboxItem | None:
    """Return what the node that has a run is still to be told to do with it."""
    if not remote.control_seq:
        return None
    items = [item for item in store.outbox.of_run(remote.run_id) if item.kind == MessageKind.CONTROL]
    return items[-1] if items else None


def held_run(store: Store, received: ReceivedMessage) -> RemoteRun:
    """Return the other node's part in the run that a status message is about, which has to be its sender's."""
    message = received.message
    remote = store.remotes.get(message.run_id)
    known = restored.adopted(store.restores, received, remote) if remote is not None else None
    if known is not None:
        return known
    held = remote is not None and remote.role is RemoteRole.SENT and remote.peer_id == message.sender
    if remote is None or not held or message.fields.get("epoch") != remote.epoch:
        raise MessageRefusedError("auth.forbidden", f"node {message.sender!r} does not hold run {message.run_id!r}")
    return remote


def post_ask(store: Store, remote: RemoteRun, *, message_id: str, now_us: int) -> None:
    """Ask the node that has a run how it goes, unless that was asked and is not answered yet."""
    run = store.runs.get(remote.run_id)
    if run is None or any(item.kind == MessageKind.ASK for item in store.outbox.of_run(remote.run_id)):
        return
    store.outbox.add(
        room_item(
            kind=MessageKind.ASK,
            message_id=message_id,
            run_id=remote.run_id,
            node_id=remote.peer_id,
            priority=run.priority,
            now_us=now_us,
            within_us=ASK_FOR_US,
        )
    )


def _parent_ring(runs: Runs, parent_run_id: str | None) -> frozenset[str]:
    """Return the worker that waits for a run as its task, if there is one."""
    parent = runs.get(parent_run_id) if parent_run_id is not None else None
    return frozenset() if parent is None else frozenset({parent.worker_id})


class StatusAsker:
    """Asks for the runs of which nothing was received lately."""

    def __init__(self, node: NodePort, client: Sending, *, receive: Receive) -> None:
        self._node = node
        self._client = client
        self._receive = receive
        self._quiet: dict[str, tuple[int, float, float]] = {}  # run: version applied, ask at, pause
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
        open_runs = await self._node.read(_to_ask_about)
        known, self._quiet = self._quiet, {}
        due: list[tuple[RemoteRun, PeerRecord | None]] = []
        for remote, peer in open_runs:
            first_s, most_s = (ROOM_QUIET_S, MOST_ROOM_QUIET_S) if peer is None else (QUIET_S, MOST_QUIET_S)
            version, at_s, pause = known.get(remote.run_id, (-1, 0.0, first_s))
            if version != remote.applied_version:
                version, at_s, pause = remote.applied_version, now_s + first_s, first_s
            elif at_s <= now_s and len(due) < AT_ONCE:
                due.append((remote, peer))
                pause = min(most_s, pause * 1.5)
                at_s = now_s + pause
            self._quiet[remote.run_id] = (version, at_s, pause)
        self._after = {run_id: token for run_id, token in self._after.items() if run_id in self._quiet}
        await asyncio.gather(
            *(self._ask(remote, peer) if peer is not None else self._post_ask(remote) for remote, peer in due)
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
                expires_at_us=now_us + _PUSHED_ASK_FOR_US,
                run_id=remote.run_id,
                target=peer.node_id,
                fields={"after": self._after.get(remote.run_id, "")},
            )
            answer = await self._client.send(ask, peer)
            if isinstance(answer, NotDelivered) or answer.reply.result is not Result.ACCEPTED:
                return
            said = answer.message.fields
            if said.get("known") is not True:
                await self._lost(remote, peer)
                return
            status = replace(answer.message, kind=MessageKind.STATUS, run_id=remote.run_id, expires_at_us=2**62)
            report = await report_of(status, _blob_of(answer.blob))
            outcome = await self._receive(
                ReceivedMessage(message=status, peer=peer, source=peer.url or "", report=report)
            )
            if outcome.reply.result is not Result.ACCEPTED or not isinstance(said.get("token"), str):
                self._after.pop(remote.run_id, None)
                return
            self._after[remote.run_id] = said["token"]
            if said.get("more") is not True:
                return

    async def _lost(self, remote: RemoteRun, peer: PeerRecord) -> None:
        """Fail a run that its executing node took on, and knows nothing of any more."""
        error = f"node {peer.node_id} took it on, and does not know it any more"
        now_us = self._node.this_node.clock_us()
        await self._node.write(lambda store: undeliverable(store, remote.run_id, error=error, now_us=now_us))
        self._node.wake()

    async def _post_ask(self, remote: RemoteRun) -> None:
        now_us, message_id = self._node.this_node.clock_us(), self._node.this_node.new_id()
        await self._node.write(lambda store: post_ask(store, remote, message_id=message_id, now_us=now_us))
        self._node.wake()


def _blob_of(blob: str | None) -> FetchBlob:
    async def fetch(_: BlobRef) -> bytes:
        return (blob or "").encode()

    return fetch


def _to_ask_about(store: Store) -> list[tuple[RemoteRun, PeerRecord | None]]:
    """Return the runs that a peer has taken on, with the peer where it has an address; else the room is to be asked."""
    peers = {peer.node_id: peer for peer in store.peers.all()}
    found: list[tuple[RemoteRun, PeerRecord | None]] = []
    for remote in store.remotes.open(RemoteRole.SENT):
        run = store.runs.get(remote.run_id)
        if remote.epoch or remote.peer_id not in peers or run is None or run.delivery is not Delivery.PUSHED:
            continue  # one under a lease says itself that it lives, and how it goes
        peer = peers[remote.peer_id]
        found.append((remote, peer if peer.url is not None else None))
    return found
