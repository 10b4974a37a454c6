"""Tells of runs in the thread of the message that started them: begun, each failure with its last lines, over.

A notice is an item of the outbox with a name of its own, so one that is made twice is sent once. What happens while
this node is down is told when it is up again, as far as the event log reaches back to where it was read.
"""

from __future__ import annotations

import logging
from functools import partial

from cis.errors import CisError
from cis.federation.service import EventTail, NodePort, Wakeup
from cis.model.durations import format_duration
from cis.model.states import Priority, RunState, TaskState
from cis.store.cluster import RemoteRole, room_item
from cis.store.cluster_port import Outbox, Remotes
from cis.store.port import Store
from cis.store.records import EventRecord, RunRecord

log = logging.getLogger(__name__)

NOTICE = "m.notice"
MAX_CHARS = 4000
BEGINNING_CHARS = 1000  # of a longer one
MAX_LINES = 10
MAX_FAILURES = 20
LOOK_EVERY_S = 5.0
_TELL_FOR_US = 86_400_000_000


def post_notice(outbox: Outbox, text: str, *, thread: str, run_id: str, message_id: str, now_us: int) -> None:
    """Put an answer in a thread into the outbox."""
    outbox.add(
        room_item(
            kind=NOTICE,
            message_id=message_id,
            run_id=run_id,
            priority=Priority.LOW,
            now_us=now_us,
            within_us=_TELL_FOR_US,
            fields={
                "msgtype": "m.notice",
                "body": shortened(text),
                "m.relates_to": {
                    "rel_type": "m.thread",
                    "event_id": thread,
                    "is_falling_back": True,
                    "m.in_reply_to": {"event_id": thread},
                },
            },
        )
    )


def shortened(text: str) -> str:
    """Return a text as it goes into a thread: of a long one its beginning, and more of its end, which holds the reason."""
    if len(text) <= MAX_CHARS:
        return text
    end = MAX_CHARS - BEGINNING_CHARS
    return f"{text[:BEGINNING_CHARS]}\n… {len(text) - MAX_CHARS:,} characters are left out …\n{text[-end:]}"


def notice_id(run_id: str, number: int) -> str:
    """Return the name of a run's notice; by name, notices are in the order of *number*."""
    return f"{run_id}.notice.{number:012}"


class Threads:
    """Reads the event log and posts what threads are to be told."""

    def __init__(self, node: NodePort) -> None:
        self._node = node
        self._woken = Wakeup()
        self._tail = EventTail(node)
        self._failures: dict[str, int] = {}

    def wake(self) -> None:
        """Something was stored: look."""
        self._woken.set()

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            self._woken.clear()
            try:
                await self._read()
            except CisError as error:
                log.error("threads cannot be told; trying again", extra={"error": str(error)})
            await self._woken.within(LOOK_EVERY_S)

    async def _read(self) -> None:
        async for _, events in self._tail.new():
            notable = [event for event in events if event.run_id is not None and _is_notable(event)]
            if notable:
                told = await self._node.read(partial(_with_threads, notable))
                if told:
                    await self._node.write(partial(self._post, told))
                    self._node.wake()

    def _post(self, events: list[tuple[EventRecord, str]], store: Store) -> None:
        now_us = self._node.this_node.clock_us()
        for event, thread in events:
            run = store.runs.get(event.run_id or "")
            if run is None or _is_on_offer(store.remotes, event):
                continue
            name, text = self._notice(store, event, run)
            posted = {item.message_id for item in store.outbox.of_run(run.run_id)}
            if text and name not in posted:
                post_notice(store.outbox, text, thread=thread, run_id=run.run_id, message_id=name, now_us=now_us)

    def _notice(self, store: Store, event: EventRecord, run: RunRecord) -> tuple[str, str]:
        if event.kind == "task":
            count = self._failures[run.run_id] = self._failures.get(run.run_id, 0) + 1
            if count > MAX_FAILURES:
                return "", ""
            return notice_id(run.run_id, event.seq), _failure(store, run, event.task_id or "")
        if event.status == RunState.RUNNING:
            return notice_id(run.run_id, event.seq), f"{run.dag_id} started on {run.owner_node}"
        self._failures.pop(run.run_id, None)
        started, finished = run.started_at_us, run.finished_at_us
        took = f" after {format_duration(max(0, finished - started) / 1e6)}" if started and finished else ""
        why = f": {run.error}" if run.error else ""
        return notice_id(run.run_id, event.seq), f"{run.dag_id} {run.status}{took}{why}"


def _is_notable(event: EventRecord) -> bool:
    if event.kind == "task":
        return event.status == TaskState.FAILED and "allowed" not in event.data
    if event.kind != "run" or "cancel_requested" in event.data:
        return False  # that it started was told before it was asked to stop
    return event.status == RunState.RUNNING or RunState(event.status).final


def _is_on_offer(remotes: Remotes, event: EventRecord) -> bool:
    """Whether a run that is told to go on was taken back from its node, and is nobody's until it is granted anew."""
    remote = remotes.get(event.run_id or "") if event.status == RunState.RUNNING else None
    return remote is not None and remote.open and remote.role is RemoteRole.OFFERED


def _with_threads(events: list[EventRecord], store: Store) -> list[tuple[EventRecord, str]]:
    threads = {event.run_id: store.room.thread(event.run_id or "") for event in events}
    return [(event, thread[1]) for event in events if (thread := threads[event.run_id]) is not None]


def _failure(store: Store, run: RunRecord, task_id: str) -> str:
    task = store.tasks.get(run.run_id, task_id)
    why = task.error if task is not None and task.error else "failed"
    last = None if task is None else store.attempts.get(run.run_id, task.task_no, task.attempts)
    if last is None:
        return f"{task_id}: {why}"
    lines = (last.stderr_tail or last.stdout_tail).splitlines()[-MAX_LINES:]
    return "\n".join([f"{task_id}: {why}", *lines])
