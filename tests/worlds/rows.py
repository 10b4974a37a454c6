"""Records for the store's tests."""

from __future__ import annotations

from typing import Any

from cis.model.scope import Scope, ScopeSource, ScopeType
from cis.model.states import AttemptState, Priority, RunState
from cis.store.port import Store
from cis.store.records import (
    AttemptRecord,
    Delivery,
    NewDefinition,
    QueueItem,
    QueueState,
    RunRecord,
    TaskRecord,
    WorkerRecord,
    WorkerState,
)

SCOPE = Scope(ScopeType.PROJECT, "p")
WORKER = SCOPE.worker_id
DOCUMENT = '{"dag_id":"d","tasks":[{"command":"true","id":"t0"}]}'


def attempts_of(
    store: Store, run_id: str, *, task_id: str | None = None, attempt: int | None = None
) -> list[AttemptRecord]:
    """Return the attempts of a run, or of a task, by start time."""
    found = store.attempts.page(run_id, -1, 0, limit=100_000)
    chosen = [one for one in found if task_id in (None, one.task_id) and attempt in (None, one.attempt)]
    return sorted(chosen, key=lambda one: (one.started_at_us, one.task_no, one.attempt))


def definition(dag_id: str = "d", sha256: str = "s", **changes: Any) -> NewDefinition:
    """Return a definition."""
    made = NewDefinition(
        dag_id=dag_id,
        sha256=sha256,
        scope=SCOPE,
        target_node=None,
        priority=Priority.NORMAL,
        description="",
        task_count=1,
        created_at_us=1,
        document=DOCUMENT,
    )
    return made._replace(**changes)


def run(run_id: str, **changes: Any) -> RunRecord:
    """Return a pending run of definition 1."""
    made = RunRecord(
        run_id=run_id,
        dag_id="d",
        definition_id=1,
        status=RunState.PENDING,
        scope=SCOPE,
        scope_source=ScopeSource.DAG_ID,
        worker_id=WORKER,
        node_id="n",
        owner_node="n",
        target_node=None,
        priority=Priority.NORMAL,
        delivery=Delivery.LOCAL,
        task_count=2,
        created_at_us=1,
    )
    return made._replace(**changes)


def item(run_id: str, **changes: Any) -> QueueItem:
    """Return a queued run."""
    made = QueueItem(
        run_id=run_id,
        worker_id=WORKER,
        dag_json=DOCUMENT,
        status=QueueState.QUEUED,
        priority=Priority.NORMAL,
        created_at_us=1,
    )
    return made._replace(**changes)


def attempt(run_id: str, number: int = 1, **changes: Any) -> AttemptRecord:
    """Return a running attempt at the first task."""
    made = AttemptRecord(
        run_id=run_id,
        task_no=0,
        task_id="t0",
        attempt=number,
        status=AttemptState.RUNNING,
        worker_id=WORKER,
        epoch=1,
        started_at_us=5,
    )
    return made._replace(**changes)


def worker(**changes: Any) -> WorkerRecord:
    """Return a worker."""
    made = WorkerRecord(
        worker_id=WORKER,
        node_id="n",
        scope=SCOPE,
        status=WorkerState.IDLE,
        pid=1,
        pid_started=None,
        epoch=0,
        slots=2,
        started_at_us=1,
        heartbeat_at_us=1,
        lease_until_us=2,
    )
    return made._replace(**changes)


def put_run(store: Store, run_id: str, *, tasks: int = 2, **changes: Any) -> RunRecord:
    """Store a run with its tasks, and its definition if that is not there."""
    made = run(run_id, **changes)
    with store.transaction():
        number = store.definitions.put(definition(made.dag_id))
        made = made._replace(definition_id=number)
        rows = [TaskRecord(run_id=run_id, task_no=place, task_id=f"t{place}") for place in range(tasks)]
        store.runs.add(made, rows)
    return made


def put_ended(store: Store, run_id: str, at_us: int, **changes: Any) -> None:
    """Store a run that ended at a time."""
    fields: dict[str, Any] = {"status": RunState.COMPLETED, "finished_at_us": at_us, **changes}
    put_run(store, run_id, **fields)


def put_queued(store: Store, *run_ids: str) -> None:
    """Put runs into the queue of node n."""
    for run_id in run_ids:
        put_run(store, run_id)
        with store.transaction():
            store.queue.add("n", item(run_id))
