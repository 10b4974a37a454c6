"""The heartbeat of a worker: its lease, and what it says of itself in its row."""

from __future__ import annotations

from cis.engine.instant import Instant
from cis.engine.parts import Held, LoopLimits
from cis.engine.site import Incarnation
from cis.store.port import Store
from cis.store.records import WorkerState


def beat(store: Store, limits: LoopLimits, me: Incarnation, held: Held, *, now: Instant) -> None:
    """Renew the lease when it is time, and at once when what the worker does has changed.

    Raises:
        FencedError: another epoch holds the worker's id.
    """
    plans = [plan for plan in held.plans.values() if not plan.run.status.final]
    current = (
        max(plans, key=lambda plan: (plan.active, plan.run.priority)) if len(plans) > 1 else next(iter(plans), None)
    )
    if current is None:
        state = WorkerState.IDLE
    else:
        state = WorkerState.BUSY if current.active or len(held.live) else WorkerState.WAITING
    current_run = current.run.run_id if current else None
    short_of = held.short_of(now.mono_s)
    told = (state, current_run, held.runs_done, short_of)
    if told == held.told and now.mono_s < held.beat_due_s:
        return
    store.beat(
        me.node_id,
        me.worker_id,
        epoch=me.epoch,
        status=state,
        now_us=now.wall_us,
        lease_until_us=now.wall_us + round(limits.lease_s * 1e6),
        runs_done=held.runs_done,
        current_run=current_run,
    )
    if short_of is not None or held.told_short:
        store.set_short_of(me.node_id, me.worker_id, epoch=me.epoch, short_of=short_of)
        held.told_short = short_of is not None
    held.told = told
    held.beat_s = now.mono_s
    held.beat_due_s = now.mono_s + limits.lease_s / 3
