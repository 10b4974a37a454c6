"""A database with rows in every table: runs that are here, sent, offered and received, and what a node keeps of others."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cis.model.message import MessageKind
from cis.model.scope import GLOBAL
from cis.model.states import AttemptState, RunState, TaskState
from cis.node.clock import now_us
from cis.store.access_records import AuditRecord, TokenRecord
from cis.store.cluster import RoomCursor, RoomEvent
from cis.store.records import AttemptRecord, RunChange, WorkerRecord, WorkerState
from cis.store.sqlite.store import SqliteStore
from tests.worlds.deciding import decider, spec_of

NODE = "node-1"
WORKER = GLOBAL.worker_id
ROOM, ME = "!room:x", "@node-1:x"
TASKS: tuple[dict[str, Any], ...] = (
    {"id": "t0", "command": "true", "env": {"A": "b"}},
    {"id": "t1", "command": ["true"], "depends_on": ["t0"], "timeout": 60, "max_retries": 1},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Household:
    """The runs in the database: two that nobody touches, and one of each other kind."""

    innocent: tuple[str, str]
    victim: str
    sent: str
    offered: str
    received: str = "r-received"

    @property
    def runs(self) -> tuple[str, ...]:
        """All of them, and one that is not there."""
        return (*self.innocent, self.victim, self.sent, self.offered, self.received, "r-never")


def furnish(folder: Path) -> Household:
    """Make ``cis.db`` in *folder*."""
    with decider(folder) as node:
        node.now_us = now_us()
        first, victim, last = (node.submitted(*TASKS, target_node=NODE, labels=["gpu"]) for _ in range(3))
        sent = node.submitted(*TASKS, dag_id="sent", target_node="node-2", scope="project:sent")
        offered = node.submitted(*TASKS, dag_id="offered", scope="project:offered")
        execute, control = MessageKind.EXECUTE, MessageKind.CONTROL
        node.hears(execute, "node-2", "r-received", requested=spec_of(*TASKS, target_node=NODE))
        node.hears(execute, "node-3", "r-seen", target=None, epoch=0, labels=["gpu"], lease_ms=60_000, nonces=True)
        node.hears(control, "node-2", "r-withdrawn", action="cancel", seq=1)
        node.hears(control, "node-3", "r-received", action="cancel", seq=1)  # is refused, which is written down
        with node.store.transaction():
            node.store.definitions.save(victim.definition_id, at_us=node.now_us)
            _begin(node.store, victim.run_id, at_us=node.now_us)
            _others(node.store, victim.run_id)
    return Household(
        innocent=(first.run_id, last.run_id), victim=victim.run_id, sent=sent.run_id, offered=offered.run_id
    )


def worker_row() -> WorkerRecord:
    """Return this process as the worker of the runs that are here."""
    at_us = now_us()
    return WorkerRecord(
        worker_id=WORKER,
        node_id=NODE,
        scope=GLOBAL,
        status=WorkerState.IDLE,
        pid=os.getpid(),
        pid_started=None,
        epoch=0,
        slots=4,
        started_at_us=at_us,
        heartbeat_at_us=at_us,
        lease_until_us=at_us + 60_000_000,
    )


def _begin(store: SqliteStore, run_id: str, *, at_us: int) -> None:
    """Let a worker that is gone have begun a run."""
    epoch = store.workers.take(worker_row()).epoch
    run, old = store.runs.get(run_id), store.tasks.get(run_id, "t0")
    assert run is not None
    assert old is not None
    store._db.write("UPDATE worker_queue SET status = 'claimed', epoch = ? WHERE run_id = ?", (epoch, run_id))
    store.runs.change(run, RunChange(status=RunState.RUNNING, started_at_us=at_us))
    store.tasks.change([(old, old._replace(status=TaskState.RUNNING, attempts=1, started_at_us=at_us))])
    store.attempts.start(
        [
            AttemptRecord(
                run_id=run_id,
                task_no=0,
                task_id="t0",
                attempt=1,
                status=AttemptState.RUNNING,
                worker_id=WORKER,
                epoch=epoch,
                started_at_us=at_us,
            )
        ]
    )


def _others(store: SqliteStore, run_id: str) -> None:
    store.tokens.put(TokenRecord(name="ci", sha256="5" * 64, may=("read", "execute"), created_at_us=1))
    store.audit.append(AuditRecord(at_us=1, actor="me", action="x", subject="y", source="z"))
    store.room.append((), cursor=RoomCursor(room_id=ROOM, user_id=ME, next_batch="s1", synced_at_us=1))
    store.room.put_thread(run_id, room_id=ROOM, event_id="$t")
    for number in (2, 3):
        event = RoomEvent(
            event_id=f"$e{number}",
            room_id=ROOM,
            sender=f"@node-{number}:x",
            type=str(MessageKind.CLAIM),
            content={"sender": f"node-{number}", "v": 1},
            sent_at_us=number,
        )
        store.room.append([event])
