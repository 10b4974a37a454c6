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
from dataclasses import dataclass, replace

from cis.app.actor import Actor
from cis.app.control import Action, Controlled, control
from cis.app.submit import Accepted, Asker, accept, stored_dag
from cis.engine.lookup import run_of
from cis.engine.observe.logs import last_attempts
from cis.engine.observe.logtext import heading
from cis.engine.observe.views import CLOCK_WARNING_S, read_status
from cis.errors import CisError, NotAllowedError, UsageError
from cis.federation.messages import CONTROL, EXECUTE, READ
from cis.federation.service import NodePort
from cis.model.ids import counted, did_you_mean
from cis.model.scope_rules import Patterns, allows
from cis.model.states import RunState, Trigger, TriggerKind
from cis.store.access_records import AuditRecord
from cis.store.cluster import RoomEvent
from cis.store.cluster_port import Peers
from cis.store.port import Store
from cis.store.records import RunFilter
from cis.store.run_port import Definitions
from cis.store.shares import RefusalShares
from cis.transports.matrix.threads import Threads, notice_id, post_notice

log = logging.getLogger(__name__)

MAX_WORDS = 20
NOTED_AN_HOUR = 10
MAX_COMMAND_CHARS = 1000
MAX_ROWS = 20
MAX_LINES = 30
PAGE = 1000
HELP = """\
!dag list — stored DAGs
!dag run DAG — run a stored DAG
!dag status [DAG] — latest runs, or one DAG's
!dag logs DAG [TASK] — the end of what its latest run wrote
!dag cancel DAG — end its latest run
!dag workers — workers of this node
!dag nodes — this node and those it trusts
Each with --node NODE: that node alone answers, and runs what it is to run itself."""
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
            text = _without_shell(str(error))
        if text:
            await self._node.write(lambda store: self._answer(store, event, text))

    async def _do(self, command: Command, event: RoomEvent, *, scopes: Patterns | None) -> str:
        """Do what a command says, and return what is to be answered to it, if that was not done as well."""
        node_id = self._node.this_node.node_id
        match command.name, command.words:
            case "list", []:
                return await self._node.read(lambda store: listing_text(store.definitions, scopes=scopes))
            case "status", [*words] if len(words) <= 1:
                one = next(iter(words), None)
                return await self._node.read(lambda store: status_text(store, one, scopes=scopes))
            case "logs", [dag_id, *task] if len(task) <= 1:
                name = next(iter(task), None)
                return await self._node.read(lambda store: log_tail_text(store, dag_id, name, scopes=scopes))
            case "workers", []:
                return await self._node.read(lambda store: workers_text(store, node_id, scopes=scopes))
            case "nodes", []:
                now_us = self._node.this_node.clock_us()
                return await self._node.read(lambda store: nodes_text(store.peers, node_id, now_us=now_us))
            case "help", _:
                return HELP
            case "run", [dag_id]:
                return await self._run(dag_id, event, target=command.node, scopes=scopes)
            case "cancel", [dag_id]:
                return await self._cancel(dag_id, event, scopes=scopes)
        raise UsageError(f"!dag {command.name} cannot be read like this; !dag help shows how it is written")

    async def _run(self, dag_id: str, event: RoomEvent, *, target: str | None, scopes: Patterns | None) -> str:
        key = f"room-{hashlib.sha256(event.event_id.encode()).hexdigest()[:32]}"

        def job(store: Store) -> Accepted:
            asker = Asker(name=event.sender, scopes=scopes, shares=True)
            request = stored_dag(store.definitions, dag_id, key=key, asker=asker, target=target)
            request = replace(request, trigger=Trigger(TriggerKind.ROOM, event.event_id, event.sender))
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
        return cancel_text(changed)

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


def _without_shell(message: str) -> str:
    """Return an error without a way out that takes a shell, which who writes in the room may not have."""
    said, cut, _ = message.partition("; 'cis ")
    return f"{said}; !dag help lists what there is here" if cut else message


def _actor_of(event: RoomEvent) -> Actor:
    """Return who wrote a message, and where, for the audit log."""
    return Actor(name=f"matrix:{event.sender}", source=f"room:{event.room_id}")


# What the commands answer: plain text, short enough for a chat.


def cancel_text(changed: Controlled) -> str:
    """Return what becomes of a run that was cancelled: only who has been told ends tasks."""
    run = changed.run
    if run.status is RunState.CANCELLED:
        done = "cancelled"
    elif changed.another_node:
        done = f"node {run.owner_node} is told to end it when it can be reached"
    else:
        done = "its tasks are being ended"
    return f"run {run.run_id} of {run.dag_id}: {done}"


def listing_text(definitions: Definitions, *, scopes: Patterns | None = None) -> str:
    """Return the stored DAGs that may be seen, a line each."""
    page = definitions.page(limit=MAX_ROWS, saved_only=True, scopes=scopes)
    found = list(page.items)
    while page.next_cursor and len(found) < MAX_ROWS:
        page = definitions.page(limit=PAGE, cursor=page.next_cursor, saved_only=True, scopes=scopes)
        found += page.items
    lines = [
        f"{one.dag_id} — {counted(one.task_count, 'task')}, scope {one.scope}"
        + (f" — {one.description}" if one.description else "")
        for one in found[:MAX_ROWS]
    ]
    if page.next_cursor or len(found) > MAX_ROWS:
        lines.append("and more: 'cis dag definitions'")
    return "\n".join(lines) or "nothing is stored here; 'cis dag save FILE' stores a DAG"


def status_text(store: Store, dag_id: str | None, *, scopes: Patterns | None = None) -> str:
    """Return the latest runs, or how the latest run of one DAG goes."""
    if dag_id is None:
        runs = store.runs.page(RunFilter(scopes=scopes), limit=10).items
        return (
            "\n".join(f"{run.dag_id} {run.status} on {run.owner_node} — {run.run_id}" for run in runs) or "no runs yet"
        )
    found = read_status(store, dag_id, scopes=scopes)
    if not found["runs"]:
        return f"{dag_id} was never run here"
    run = found["runs"][0]
    counts: dict[str, int] = {}
    for task in run["tasks"]:
        counts[task["status"]] = counts.get(task["status"], 0) + 1
    lines = [f"{dag_id} {run['status']} on {run['owner_node']} — {run['run_id']}"]
    lines.append(", ".join(f"{count} {name}" for name, count in counts.items()))
    lines += [f"running: {task['id']}" for task in run["tasks"] if task["status"] == "running"][:MAX_ROWS]
    lines += [f"failed: {task['id']}: {task['error'] or ''}" for task in run["tasks"] if task["status"] == "failed"][
        :MAX_ROWS
    ]
    if run["waiting"]:
        lines.append(run["waiting"]["message"])
    return "\n".join(lines)


def log_tail_text(store: Store, dag_id: str, task: str | None, *, scopes: Patterns | None = None) -> str:
    """Return the last lines of the latest run of a DAG, or of one task of it."""
    run = run_of(store, dag_id, scopes=scopes)
    attempts = last_attempts(store, run.run_id, task=task, scopes=None, at_most=5)
    lines = []
    again = {attempt.task_no for attempt in attempts if attempt.attempt > 1}
    for attempt in attempts:
        named = attempt.attempt if attempt.task_no in again else 0
        lines.append(f"{heading(attempt.task_id, named)} {attempt.status}")
        text = attempt.stdout_tail + attempt.stderr_tail
        lines += text.splitlines()[-(MAX_LINES // max(1, len(attempts))) :]
    return "\n".join(lines) or f"run {run.run_id} wrote nothing yet"


def workers_text(store: Store, node_id: str, *, scopes: Patterns | None = None) -> str:
    """Return the live workers of this node that may be seen."""
    found = [one for one in store.workers.all(node_id=node_id, live_only=True) if allows(scopes, one.scope)][:MAX_ROWS]
    return (
        "\n".join(f"{one.worker_id} {one.status} — {counted(one.runs_done, 'run')} done" for one in found)
        or "no worker lives"
    )


def nodes_text(peers: Peers, node_id: str, *, now_us: int) -> str:
    """Return this node and those it trusts."""
    lines = [f"{node_id} (this one)"]
    for peer in peers.all()[:MAX_ROWS]:
        seen = (
            "never heard"
            if peer.contact_at_us is None
            else f"heard {max(0, now_us - peer.contact_at_us) // 1_000_000} s ago"
        )
        clock = abs(peer.clock_ahead_us or 0) // 1_000_000
        late = f", its clock is off by {clock} s" if clock > CLOCK_WARNING_S else ""
        lines.append(f"{peer.node_id} — {seen}{late}" + (f" — {peer.fault}" if peer.fault else ""))
    return "\n".join(lines)
