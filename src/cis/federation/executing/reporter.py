"""Reports to origins how their runs go here, until each has received the end.

What changed is read from the event log, run by run, and put into reports (``cis.federation.executing.report``). They
go by HTTP a moment after it happened, through the room more seldom, since a homeserver takes few events a second.
Nothing is queued: while an origin cannot be reached, its runs only stay marked as changed. After a restart each run
that is still open is reported from its beginning; reports merge, so what is reported twice does no harm.

A node that has no way to the origin at all waits to be asked (``cis.federation.origin.status``), and remembers what it
answered last (``StatusAnswers``); when it remembers nothing, it reports all of it again, which does no harm.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from cis.engine.this_node import ThisNode
from cis.errors import CisError, NotFoundError, PoisonRecordError
from cis.federation.executing.first_word import FirstWord
from cis.federation.executing.lease import ask_to_renew
from cis.federation.executing.report import Cursor, Report, build_report
from cis.federation.messages import CONTROL_ASKED, INCOMPLETE, Receive, ReceivedMessage, report_message, report_parts
from cis.federation.service import EventTail, NodePort, NotDelivered, Sending, Wakeup, pause_s
from cis.model.dag import Json
from cis.model.lease_terms import Standing
from cis.model.message import Message, MessageKind, Reply, Result
from cis.store.cluster import PeerRecord, RemoteRole, RemoteRun
from cis.store.cluster_port import Remotes
from cis.store.port import Store
from cis.store.records import QueueState

log = logging.getLogger(__name__)

SOON_S = 0.03  # so that what happens together is reported together
ROOM_SOON_S = 0.3
PUSH_EVERY_S = 0.25
ROOM_EVERY_S = 1.0
LOGS_EVERY_S = 1.0
RENEW_PART = 4  # a lease is renewed this many times before it is over
AT_ONCE = 8
LOOK_EVERY_S = 5.0
MAX_GROWING = 64
MAX_REMEMBERED = 256
MAX_REMEMBERED_ROWS = 500_000  # of tasks and attempts, in all of them together

SendToRoom = Callable[[Message, RemoteRun], Awaitable[bool]]
"""Sends a status message into the room; returns whether the homeserver took it."""


@dataclass(slots=True)
class _OpenRun:
    """What is to be reported one run. ``tasks`` None means all of them."""

    remote: RemoteRun
    tasks: set[str] | None = None
    cursor: Cursor = field(default_factory=Cursor)
    due_s: float = 0.0
    not_before_s: float = 0.0
    failures: int = 0
    busy: bool = False
    reported: tuple[Json, bool] | None = None  # the run's own fields, and whether it was suspended
    asked_s: float = float("-inf")  # when the lease was last asked to be renewed


class Reporter:
    """Reports runs that this node executes for others. *to_room* is None while there is no room."""

    def __init__(
        self, node: NodePort, client: Sending, *, jitter: Callable[[], float], receive: Receive, first_word: FirstWord
    ) -> None:
        self.to_room: SendToRoom | None = None
        self._receive = receive
        self._first_word = first_word
        self._node = node
        self._client = client
        self._jitter = jitter
        self._coming: set[str] = set()
        self._open: dict[str, _OpenRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._woken = Wakeup()
        self._tail = EventTail(node)

    def wake(self) -> None:
        """Something was stored: look."""
        self._woken.set()

    def add(self, run_id: str) -> None:
        """A run was taken on, or is to be reported from its beginning."""
        self._coming.add(run_id)
        self._woken.set()

    def nudge(self, node_id: str) -> None:
        """An origin has just spoken: report at once what waits."""
        for run in self._open.values():
            if run.remote.peer_id == node_id and run.failures:
                run.failures, run.due_s = 0, 0.0
                self._woken.set()

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            try:
                for remote in await self._node.read(lambda store: store.remotes.open(RemoteRole.RECEIVED)):
                    self._open.setdefault(remote.run_id, _OpenRun(remote))
                while True:
                    await self._turn()
            except CisError as error:
                log.error("reports cannot be made; trying again", extra={"error": str(error)})
                await asyncio.sleep(1.0)

    async def _begin(self) -> None:
        """Begin with the runs that came."""
        coming, self._coming = self._coming, set()
        try:
            remotes = await self._node.read(lambda store: _to_report(store.remotes, coming)) if coming else ()
        except CisError:
            self._coming |= coming
            raise
        for remote in remotes:
            # What is asked for, or granted anew, is reported from its beginning; one on its way counts for nothing.
            due_s = 0.0 if remote.run_id in self._open else self._first_s(remote)
            self._open[remote.run_id] = _OpenRun(remote, due_s=due_s)

    def _first_s(self, remote: RemoteRun) -> float:
        """Return when a run is reported first: in a room, what happens at its beginning is reported in one event."""
        return 0.0 if remote.event_id is None else asyncio.get_running_loop().time() + ROOM_SOON_S

    async def _turn(self) -> None:
        self._woken.clear()
        await self._begin()
        await self._read_events()
        loop = asyncio.get_running_loop()
        now_s, next_s = loop.time(), loop.time() + LOOK_EVERY_S
        busy = sum(run.busy for run in self._open.values())
        for run_id, run in list(self._open.items()):
            if run.busy:
                continue
            if run.due_s > now_s:
                next_s = min(next_s, run.due_s)
            elif busy < AT_ONCE:
                busy += 1
                run.busy = True
                task = loop.create_task(self._report(run_id, run))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        await self._woken.within(next_s - loop.time())

    async def _read_events(self) -> None:
        if not self._open:
            self._tail.forget()  # a run that is reported from its beginning needs no event of before
            return
        now_s = asyncio.get_running_loop().time()
        async for missed, events in self._tail.new():
            for run in self._open.values() if missed else ():
                run.tasks = None
            for event in events:
                changed = self._open.get(event.run_id or "")
                if changed is None:
                    continue
                if event.task_id is not None and changed.tasks is not None:
                    changed.tasks.add(event.task_id)
                soon_s = SOON_S if changed.remote.event_id is None else ROOM_SOON_S
                changed.due_s = max(changed.not_before_s, min(changed.due_s, now_s + soon_s))

    async def _report(self, run_id: str, run: _OpenRun) -> None:
        loop = asyncio.get_running_loop()
        tasks, run.tasks, run.due_s = run.tasks, set(), float("inf")
        report, every_s = None, None
        try:
            report, suspended, peer = await self._node.read(lambda store: self._look(store, run, tasks))
            reported = (report.content["run"], suspended)
            if _is_news(report, run, reported, now_s=loop.time()):
                every_s = await self._send(report, run, peer, suspended=suspended)
                run.reported = reported if every_s is not None else None
            else:
                every_s = PUSH_EVERY_S if run.remote.event_id is None else ROOM_EVERY_S
        except NotFoundError:
            self._drop(run_id, run)
            return
        except CisError as error:
            log.warning("a report could not be sent", extra={"run_id": run_id, "error": str(error)})
        finally:
            run.busy = False
            self._woken.set()
            if self._first_word.heard(run_id):
                self._node.wake()
        if self._open.get(run_id) is not run:
            return  # it was granted anew, or asked for, meanwhile
        if report is None or every_s is None:
            run.tasks = None if tasks is None or run.tasks is None else run.tasks | tasks
            run.failures += 1
            run.due_s = run.not_before_s = loop.time() + pause_s(run.failures, jitter=self._jitter)
            return
        run.failures = 0
        run.cursor = report.cursor
        if report.final:
            await self._close(run_id)
            return
        growing = report.content["run"]["status"] == "running" and len(self._open) <= MAX_GROWING
        quiet_s = LOGS_EVERY_S if growing else float("inf")
        if run.remote.epoch:
            quiet_s = min(quiet_s, run.remote.lease_us / 1e6 / RENEW_PART)
        run.not_before_s = loop.time() + (0.0 if report.more else every_s)
        changed = report.more or run.tasks != set() or run.due_s != float("inf")
        run.due_s = run.not_before_s if changed else loop.time() + max(every_s, quiet_s)

    def _drop(self, run_id: str, run: _OpenRun) -> None:
        if self._open.get(run_id) is run:
            del self._open[run_id]

    def _look(self, store: Store, run: _OpenRun, tasks: set[str] | None) -> tuple[Report, bool, PeerRecord | None]:
        remote = run.remote
        item = store.queue.get(remote.run_id) if remote.epoch else None
        suspended = item is not None and item.status is QueueState.SUSPENDED
        report = build_report(store, self._node.logs, remote.run_id, tasks=tasks, cursor=run.cursor)
        return report, suspended, store.peers.get(remote.peer_id, or_farewell=True)

    async def _send(self, report: Report, run: _OpenRun, peer: PeerRecord | None, *, suspended: bool) -> float | None:
        """Send a report by whatever way there is; return how long to wait before the next, or None: not taken."""
        node, remote = self._node, run.remote
        if peer is None:
            log.warning("the origin of a run is not trusted any more", extra={"run_id": remote.run_id})
            await self._close(remote.run_id)
            return PUSH_EVERY_S
        begun_s = asyncio.get_running_loop().time()
        asks = remote.epoch > 0 and (suspended or _renewal_is_due(run, now_s=begun_s))
        this_node = node.this_node
        nonce = (
            await node.write(lambda store: ask_to_renew(store.offers, remote.run_id, this_node=this_node))
            if asks
            else None
        )
        message = report_message(
            remote.run_id,
            report.content,
            sender=node.this_node.node_id,
            origin=remote.peer_id,
            message_id=node.this_node.new_id(),
            standing=Standing(epoch=remote.epoch, suspended=suspended, nonce=nonce),
            now_us=node.this_node.clock_us(),
        )
        # A lease is renewed in the room alone: there the homeserver's order decides who holds a run.
        if peer.url is not None and remote.epoch == 0:
            answer = await self._client.send(message, peer)
            if not isinstance(answer, NotDelivered):
                return await self._settle(run, answer.reply, peer)
        if self.to_room is not None and peer.matrix_user is not None and await self.to_room(message, remote):
            run.asked_s = begun_s if asks else run.asked_s
            return ROOM_EVERY_S
        return None

    async def _settle(self, run: _OpenRun, reply: Reply, peer: PeerRecord) -> float | None:
        run_id = run.remote.run_id
        asked = reply.fields.get(CONTROL_ASKED)
        if isinstance(asked, Mapping):
            await self._receive(_control(run.remote, asked, peer, this_node=self._node.this_node))
        if reply.result is Result.LATER:
            if reply.code == INCOMPLETE:
                run.tasks, run.cursor = None, Cursor()
            return None
        if reply.result is Result.REFUSED:
            log.warning("a report was refused", extra={"run_id": run_id, "reason": reply.detail})
            await self._close(run_id)
        return PUSH_EVERY_S

    async def _close(self, run_id: str) -> None:
        self._open.pop(run_id, None)

        def job(store: Store) -> None:
            remote = store.remotes.get(run_id)
            if remote is not None and remote.open:
                store.remotes.put(replace(remote, open=False))

        await self._node.write(job)


def _control(
    remote: RemoteRun, fields: Mapping[str, Json], peer: PeerRecord, *, this_node: ThisNode
) -> ReceivedMessage:
    """Return what the answer to a report asks for, as the control message that it is."""
    now_us = this_node.clock_us()
    message = Message(
        kind=MessageKind.CONTROL,
        message_id=this_node.new_id(),
        sender=peer.node_id,
        created_at_us=now_us,
        expires_at_us=2**62,
        run_id=remote.run_id,
        target=this_node.node_id,
        fields=fields,
    )
    return ReceivedMessage(message=message, peer=peer, source=peer.url or "")


def _to_report(remotes: Remotes, run_ids: Iterable[str]) -> list[RemoteRun]:
    found = []
    for run_id in run_ids:
        try:
            remote = remotes.get(run_id)
        except PoisonRecordError as error:
            log.error("a run cannot be told of", extra={"run_id": run_id, "error": str(error)})
            continue
        if remote is not None and remote.role is RemoteRole.RECEIVED and remote.open:
            found.append(remote)
    return found


def _is_news(report: Report, run: _OpenRun, reported: tuple[Json, bool], *, now_s: float) -> bool:
    """Whether a report says anything that was not said, or has to be sent to keep a lease."""
    content = report.content
    if report.final or report.more or content["tasks"] or content["attempts"] or content["logs"]:
        return True
    return reported != run.reported or _renewal_is_due(run, now_s=now_s)


def _renewal_is_due(run: _OpenRun, *, now_s: float) -> bool:
    remote = run.remote
    return remote.epoch > 0 and now_s - run.asked_s >= remote.lease_us / 1e6 / RENEW_PART


class StatusAnswers:
    """Answers who asks how a run goes: remembers, for some runs, what was answered last."""

    def __init__(self, node: NodePort) -> None:
        self._node = node
        self._answered: OrderedDict[str, tuple[str, Cursor]] = OrderedDict()

    async def answer(self, ask: Message, *, token: str) -> tuple[dict[str, Json], str | None]:
        """Return the fields and the blob of an answer; *token* names it for the next question."""
        remote = await self._node.read(lambda store: store.remotes.get(ask.run_id))
        if remote is None or remote.role is not RemoteRole.RECEIVED or remote.peer_id != ask.sender:
            return {"known": False}, None
        last = self._answered.get(ask.run_id)
        cursor = last[1] if last is not None and last[0] == ask.fields.get("after") else Cursor()
        report = await self._node.read(
            lambda store: build_report(store, self._node.logs, ask.run_id, tasks=None, cursor=cursor)
        )
        self.remember(ask.run_id, token, report.cursor)
        inline, blob = report_parts(report.content)
        return {"known": True, "epoch": remote.epoch, "token": token, "more": report.more, **inline}, blob

    def remember(self, run_id: str, token: str, cursor: Cursor) -> None:
        """Keep how far a run was reported, and forget what was reported longest ago when it is too much."""
        self._answered[run_id] = (token, cursor)
        self._answered.move_to_end(run_id)
        while len(self._answered) > MAX_REMEMBERED or (len(self._answered) > 1 and self._rows() > MAX_REMEMBERED_ROWS):
            self._answered.popitem(last=False)

    def _rows(self) -> int:
        return sum(len(cursor.versions) + len(cursor.ended) for _, cursor in self._answered.values())
