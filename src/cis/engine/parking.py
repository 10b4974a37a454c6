"""Letting go of runs that only wait, so that a worker that has nothing to do takes no memory and no place.

A run that waits for a retry, for a child run or for whoever paused it may be *parked* when others want the place of its worker. It
stays in the queue, where nobody takes it, with the time at which it is due; the supervisor puts it back when that
has come, the end of a child run and a resume do so in their own transaction. Then its worker is started as for any
queued run, and reads it anew.

What could wake a run is looked at in the transaction that parks it. Whoever ends a child or resumes a run takes the same write lock: it
came before, and is seen here, or comes after, and finds the run parked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from cis.engine.instant import Instant
from cis.engine.parts import ChildWait, Held
from cis.engine.plan import RunPlan
from cis.engine.site import Incarnation
from cis.errors import PoisonRecordError
from cis.store.port import Store


def park(store: Store, me: Incarnation, held: Held, *, at_most: int, now: Instant) -> list[str]:
    """Park runs of *held* that only wait, and return which; they are still held.

    Raises:
        FencedError: another epoch holds the worker's id.
    """
    store.check_epoch(me.node_id, me.worker_id, me.epoch)
    parked: list[str] = []
    for run_id, plan in held.plans.items():
        if len(parked) >= at_most:
            break
        waits = [wait for key, wait in held.children.items() if key[0] == run_id] if plan.children else []
        if plan.waits and not _has_changed(store, plan):
            store.park(run_id, due_at_us=_due_us(plan, waits, now=now))
            parked.append(run_id)
    return parked


def _has_changed(store: Store, plan: RunPlan) -> bool:
    """Whether control, or the end of a child run, has something for the worker to do."""
    if store.run_version(plan.run.run_id) != plan.run.version:
        return True
    try:
        children = [store.run(child_run_id) for child_run_id in plan.children.values()]
    except PoisonRecordError:
        return True
    return any(child is None or child.status.final for child in children)


def _due_us(plan: RunPlan, waits: list[ChildWait], *, now: Instant) -> int | None:
    due_s = min(_due_times(plan, waits), default=math.inf)
    return None if math.isinf(due_s) else now.wall_us + round(max(0.0, due_s - now.mono_s) * 1e6)


def _due_times(plan: RunPlan, waits: list[ChildWait]) -> Iterator[float]:
    if not plan.paused:
        yield plan.due_s
    for wait in waits:
        if not wait.timed_out:
            yield wait.due_s
