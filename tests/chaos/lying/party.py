"""One node of a simulated room: the real decisions over a real store, and a worker that is modelled.

A node has clocks of its own: the wall's, which is wrong and jumps, and one that counts from its machine's start. What a
node's process remembers goes with it; what its worker remembers goes with the worker.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cis.engine.accept.dispatch import SENDING_S
from cis.engine.accept.submit import SubmitRequest, submit
from cis.engine.leases import Leases, margin_s
from cis.engine.logfiles import LogFiles
from cis.engine.this_node import ThisNode
from cis.engine.times import Instant
from cis.federation.executing import claiming, lease
from cis.federation.executing.report import Cursor, build_report
from cis.federation.inbox import receive
from cis.federation.messages import ReceivedMessage, report_message
from cis.federation.origin import arbiter, outbox
from cis.federation.origin.outbox import message_of
from cis.federation.requested import RequestedRun
from cis.model.dag import DagSpec
from cis.model.lease_terms import Standing
from cis.model.message import Message, MessageKind
from cis.model.states import RunState, TaskState
from cis.skills.registry import InstalledSkills
from cis.store import open_store
from cis.store.cluster import OfferState, OutboxItem, PeerRecord, RemoteRole, Route
from cis.store.records import QueueState, RunChange
from tests.worlds.migrated import new_database

LEASE_S = 20.0
GRACE_S = 2.0
LOOK_S = 1.0
START_US = 1_700_000_000_000_000
SPEC = DagSpec.from_dict({"dag_id": "leased", "tasks": [{"id": "a", "command": "true"}]})


@dataclass(slots=True)
class Execution:
    """Processes of a run on a node: until *dies_s*, when that is known."""

    dies_s: float = float("inf")


@dataclass(slots=True)
class Clocks:
    """The clocks of one machine, of which the stage's time knows nothing."""

    wall_ahead_s: float
    booted_s: float
    boots: int = 0


class Party:
    """A node that knows the others, in a room; *claims* says whether it takes what is offered."""

    def __init__(self, name: str, others: list[str], folder: Path, rng: random.Random, *, claims: bool) -> None:
        folder.mkdir()
        self.name, self.claims, self.rng = name, claims, rng
        self.now_s = 0.0
        self.clocks = Clocks(wall_ahead_s=rng.uniform(-1e5, 1e5), booted_s=-rng.uniform(1.0, 1e6))
        self.executing: dict[str, Execution] = {}
        self._latest_s = self.clocks.wall_ahead_s
        self.store = open_store(new_database(folder))
        self.store._db.connection.pragma("synchronous", "OFF")
        self._logfiles = LogFiles(folder / "logs")
        self._ids = 0
        self._watch = arbiter.LeaseWatch()
        self._leases = self._fresh_leases()
        with self.store.transaction():
            for other in others:
                peer = PeerRecord(
                    node_id=other, public_key=f"key-{other}", may=("execute", "control", "read"), trusted_at_us=1
                )
                self.store.peers.put(peer)

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    def wall_us(self) -> int:
        """Return the time by this node's wall clock."""
        return START_US + round((self.now_s + self.clocks.wall_ahead_s) * 1e6)

    def uptime_us(self) -> int:
        """Return how long this node's machine has been up."""
        return round((self.now_s - self.clocks.booted_s) * 1e6)

    @property
    def this_node(self) -> ThisNode:
        return ThisNode(
            node_id=self.name,
            skills=InstalledSkills(),
            clock_us=self.wall_us,
            new_id=self._new_id,
            uptime_us=self.uptime_us,
            has_room=True,
            offers=True,
            deliver_within_s=1e7,
            lease_s=LEASE_S,
            boot_id=self._boot_id,
        )

    @property
    def _boot_id(self) -> str:
        return f"{self.name}-{self.clocks.boots}"

    def _new_id(self) -> str:
        self._ids += 1
        return f"{self.name}-{self._ids:05}"

    def _fresh_leases(self) -> Leases:
        return Leases(self.name, margin_s=margin_s(GRACE_S), uptime_us=self.uptime_us, boot_id=self._boot_id)

    def offer(self) -> str:
        """Accept a DAG that names no node."""
        with self.store.transaction():
            return submit(self.store, SubmitRequest(spec=SPEC), this_node=self.this_node).run.run_id

    # What it hears and says.

    def hear(self, message: Message, *, event_id: str) -> None:
        """Act on a message whose signature holds."""
        if message.target not in (None, self.name):
            return
        peer = self.store.peers.get(message.sender)
        if peer is None:
            if message.sender != self.name or message.kind is not MessageKind.CLAIM:
                return
            peer = PeerRecord(node_id=self.name, public_key="self", may=(), trusted_at_us=0)
        wanted = None
        if message.kind is MessageKind.GRANT and self.store.remotes.get(message.run_id) is None:
            wanted = RequestedRun(spec=SPEC) if self.store.offers.get(message.run_id) is not None else None
        received = ReceivedMessage(
            message=message,
            peer=peer,
            source="room",
            requested=wanted,
            report=message.fields.get("report"),
            event_id=event_id,
        )
        with self.store.transaction():
            receive(self.store, received, this_node=self.this_node, logfiles=self._logfiles)

    def says(self) -> Iterator[tuple[Message, OutboxItem | None]]:
        """Return what there is to say now: of the outbox, a claim, a status of what is held here."""
        now_us = self.wall_us()
        for item in self.store.outbox.due(Route.ROOM, now_us=now_us, limit=4):
            with self.store.transaction():
                self.store.outbox.begin_sending([item.message_id], due_at_us=now_us + round(SENDING_S * 1e6))
            yield message_of(self.store, item, sender=self.name, lease_s=LEASE_S), item
        yield from ((claim, None) for claim in self._claims())
        yield from ((status, None) for status in self._statuses())

    def was_taken(self, item: OutboxItem, event_id: str) -> None:
        """Note that the homeserver says that it took an item of the outbox."""
        with self.store.transaction():
            outbox.sent_to_room(self.store, item, event_id, this_node=self.this_node)

    def was_not_taken(self, item: OutboxItem) -> None:
        """Put an item off that the homeserver says it did not take."""
        due_at_us = self.wall_us() + round(self.rng.uniform(0.1, 3.0) * 1e6)
        with self.store.transaction():
            self.store.outbox.put_off(item.message_id, due_at_us=due_at_us, fault="no", uncertain=True)

    def _claims(self) -> Iterator[Message]:
        for state in (OfferState.OPEN, OfferState.CLAIMED):
            for offer in self.store.offers.in_state(state, limit=10):
                fits = claiming.eligible(offer, labels=(), grace_s=GRACE_S)
                if not self.claims or not fits or self.rng.random() < 0.6:
                    continue
                with self.store.transaction():
                    claim = claiming.make_claim(self.store.offers, offer, free=1, this_node=self.this_node)
                if claim is not None:
                    yield claim

    def _statuses(self) -> Iterator[Message]:
        for remote in self.store.remotes.open(RemoteRole.RECEIVED):
            if self.rng.random() < 0.5:
                continue
            item = self.store.queue.get(remote.run_id)
            suspended = item is not None and item.status is QueueState.SUSPENDED
            nonce = None
            if suspended or self.rng.random() < 0.6:
                with self.store.transaction():
                    nonce = lease.ask_to_renew(self.store.offers, remote.run_id, this_node=self.this_node)
            report = build_report(self.store, self._logfiles, remote.run_id, tasks=None, cursor=Cursor())
            yield report_message(
                remote.run_id,
                report.content,
                sender=self.name,
                origin=remote.peer_id,
                message_id=self._new_id(),
                now_us=self.wall_us(),
                standing=Standing(epoch=remote.epoch, suspended=suspended, nonce=nonce),
            )

    # What it does by itself.

    def look_at_leases(self) -> None:
        """Take back what nobody was heard of for a lease; the last sync has just come back, says the homeserver."""
        for remote in self._watch.over(self.store.remotes.open(RemoteRole.SENT), now_s=self.now_s, synced_s=self.now_s):
            with self.store.transaction():
                arbiter.take_back(self.store, remote, this_node=self.this_node)

    def work(self) -> None:
        """Do one turn of the worker: stop what is late, begin what is queued."""
        now = Instant(self.wall_us(), self.now_s)
        self.executing = {run_id: one for run_id, one in self.executing.items() if one.dies_s > self.now_s}
        for run_id, one in self.executing.items():
            run = self.store.runs.get(run_id)
            if run is None or run.status.final or run.cancel_requested:
                one.dies_s = min(one.dies_s, self.now_s + self.rng.uniform(0.0, GRACE_S))
            elif self._leases.over(self.store, run, now=now) and one.dies_s == float("inf"):
                one.dies_s = self.now_s + self.rng.uniform(0.0, GRACE_S)
                with self.store.transaction():
                    self.store.queue.move(run_id, QueueState.SUSPENDED)
            if run_id in self._leases.late(now, within_s=0.0):
                one.dies_s = self.now_s
        self._begin(now)

    def _begin(self, now: Instant) -> None:
        worker_id = "worker-global"
        with self.store.transaction():
            for item in self.store.queue.claim(self.name, worker_id, epoch=1, limit=10):
                run = self.store.runs.get(item.run_id)
                if run is None or run.status.final:
                    self.store.queue.remove(item.run_id)
                elif item.run_id in self.executing:
                    self.store.queue.move(item.run_id, QueueState.QUEUED)  # its old processes live
                elif run.cancel_requested:
                    self._end(item.run_id, RunState.CANCELLED)
                elif self._leases.over(self.store, run, now=now):
                    self.store.queue.move(item.run_id, QueueState.SUSPENDED)
                else:
                    if run.status is RunState.PENDING:
                        change = RunChange(status=RunState.RUNNING, started_at_us=now.wall_us)
                        self.store.runs.change(run, change)
                    self.executing[item.run_id] = Execution()

    def finish(self, run_id: str) -> None:
        """End a run that is executed here: it has done what it was to do."""
        with self.store.transaction():
            self._end(run_id, RunState.COMPLETED)
        self.executing[run_id].dies_s = self.now_s

    def _end(self, run_id: str, status: RunState) -> None:
        run = self.store.runs.get(run_id)
        assert run is not None
        done = TaskState.COMPLETED if status is RunState.COMPLETED else TaskState.CANCELLED
        (task,) = self.store.tasks.of_run(run_id)
        if done is TaskState.COMPLETED and task.status is not TaskState.RUNNING:
            self.store.tasks.change([(task, task._replace(status=TaskState.RUNNING))])
            (task,) = self.store.tasks.of_run(run_id)
        self.store.tasks.change([(task, task._replace(status=done, finished_at_us=self.wall_us()))])
        if status is RunState.COMPLETED and run.status is RunState.PENDING:
            run = self.store.runs.change(run, RunChange(status=RunState.RUNNING, started_at_us=self.wall_us()))
        self.store.runs.change(run, RunChange(status=status, finished_at_us=self.wall_us()))
        self.store.queue.remove(run_id)

    # What befalls it.

    def restart_node(self) -> None:
        """End the node's process and start it again: its deadlines are looked at anew."""
        self._watch = arbiter.LeaseWatch()

    def restart_worker(self) -> None:
        """End the worker and its processes; the next one takes over what it held."""
        self._leases = self._fresh_leases()
        self.executing.clear()
        with self.store.transaction():
            self.store.queue.hand_over(self.name, "worker-global", epoch=None)

    def reboot(self) -> None:
        """Start the machine anew: its uptime begins from nothing."""
        self.clocks.booted_s = self.now_s
        self.clocks.boots += 1
        self.restart_node()
        self.restart_worker()

    def set_clock(self) -> None:
        """Set the wall clock to something else."""
        self._latest_s = max(self._latest_s, self.clocks.wall_ahead_s)
        self.clocks.wall_ahead_s += self.rng.choice((-1.0, 1.0)) * self.rng.choice((1.0, 30.0, 3600.0, 1e5))

    def set_clock_right(self) -> None:
        """Set the wall clock to where it was at most: what is sent again at a stored time would else wait for that."""
        self.clocks.wall_ahead_s = max(self._latest_s, self.clocks.wall_ahead_s)
