"""How a worker comes to hold runs, and lets go of them: it claims, takes over what its id held before, and parks.

**Claiming.** Runs are taken in the order of the queue, and nothing overtakes the first one that waits. A worker has
room for it when

- all runs that it holds, and this one, are small together (``MAX_HELD_TASKS``, ``MAX_ACTIVE_RUNS``); or
- what it holds would leave slots free, as when ``max_parallel`` keeps the tasks of a large run from running at once; or
- the run is more urgent than all that it holds, which can happen once for each priority.

So a worker holds a handful of large runs, or a few dozen small ones, however many wait. What waits is rows. A large run
is read before it is claimed, outside the transaction and in pieces (``cis.engine.run.reading``): one turn notes that it
is wanted (``Holdings.reading``), and a later one claims it when it has been read.

**Taking over.** A new epoch takes over what the worker's id held before in short transactions: the epoch first, then a
few small runs, or one large run that was read before. Between two of them the lease is renewed and processes are
attended to, so nobody takes the worker for dead. Large runs of which nothing runs, and for which there is no room, go
back into the queue unread.

**Parking.** A run that waits for a retry, for a child run or for whoever paused it is *parked* when others want the
place of its worker. It stays in the queue, where nobody claims it, with the time at which it is due. The supervisor
queues it again at that time; the end of a child run and a resume do so in their own transaction. Then its worker is
started as for any queued run. No wake-up is lost: whoever ends a child or resumes a run takes the same write lock as
the transaction that parks. It comes before, and is seen there, or it comes after, and finds the run parked.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import partial

from cis.engine.lookup import is_stale
from cis.engine.run.adoption import AttemptKey, hold, take_over, unended
from cis.engine.run.ends import End
from cis.engine.run.live import Live
from cis.engine.run.parts import ChildWait, Holdings, LoopLimits, WorkerPorts, beat
from cis.engine.run.plan import RunPlan
from cis.engine.run.reading import RunReading, is_small
from cis.engine.run.waits import Waits
from cis.engine.this_node import Incarnation
from cis.engine.times import Instant
from cis.errors import PoisonRecordError
from cis.model.states import Priority
from cis.store.port import Store
from cis.store.records import QueuedRun, QueueItem, QueueState
from cis.store.run_port import Runs, Tasks

MAX_ACTIVE_RUNS = 64
MAX_HELD_TASKS = 20_000  # of the plans in memory, unless slots would stay free: about 1 KiB each
TASKS_AT_ONCE = 2_000  # that are read inside one transaction
BYTES_AT_ONCE = 512 * 2**10
READ_FOR_S = 0.02  # of a large run, between two turns


class Room:
    """What a worker may still take, beside the plans that it holds."""

    def __init__(self, held: Holdings, *, slots: int) -> None:
        plans = held.plans.values()
        active = [plan.run.priority for plan in plans if plan.active]
        self._slots = slots
        self._wanted = sum(plan.slots_wanted for plan in plans)
        self._tasks = sum(len(plan.tasks) for plan in plans)
        self._tasks_left, self._bytes_left = TASKS_AT_ONCE, BYTES_AT_ONCE
        self._highest: int = max(active, default=Priority.LOW)
        full = len(active) >= MAX_ACTIVE_RUNS
        self.most = MAX_ACTIVE_RUNS if full else MAX_ACTIVE_RUNS - len(active)
        self.above = self._highest if full else None

    def has(self, queued: QueuedRun) -> bool:
        """Whether a run may be held beside the others."""
        fits = self._tasks + queued.tasks <= MAX_HELD_TASKS
        return fits or self._wanted < self._slots or queued.priority > self._highest

    def readable(self, queued: QueuedRun) -> bool:
        """Whether a run may be read in this very transaction, beside the others that are."""
        return queued.tasks <= self._tasks_left and queued.document_bytes <= self._bytes_left

    def take(self, queued: QueuedRun) -> None:
        """Count a run that is to be taken: it wants a slot at least."""
        self._tasks_left -= queued.tasks
        self._bytes_left -= queued.document_bytes
        self._tasks += queued.tasks
        self._wanted += 1
        self._highest = max(self._highest, queued.priority)


def take_queued(
    parts: WorkerPorts, limits: LoopLimits, me: Incarnation, held: Holdings, *, ends: Sequence[End], now: Instant
) -> list[str]:
    """Take queued runs while there is room; beyond that only more urgent ones than any that is held. Return their ids.

    A run that was suspended may be granted anew before its old tasks are gone, or their ends (*ends*) are told of:
    it waits for the next turn.
    """
    store, room = parts.store, Room(held, slots=limits.slots)
    first = limits.from_position
    waiting = store.queue.queued(me.node_id, me.worker_id, limit=room.most, above=room.above, from_position=first)
    if not waiting:
        held.reading = None  # somebody has cancelled what it reads
        return []
    read, held.reading = held.reading, None
    count = _count(room, waiting, read)
    if count < len(waiting) and room.has(waiting[count]):
        following = waiting[count]
        if read is not None and read.run_id == following.run_id:
            held.reading = read
        elif not is_small(following):
            held.reading = _reading(parts, me, following.run_id, now=now)
        held.poll_due_s = now.mono_s  # the rest in the next turn, once others have had theirs
    taken = []
    unstored = {end.attempt.run_id for end in ends} | {live.attempt.run_id for live in held.live}
    for item in (
        store.queue.claim(me.node_id, me.worker_id, epoch=me.epoch, limit=count, above=room.above, from_position=first)
        if count
        else ()
    ):
        if item.run_id in unstored:
            store.queue.move(item.run_id, QueueState.QUEUED)
            continue
        found = read if read is not None and read.run_id == item.run_id else None
        hold(
            store,
            held,
            found or _reading(parts, me, item.run_id, now=now, item=item),
            ours=frozenset(),
            now=now,
        )
        if item.run_id in held.plans:
            taken.append(item.run_id)
    return taken


def unread(held: Holdings) -> RunReading | None:
    """Return the large run that is taken next, while there is something left to read of it."""
    reading = held.reading
    return None if reading is None or reading.done or held.stopping else reading


def read_on(parts: WorkerPorts, held: Holdings, *, now: Instant) -> None:
    """Read some more of the large run that is taken next, for ``READ_FOR_S``."""
    until_s = now.mono_s + READ_FOR_S
    while (reading := unread(held)) is not None and parts.clock().mono_s < until_s:
        reading.advance()
        if reading.done:
            held.poll_due_s = now.mono_s


def hold_some(
    parts: WorkerPorts,
    me: Incarnation,
    held: Holdings,
    left: deque[QueuedRun],
    reading: RunReading | None,
    *,
    ours: AbstractSet[AttemptKey],
    now: Instant,
) -> None:
    """Take over the first of *left*, which *reading* has read if it is large, and small ones while there is room."""
    room = Room(held, slots=0)
    while left and (reading is not None or (is_small(left[0]) and room.readable(left[0]))):
        queued = left.popleft()
        room.take(queued)
        found = reading or _reading(parts, me, queued.run_id, now=now)
        reading = None
        hold(parts.store, held, found, ours=ours, now=now)


def may_wait(tasks: Tasks, held: Holdings, queued: QueuedRun, *, slots: int) -> bool:
    """Whether a run of an earlier process can go back to the queue unread: nothing of it runs, and there is no room."""
    return not is_small(queued) and not Room(held, slots=slots).has(queued) and not tasks.any_running(queued.run_id)


def _count(room: Room, waiting: Sequence[QueuedRun], read: RunReading | None) -> int:
    """Return how many of those that wait, from the first on, are to be taken now."""
    for count, queued in enumerate(waiting):
        if not room.has(queued):
            return count
        was_read = read is not None and read.run_id == queued.run_id and read.done
        if not was_read and not (is_small(queued) and room.readable(queued)):
            return count
        room.take(queued)
    return len(waiting)


def adopt(
    parts: WorkerPorts,
    limits: LoopLimits,
    me: Incarnation,
    held: Holdings,
    *,
    ends: list[End],
    attend: Callable[[], object],
    now: Instant,
) -> None:
    """Take over what the worker id holds. *ends* that are stored already are dropped; *attend* may add others.

    Raises:
        FencedError: *me* is not the current epoch.
    """
    store = parts.store
    attempts = [*(end.attempt for end in ends), *(live.attempt for live in held.live), *held.unstarted]
    ours = {(attempt.run_id, attempt.task_no, attempt.attempt) for attempt in attempts}
    left: deque[QueuedRun] | None = None
    while left is None or left:
        first = left[0] if left else None
        waits = first is not None and may_wait(store.tasks, held, first, slots=limits.slots)
        reading = None if first is None or waits or is_small(first) else _read(parts, me, first, attend, now=now)
        with store.transaction():
            if left is None:
                left = deque(take_over(store, me))
            else:
                store.workers.check_epoch(me.node_id, me.worker_id, me.epoch)
            if waits and left:
                store.queue.move(left.popleft().run_id, QueueState.QUEUED)
            hold_some(parts, me, held, left, reading, ours=ours, now=now)
            pending = {queued.run_id for queued in left}
            ends[:] = [end for end in ends if end.attempt.run_id in pending or unended(store, end.attempt)]
            held.unstarted = [one for one in held.unstarted if one.run_id in pending or unended(store, one)]
            # What was set aside is killed before that is stored: from then on no row tells of its processes.
            held.live.kill_where(partial(_is_of_none, held.plans.keys() | pending))
            held.live.tick(now.mono_s)
            if left:
                beat(store.workers, limits, me, held, now=parts.clock())


def _reading(
    parts: WorkerPorts, me: Incarnation, run_id: str, *, now: Instant, item: QueueItem | None = None
) -> RunReading:
    return RunReading(parts.store, run_id, worker_id=me.worker_id, skills=parts.maker.skills, now=now, item=item)


def _read(
    parts: WorkerPorts, me: Incarnation, queued: QueuedRun, attend: Callable[[], object], *, now: Instant
) -> RunReading:
    reading = _reading(parts, me, queued.run_id, now=now)
    while not reading.done:
        reading.advance()
        attend()
    return reading


def _is_of_none(run_ids: AbstractSet[str], live: Live) -> bool:
    return live.attempt.run_id not in run_ids


def park(store: Store, me: Incarnation, held: Holdings, *, at_most: int, now: Instant) -> list[str]:
    """Park runs of *held* that only wait, and return which; they are still held.

    Raises:
        FencedError: another epoch holds the worker's id.
    """
    store.workers.check_epoch(me.node_id, me.worker_id, me.epoch)
    parked: list[str] = []
    for run_id, plan in held.plans.items():
        if len(parked) >= at_most:
            break
        children = [wait for key, wait in held.children.items() if key[0] == run_id] if plan.children else []
        if not plan.only_waits:
            continue
        # Parked first: whoever ends a child after that finds it so, and whoever did before is seen.
        due_us = _due_us(plan, children, held.waits.only(run_id), now=now)
        store.queue.move(run_id, QueueState.PARKED, only=QueueState.CLAIMED, due_at_us=due_us)
        if _has_changed(store.runs, plan):
            store.queue.move(run_id, QueueState.CLAIMED, only=QueueState.PARKED)
        else:
            parked.append(run_id)
    return parked


def _has_changed(runs: Runs, plan: RunPlan) -> bool:
    """Whether control, or the end of a child run, has something for the worker to do."""
    if is_stale(runs, plan.run):
        return True
    try:
        children = [runs.get(child_run_id) for child_run_id in plan.children.values()]
    except PoisonRecordError:
        return True
    return any(child is None or child.status.final for child in children)


def _due_us(plan: RunPlan, children: list[ChildWait], waits: Waits, *, now: Instant) -> int | None:
    due_s = min(waits.due_s, *_due_times(plan, children))
    return None if math.isinf(due_s) else now.wall_us + round(max(0.0, due_s - now.mono_s) * 1e6)


def _due_times(plan: RunPlan, children: list[ChildWait]) -> Iterator[float]:
    yield plan.ends_by_s if plan.paused else plan.due_s
    for wait in children:
        if not wait.timed_out:
            yield wait.due_s
