"""The steps in which a worker takes over what its id held before: the epoch first, then run after run.

Each step is one transaction, in which several small runs are read, or one that was read before, outside of it. Between
two steps the lease is renewed and processes are attended to, so nobody takes a worker for dead that has much to read. Large
runs of which nothing runs, and for which there is no room (``cis.engine.claiming``), go back into the queue unread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from functools import partial

from cis.engine.adoption import take_over, unended
from cis.engine.claiming import hold_some, may_wait
from cis.engine.heartbeat import beat
from cis.engine.instant import Instant
from cis.engine.live import End, Live
from cis.engine.parts import Held, LoopLimits, LoopParts
from cis.engine.reading import RunReading, is_small
from cis.engine.site import Incarnation
from cis.store.records import QueuedRun


def adopt(
    parts: LoopParts,
    limits: LoopLimits,
    me: Incarnation,
    held: Held,
    *,
    ends: list[End],
    attend: Callable[[], object],
    now: Instant,
) -> None:
    """Take over what the worker id holds. Of *ends*, those that are stored already are dropped; *attend* may add others.

    Raises:
        FencedError: *me* is not the current epoch.
    """
    store = parts.store
    attempts = [*(end.attempt for end in ends), *(live.attempt for live in held.live), *held.unstarted]
    ours = {(attempt.run_id, attempt.task_no, attempt.attempt) for attempt in attempts}
    left: deque[QueuedRun] | None = None
    while left is None or left:
        first = left[0] if left else None
        waits = first is not None and may_wait(store, held, first, slots=limits.slots)
        reading = None if first is None or waits or is_small(first) else _read(parts, me, first, attend, now=now)
        with store.transaction():
            if left is None:
                left = deque(take_over(store, me))
            else:
                store.check_epoch(me.node_id, me.worker_id, me.epoch)
            if waits and left:
                store.release(left.popleft().run_id)
            hold_some(store, held, left, reading, worker_id=me.worker_id, ours=ours, now=now)
            pending = {queued.run_id for queued in left}
            ends[:] = [end for end in ends if end.attempt.run_id in pending or unended(store, end.attempt)]
            held.unstarted = [one for one in held.unstarted if one.run_id in pending or unended(store, one)]
            # What was set aside is killed before that is stored: from then on no row tells of its processes.
            held.live.kill_where(partial(_is_of_none, held.plans.keys() | pending))
            held.live.tick(now.mono_s)
            if left:
                beat(store, limits, me, held, now=parts.clock())


def _read(
    parts: LoopParts, me: Incarnation, queued: QueuedRun, attend: Callable[[], object], *, now: Instant
) -> RunReading:
    reading = RunReading(parts.store, queued.run_id, worker_id=me.worker_id, now=now)
    while not reading.done:
        reading.advance()
        attend()
    return reading


def _is_of_none(run_ids: AbstractSet[str], live: Live) -> bool:
    return live.attempt.run_id not in run_ids
