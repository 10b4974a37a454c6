"""Taking over what an earlier process of the same worker id left behind, and setting aside what is unreadable.

Whoever takes a worker's id gets the next epoch, and with it every run that an older epoch held or that was put
back into the queue when a dead worker was buried. A task whose
start is on disk without an end is *lost* (unless its process is one of ours): its attempt is kept, marked so,
and the task's ``on_lost`` decides what follows. The orphaned process was ended before (``OrphanKiller``).

What the id holds may be large, so it is taken over in several transactions (``cis.engine.run.claiming``): the epoch first, then
run after run. Until its run is one of those that are held, nothing is decided about an attempt.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from cis.engine.run.parts import ChildWait, Held
from cis.engine.run.plan import RunPlan
from cis.engine.run.reading import RunReading
from cis.engine.this_node import Incarnation
from cis.engine.times import Instant
from cis.engine.transitions import move_tasks
from cis.engine.transitions import set_aside as end_unread
from cis.errors import PoisonRecordError, StoreRefusedError
from cis.model.states import AttemptState
from cis.store.port import Store
from cis.store.records import AttemptRecord, QueuedRun, RunRecord

log = logging.getLogger(__name__)

AttemptKey = tuple[str, int, int]
LOST = "the worker died while it ran"


def take_over(store: Store, me: Incarnation) -> list[QueuedRun]:
    """Make every run that the worker id holds one of this epoch, and return them; none is read.

    Raises:
        FencedError: *me* is not the current epoch.
    """
    store.workers.check_epoch(me.node_id, me.worker_id, me.epoch)
    store.queue.reclaim(me.node_id, me.worker_id, epoch=me.epoch)
    return list(store.queue.claimed(me.node_id, me.worker_id))


def unended(store: Store, attempt: AttemptRecord) -> bool:
    """Whether the store lacks the end of an attempt: a commit that was reported as failed may be there after all."""
    found = store.attempts.of_run(attempt.run_id, task_id=attempt.task_id, attempt=attempt.attempt)
    return any(one.status is AttemptState.RUNNING for one in found)


def hold(store: Store, held: Held, reading: RunReading, *, ours: AbstractSet[AttemptKey], now: Instant) -> None:
    """Make a claimed run one of *held*, of which *reading* may have been read before; *ours* as its ends are to come.

    One that cannot be read is failed and taken off the queue instead; one whose lease is over is suspended.
    """
    run_id = reading.run_id
    try:
        reading.finish()
        run = _as_it_is_now(store, reading)
        plan = reading.plan
        if run is None or run.status.final or plan is None:
            store.queue.remove(run_id)
            return
        if held.leases.over(store, run, now=now):
            store.queue.suspend(run_id)
            return
        plan.run = run
        if reading.attempts:
            with store.savepoint():
                _take_up(store, held, plan, reading.attempts, ours=ours, now=now)
    except (PoisonRecordError, StoreRefusedError) as error:
        log.error("a run was set aside", extra={"run_id": run_id, "error": str(error)})
        set_aside(store, run_id, worker_id=reading.worker_id, why=str(error), now_us=now.wall_us)
        return
    held.plans[run_id] = plan


def _take_up(
    store: Store,
    held: Held,
    plan: RunPlan,
    attempts: Mapping[int, AttemptRecord | None],
    *,
    ours: AbstractSet[AttemptKey],
    now: Instant,
) -> None:
    """Go on to wait for child runs, and lose the attempts whose end nobody will tell."""
    run_id = plan.run.run_id
    waits: dict[tuple[str, int], ChildWait] = {}
    for number, attempt in attempts.items():
        if number in plan.children and attempt is not None:
            waits[run_id, number] = ChildWait(attempt, child_due_s(plan, attempt, now=now))
        elif attempt is None or _key(attempt) not in ours:
            _lose(store, plan, attempt, number=number, now=now)
    move_tasks(store, plan.run, plan.take_changes(), at_us=now.wall_us)
    held.children |= waits


def _as_it_is_now(store: Store, reading: RunReading) -> RunRecord | None:
    """Return the run, whose row others may have changed since it was read; its tasks and attempts are as they were."""
    run = reading.run
    if run is None or store.runs.version(run.run_id) == run.version:
        return run
    return store.runs.get(run.run_id)


def child_due_s(plan: RunPlan, attempt: AttemptRecord, *, now: Instant) -> float:
    """Return when the time limit of a DAG as a task is over, on the monotonic clock; infinity without one."""
    limit_s = plan.task_spec(attempt.task_no).timeout_s
    if limit_s is None:
        return float("inf")
    return now.until(attempt.started_at_us + round(limit_s * 1e6), at_most_s=limit_s)


def _lose(store: Store, plan: RunPlan, attempt: AttemptRecord | None, *, number: int, now: Instant) -> None:
    if attempt is not None and attempt.status is AttemptState.RUNNING:
        finished_at_us = max(now.wall_us, attempt.started_at_us)
        store.attempts.finish([attempt._replace(status=AttemptState.LOST, error=LOST, finished_at_us=finished_at_us)])
    plan.end(number, AttemptState.LOST, now=now, jitter=0.0, error=LOST)


def _key(attempt: AttemptRecord) -> AttemptKey:
    return (attempt.run_id, attempt.task_no, attempt.attempt)


def set_aside(store: Store, run_id: str, *, worker_id: str, why: str, now_us: int) -> None:
    """Fail a run and take it off the queue; one whose rows refuse even that is kept where no worker takes it."""
    try:
        with store.savepoint():
            end_unread(store, run_id, error=why, at_us=now_us, worker_id=worker_id)
    except StoreRefusedError as error:
        log.error("a run cannot be failed: it stays in the queue", extra={"run_id": run_id, "error": str(error)})
        store.queue.suspend(run_id)
