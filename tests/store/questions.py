"""What a store is asked and told, one line for each, and the tables that may be large: for the tests of plans."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from cis.model.scope import Scope, ScopeType
from cis.model.states import RunState
from cis.store.cluster import JournalState, OfferState, PeerRecord, RemoteRole, Route
from cis.store.records import AttemptPlace, QueueState, RunChange, TaskRecord
from cis.store.upkeep_port import EndedRun
from tests.worlds.rows import WORKER, definition

BIG = (
    "dag_definitions",
    "dag_runs",
    "run_tasks",
    "task_executions",
    "worker_queue",
    "events",
    "audit",
    "peers",
    "outbox",
    "remote_runs",
    "withdrawals",
    "room_events",
    "offers",
    "chat_threads",
)

FILTERS = {
    "status": RunState.FAILED,
    "scope": Scope(ScopeType.PROJECT, "p"),
    "node": "n",
    "dag_id": "d",
}
COMBINATIONS = [names for count in range(5) for names in itertools.combinations(FILTERS, count)]

QUESTIONS: list[Callable[[Any], Any]] = [
    lambda store: store.runs.get("r001"),
    lambda store: store.runs.heads(["r001"]),
    lambda store: store.runs.by_key("k"),
    lambda store: store.runs.latest("d"),
    lambda store: store.runs.beginning("r0", limit=5),
    lambda store: store.runs.unfinished_elsewhere(WORKER, "x"),
    lambda store: store.runs.children("r001"),
    lambda store: store.tasks.of_run("r001"),
    lambda store: store.tasks.get("r001", "t0"),
    lambda store: store.attempts.get("r001", 0, 1),
    lambda store: store.attempts.page("r001", 0, 1, limit=5),
    lambda store: store.attempts.places("r001", limit=5),
    lambda store: store.attempts.places("r001", task_id="t0", attempt=1, after=AttemptPlace(1, 0, 1, True), limit=5),
    lambda store: store.attempts.running(WORKER),
    lambda store: store.definitions.current("d"),
    lambda store: store.definitions.get(1),
    lambda store: store.queue.demand("n"),
    lambda store: store.queue.waiting_count("n"),
    lambda store: store.queue.waiting_count("n", below=False, holder="worker-global"),
    lambda store: store.queue.get("r001"),
    lambda store: store.queue.position("r001"),
    lambda store: store.queue.claim("n", WORKER, epoch=1, limit=10, from_position=5),
    lambda store: store.queue.queued("n", WORKER, limit=10),
    lambda store: store.tasks.cancel_unfinished("r001", now_us=5),
    lambda store: store.staged.complete("r001", tasks=5),
    lambda store: store.staged.runs(after="", before="s", limit=10),
    lambda store: store.staged.drop("r001", at_most=5),
    lambda store: store.queue.hand_over("n", WORKER, epoch=None),
    lambda store: store.runs.heads(["r001", "r002"]),
    lambda store: store.tasks.any_running("r001"),
    lambda store: store.events.after(5, limit=10),
    lambda store: store.events.tally_after(19_990),
    lambda store: store.audit.page(limit=10, before=5),
    lambda store: store.definitions.page(limit=10),
    lambda store: store.definitions.page(limit=10, cursor="c", saved_only=True),
    lambda store: store.definitions.saved_count(at_most=5),
    lambda store: store.definitions.put(definition()),
    lambda store: store.definitions.save(1, at_us=5),
    lambda store: store.queue.claim("n", WORKER, epoch=1, limit=10, above=20),
    lambda store: store.queue.hand_over("n", WORKER, epoch=1),
    lambda store: store.queue.move("r001", QueueState.QUEUED),
    lambda store: store.queue.remove("r001"),
    lambda store: store.queue.move("r001", QueueState.PARKED, only=QueueState.CLAIMED, due_at_us=1),
    lambda store: store.queue.move("r001", QueueState.QUEUED, only=QueueState.PARKED),
    lambda store: store.queue.any_due("n", now_us=5),
    lambda store: store.queue.wake_due("n", now_us=5, limit=10),
    lambda store: store.attempts.losses("r001"),
    lambda store: store.runs.set_aside("r001", error="odd", now_us=5),
    lambda store: store.events.prune(keep=10, at_most=1000),
    lambda store: store.runs.change(store.runs.get("r000"), RunChange(error="odd")),
    lambda store: store.tokens.by_sha256("x"),
    lambda store: store.workers.get("n", WORKER),
    lambda store: store.workers.check_epoch("n", WORKER, 1),
    lambda store: store.peers.put(
        PeerRecord(node_id="n2", public_key="k", may=(), trusted_at_us=1, matrix_user="@n2:x")
    ),
    lambda store: store.peers.get("n2"),
    lambda store: store.peers.delete("n2", farewell_until_us=5),
    lambda store: store.peers.note_contact("n2", now_us=5),
    lambda store: store.peers.note_fault("n2", "odd"),
    lambda store: store.outbox.begin_sending(["m1"], due_at_us=5),
    lambda store: store.outbox.put_off("m1", due_at_us=5, fault="odd", uncertain=True),
    lambda store: store.outbox.remove("m1"),
    lambda store: store.outbox.remove_of_run("r001", "control"),
    lambda store: store.remotes.get("r001"),
    lambda store: store.tasks.mirror([TaskRecord(run_id="r001", task_no=0, task_id="t0", version=9)]),
    lambda store: store.remotes.withdrawn("r001", sender="n2"),
    lambda store: store.remotes.withdrawal_count("n2", at_most=5),
    lambda store: store.queue.move("r001", QueueState.SUSPENDED),
    lambda store: store.room.cursor("!r"),
    lambda store: store.room.event("$e"),
    lambda store: store.room.settle("$e", JournalState.DONE),
    lambda store: store.offers.get("r001"),
    lambda store: store.offers.set_state("r001", OfferState.CLOSED),
    lambda store: store.offers.make_room("n2", most=5),
    lambda store: store.offers.make_room("n2", most=0),
    lambda store: store.room.thread("r001"),
    lambda store: store.pruning.ended_dags(after="a", limit=5),
    lambda store: store.pruning.prune("r001", at_most=5),
    lambda store: store.pruning.prune("r003", at_most=5),
    lambda store: store.definitions.drop([1]),
    lambda store: store.pruning.ends(["r001", "r002"]),
]

OTHERS: list[Callable[[Any], Any]] = [
    lambda store: store.outbox.due(Route.PUSH, now_us=5, limit=5, node_id="n2"),
    lambda store: store.outbox.due(Route.ROOM, now_us=5, limit=5),
    lambda store: store.outbox.of_run("r001"),
    lambda store: store.remotes.open(RemoteRole.SENT),
    lambda store: store.room.new_events(limit=5),
    lambda store: store.offers.in_state(OfferState.OPEN, limit=5),
    lambda store: store.peers.by_user("@n2:x"),
    lambda store: store.outbox.schedule(now_us=5),
    lambda store: store.queue.load("n", at_most=5),
    lambda store: store.pruning.expired_runs("d", before_us=5, keep=3, until_us=9, after=EndedRun(3, "r001"), limit=5),
    lambda store: store.pruning.ended_dags(after="", limit=5),
    lambda store: store.pruning.family("r001"),
]
