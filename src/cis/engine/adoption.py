"""Taking over what an earlier process of the same worker id left behind, and setting aside what is unreadable.

Whoever takes a worker's id gets the next epoch, and with it every run that an older epoch held or that was put
back into the queue when a dead worker was buried. A task whose
start is on disk without an end is *lost* (unless its process is one of ours): its attempt is kept, marked so,
and the task's ``on_lost`` decides what follows. The orphaned process was ended before (``OrphanKiller``).
"""

from __future__ import annotations

import logging
from collections.abc import Set as AbstractSet

from cis.engine.instant import Instant
from cis.engine.notices import run_event, task_events
from cis.engine.parts import ChildWait, Held
from cis.engine.plan import RunPlan
from cis.engine.site import Incarnation
from cis.errors import PoisonRecordError, StoreRefusedError
from cis.model.states import AttemptState, RunState
from cis.store.port import Store, read_spec
from cis.store.records import AttemptRecord, EventRecord, QueueItem, RunRecord

log = logging.getLogger(__name__)

AttemptKey = tuple[str, int, int]
LOST = "the worker died while it ran"


def adopt(store: Store, me: Incarnation, held: Held, *, ours: AbstractSet[AttemptKey], now: Instant) -> None:
    """Take over every run that the worker id holds; *ours* are attempts whose ends are still to come.

    Raises:
        FencedError: *me* is not the current epoch.
    """
    store.check_epoch(me.node_id, me.worker_id, me.epoch)
    store.reclaim(me.node_id, me.worker_id, epoch=me.epoch)
    for item in store.claimed(me.node_id, me.worker_id):
        hold(store, held, item, ours=ours, now=now)


def unended(store: Store, attempt: AttemptRecord) -> bool:
    """Whether the store lacks the end of an attempt: a commit that was reported as failed may be there after all."""
    found = store.attempts(attempt.run_id, task_id=attempt.task_id, attempt=attempt.attempt)
    return any(one.status is AttemptState.RUNNING for one in found)


def hold(store: Store, held: Held, item: QueueItem, *, ours: AbstractSet[AttemptKey], now: Instant) -> None:
    """Make a claimed run one of *held*.

    One that cannot be read is failed and taken off the queue instead; one whose lease is over is suspended.
    """
    try:
        run = store.run(item.run_id)
        if run is None or run.status.final:
            store.dequeue(item.run_id)
            return
        if held.leases.over(store, run, now=now):
            store.suspend(item.run_id)
            return
        plan = _plan(store, item, run, now=now)
        if plan.running or plan.children:
            with store.savepoint():
                _take_up(store, held, plan, ours=ours, now=now)
    except (PoisonRecordError, StoreRefusedError) as error:
        log.error("a run was set aside", extra={"run_id": item.run_id, "error": str(error)})
        set_aside(store, item, why=str(error), now_us=now.wall_us)
        return
    held.plans[item.run_id] = plan


def _take_up(store: Store, held: Held, plan: RunPlan, *, ours: AbstractSet[AttemptKey], now: Instant) -> None:
    """Go on to wait for child runs, and lose the attempts whose end nobody will tell."""
    run_id = plan.run.run_id
    waits: dict[tuple[str, int], ChildWait] = {}
    for number in sorted(plan.running | plan.children.keys()):
        attempt = _attempt(store, plan, number)
        if number in plan.children and attempt is not None:
            waits[run_id, number] = ChildWait(attempt, child_due_s(plan, attempt, now=now))
        elif attempt is None or _key(attempt) not in ours:
            _lose(store, plan, attempt, number=number, now=now)
    changes = plan.take_changes()
    store.change_tasks(changes)
    store.append_events(task_events(plan.run, changes, at_us=now.wall_us))
    held.children |= waits


def _plan(store: Store, item: QueueItem, run: RunRecord, *, now: Instant) -> RunPlan:
    spec, tasks = read_spec(item.dag_json), store.tasks(item.run_id)
    if [task.task_id for task in tasks] != [task.id for task in spec.tasks]:
        raise PoisonRecordError(f"run {item.run_id}", "its tasks are not those of its document")
    if store.has_stray_attempts(item.run_id):
        raise PoisonRecordError(f"run {item.run_id}", "it has attempts that none of its tasks made")
    plan = RunPlan(run, spec, tasks, now=now, losses=store.losses(item.run_id))
    if plan.cyclic:
        raise PoisonRecordError(f"run {item.run_id}", "its tasks wait for each other")
    return plan


def child_due_s(plan: RunPlan, attempt: AttemptRecord, *, now: Instant) -> float:
    """Return when the time limit of a DAG as a task is over, on the monotonic clock; infinity without one."""
    limit_s = plan.task_spec(attempt.task_no).timeout_s
    if limit_s is None:
        return float("inf")
    return now.until(attempt.started_at_us + round(limit_s * 1e6), at_most_s=limit_s)


def _lose(store: Store, plan: RunPlan, attempt: AttemptRecord | None, *, number: int, now: Instant) -> None:
    if attempt is not None and attempt.status is AttemptState.RUNNING:
        finished_at_us = max(now.wall_us, attempt.started_at_us)
        store.finish_attempts([attempt._replace(status=AttemptState.LOST, error=LOST, finished_at_us=finished_at_us)])
    plan.end(number, AttemptState.LOST, now=now, jitter=0.0, error=LOST)


def _attempt(store: Store, plan: RunPlan, number: int) -> AttemptRecord | None:
    task = plan.tasks[number]
    found = store.attempts(plan.run.run_id, task_id=task.task_id, attempt=task.attempts)
    return found[0] if found else None


def _key(attempt: AttemptRecord) -> AttemptKey:
    return (attempt.run_id, attempt.task_no, attempt.attempt)


def set_aside(store: Store, item: QueueItem, *, why: str, now_us: int) -> None:
    """Fail a run and take it off the queue; one whose rows refuse even that is kept where no worker takes it."""
    try:
        with store.savepoint():
            if not store.set_aside(item.run_id, error=why, now_us=now_us):
                return
    except StoreRefusedError as error:
        log.error("a run cannot be failed: it stays in the queue", extra={"run_id": item.run_id, "error": str(error)})
        store.suspend(item.run_id)
        return
    try:
        run = store.run(item.run_id)
    except PoisonRecordError:
        run = None
    if run is None:
        event = EventRecord(
            kind="run", at_us=now_us, status=RunState.FAILED, run_id=item.run_id, worker_id=item.worker_id
        )
    else:
        event = run_event(run, at_us=now_us)
    store.append_events([event])
