"""``!dag`` in the room: a few commands for people, answered in a thread.

Only those whom this node's own settings allow are heard, each for what it may do; anybody else is passed over, and
written into the audit log. A command names stored DAGs and runs and never carries shell text. It has to be plain text,
no answer, no edit. With ``--node`` only that node answers, and it runs what it is to run itself; without, every node
that allows the person answers, so put a person on the list of one node, or name the node.
"""

from __future__ import annotations

import hashlib
import logging
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cis.app.actor import Actor
from cis.app.control import Action, Controlled, control
from cis.app.submit import Accepted, Asker, accept, stored_dag
from cis.engine.lookup import run_of
from cis.errors import CisError, NotAllowedError, UsageError
from cis.federation.messages import CONTROL, EXECUTE, READ
from cis.federation.service import NodePort
from cis.model.ids import did_you_mean
from cis.model.scope_rules import Patterns
from cis.model.states import RunState
from cis.store.cluster import RoomEvent
from cis.store.port import Store
from cis.store.records import AuditRecord
from cis.store.refusals import RefusalShares
from cis.transports.matrix import chat_answers
from cis.transports.matrix.threads import Threads, notice_id, post_notice

log = logging.getLogger(__name__)

MAX_WORDS = 20
NOTED_AN_HOUR = 10
MAX_COMMAND_CHARS = 1000
_COMMANDS = {
    "list": READ,
    "status": READ,
    "logs": READ,
    "workers": READ,
    "nodes": READ,
    "help": READ,
    "run": EXECUTE,
    "cancel": CONTROL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """What somebody may do here, and in which scopes (None: in all)."""

    may: Collection[str]
    scopes: Patterns | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its name, what follows it, and the node that is to answer."""

    name: str
    words: Sequence[str]
    node: str | None = None


def parse(body: str) -> Command:
    """Return the command in a message that begins with ``!dag``. Raises UsageError."""
    try:
        words = shlex.split(body[:MAX_COMMAND_CHARS])[1 : MAX_WORDS + 1]
    except ValueError as error:
        raise UsageError(f"this cannot be read: {error}") from error
    node = None
    if "--node" in words:
        place = words.index("--node")
        if place + 1 >= len(words):
            raise UsageError("--node needs the id of a node")
        node = words[place + 1]
        words[place : place + 2] = []
    name, *rest = words or ["help"]
    if name not in _COMMANDS:
        raise UsageError(f"there is no {name!r:.60}{did_you_mean(name, _COMMANDS)}; !dag help lists what there is")
    return Command(name, tuple(rest), node)


class Chat:
    """Answers commands in one room, and tells of the runs that were started by one."""

    def __init__(self, node: NodePort, *, room_id: str, allow: Mapping[str, Person]) -> None:
        self._node = node
        self._room_id = room_id
        self._allow = allow
        self._threads = Threads(node)
        self._strangers = RefusalShares(most=NOTED_AN_HOUR)

    def wake(self) -> None:
        """Something was stored: there may be news for a thread."""
        self._threads.wake()

    async def run(self) -> None:
        """Tell of runs until cancelled."""
        await self._threads.run()

    async def receive(self, event: RoomEvent) -> None:
        """Answer one message that begins with ``!dag``."""
        content = event.content
        if content.get("msgtype") != "m.text" or content.get("m.relates_to") is not None:
            return
        person = self._allow.get(event.sender)
        if person is None or not person.may:
            await self._note_stranger(event)
            return
        try:
            command = parse(str(content.get("body", "")))
            if command.node not in (None, self._node.this_node.node_id):
                return
            needed = _COMMANDS[command.name]
            if needed not in person.may:
                await self._note(event, "refused.chat", command.name)
                raise NotAllowedError(f"you may not {needed} here")
            text = await self._do(command, event, scopes=person.scopes)
        except CisError as error:
            text = str(error)
        if text:
            await self._node.write(lambda store: self._answer(store, event, text))

    async def _do(self, command: Command, event: RoomEvent, *, scopes: Patterns | None) -> str:
        """Do what a command says, and return what is to be answered to it, if that was not done as well."""
        node_id = self._node.this_node.node_id
        match command.name, command.words:
            case "list", []:
                return await self._node.read(lambda store: chat_answers.listing(store.definitions, scopes=scopes))
            case "status", [*words] if len(words) <= 1:
                one = next(iter(words), None)
                return await self._node.read(lambda store: chat_answers.status(store, one, scopes=scopes))
            case "logs", [dag_id, *task] if len(task) <= 1:
                name = next(iter(task), None)
                return await self._node.read(lambda store: chat_answers.log_tail(store, dag_id, name, scopes=scopes))
            case "workers", []:
                return await self._node.read(lambda store: chat_answers.workers(store, node_id, scopes=scopes))
            case "nodes", []:
                now_us = self._node.this_node.clock_us()
                return await self._node.read(lambda store: chat_answers.nodes(store.peers, node_id, now_us=now_us))
            case "help", _:
                return chat_answers.HELP
            case "run", [dag_id]:
                return await self._run(dag_id, event, target=command.node, scopes=scopes)
            case "cancel", [dag_id]:
                return await self._cancel(dag_id, event, scopes=scopes)
        raise UsageError(f"!dag {command.name} is written otherwise; !dag help says how")

    async def _run(self, dag_id: str, event: RoomEvent, *, target: str | None, scopes: Patterns | None) -> str:
        key = f"room-{hashlib.sha256(event.event_id.encode()).hexdigest()[:32]}"

        def job(store: Store) -> Accepted:
            asker = Asker(name=event.sender, scopes=scopes, shares=True)
            request = stored_dag(store.definitions, dag_id, key=key, asker=asker, target=target)
            accepted = accept(store, request, this_node=self._node.this_node, by=_actor_of(event))
            run = accepted.run
            if accepted.created:
                store.room.put_thread(run.run_id, room_id=self._room_id, event_id=event.event_id)
                post_notice(
                    store.outbox,
                    f"run {run.run_id} of {dag_id}",
                    thread=event.event_id,
                    run_id=run.run_id,
                    message_id=notice_id(run.run_id, 0),  # before all that the run itself gives rise to
                    now_us=self._node.this_node.clock_us(),
                )
            return accepted

        self._node.wake((await self._node.write(job)).wake)
        return ""  # answered already, in the transaction that made the run

    async def _cancel(self, dag_id: str, event: RoomEvent, *, scopes: Patterns | None) -> str:
        def job(store: Store) -> Controlled:
            run = run_of(store, dag_id, scopes=scopes)
            now_us = self._node.this_node.clock_us()
            return control(store, run.run_id, Action.CANCEL, by=_actor_of(event), now_us=now_us)

        changed = await self._node.write(job)
        self._node.wake(changed.wake)
        done = "cancelled" if changed.run.status is RunState.CANCELLED else "its tasks are being ended"
        return f"run {changed.run.run_id} of {dag_id}: {done}"

    def _answer(self, store: Store, event: RoomEvent, text: str) -> None:
        now_us, message_id = self._node.this_node.clock_us(), self._node.this_node.new_id()
        post_notice(store.outbox, text, thread=event.event_id, run_id="", message_id=message_id, now_us=now_us)

    async def _note_stranger(self, event: RoomEvent) -> None:
        """Write down that a person was passed over; of one who goes on, no more than the first lines of an hour."""
        entry = self._strangers.admit(self._entry(event, "refused.chat", "not on this node's list"))
        if entry is not None:
            log.warning("a command was passed over", extra={"sender": event.sender, "reason": entry.subject})
            await self._node.write(lambda store: store.audit.append(entry))

    async def _note(self, event: RoomEvent, action: str, subject: str) -> None:
        log.warning("a command was passed over", extra={"sender": event.sender, "reason": subject})
        await self._node.write(lambda store: store.audit.append(self._entry(event, action, subject)))

    def _entry(self, event: RoomEvent, action: str, subject: str) -> AuditRecord:
        by = _actor_of(event)
        at_us = self._node.this_node.clock_us()
        return AuditRecord(at_us=at_us, actor=by.name, action=action, subject=subject, source=by.source)


def _actor_of(event: RoomEvent) -> Actor:
    """Return who wrote a message, and where, for the audit log."""
    return Actor(name=f"matrix:{event.sender}", source=f"room:{event.room_id}")
