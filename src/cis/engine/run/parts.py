"""What a worker's loop is made of, what it holds while it runs, and the two things that hold for all of it.

These two are how many attempts may run at once (its slots, and fewer while the machine is short of something), and the
heartbeat: the worker's lease is renewed, and its row says what it does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from cis.engine.leases import Leases
from cis.engine.ports import Bell, Executor, Exit
from cis.engine.run.ahead import Ahead
from cis.engine.run.attempts import AttemptMaker
from cis.engine.run.effects import NOTHING_SEEN
from cis.engine.run.ends import End
from cis.engine.run.live import Ending, LiveAttempts
from cis.engine.run.plan import RunPlan
from cis.engine.run.reading import RunReading
from cis.engine.run.task_places import NoBound, Places, PlaceUse
from cis.engine.run.waits import Waits
from cis.engine.shortage import FIRST_PAUSE_S, Shortage
from cis.engine.this_node import Incarnation, ThisNode
from cis.engine.times import Instant
from cis.model.dag import DagSpec, Json
from cis.store.port import Store
from cis.store.queue_port import Workers
from cis.store.records import AttemptRecord, Heartbeat, WorkerState

log = logging.getLogger(__name__)

SAY_AGAIN_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPorts:
    """The ports of a loop.

    ``ring`` wakes another worker by its id; ``tell`` says that something was stored; ``jitter`` is in [0, 1);
    ``parse`` reads the document of a DAG as a task; ``alive`` is called whenever the loop does anything at all.
    """

    store: Store
    executor: Executor
    maker: AttemptMaker
    this_node: ThisNode
    bell: Bell
    ring: Callable[[str], None]
    tell: Callable[[], None]
    clock: Callable[[], Instant]
    jitter: Callable[[], float]
    parse: Callable[[Mapping[str, Json]], DagSpec]
    alive: Callable[[], None] = lambda: None
    places: Places = field(default_factory=NoBound)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopLimits:
    """The bounds of a loop; durations in seconds. Runs before *from_position* in the queue are not taken."""

    slots: int
    grace_s: float
    lease_s: float
    from_position: int = 0


@dataclass(slots=True)
class ChildWait:
    """An attempt that waits for its child run, until ``due_s`` (monotonic) at the most."""

    attempt: AttemptRecord
    due_s: float = float("inf")
    timed_out: bool = False


@dataclass(slots=True)
class Holdings:
    """What a worker holds: plans by run id, attempts that wait for a child run, processes."""

    live: LiveAttempts
    leases: Leases
    plans: dict[str, RunPlan] = field(default_factory=dict)
    children: dict[tuple[str, int], ChildWait] = field(default_factory=dict)
    waits: Waits = field(default_factory=Waits)
    alone: tuple[AttemptRecord, float] | None = None  # what runs apart from all others, and until when (monotonic)
    reading: RunReading | None = None  # the large run that is taken next, while it is read
    place: PlaceUse = field(default_factory=lambda: PlaceUse(NoBound()))
    short: Shortage | None = None
    ahead: Ahead = field(default_factory=Ahead)
    seen: int = NOTHING_SEEN  # of others' writes, as of the last turn: what is held is as that left it
    unstarted: list[AttemptRecord] = field(default_factory=list)  # stored, but begun by nobody; to be put back
    unjudged: list[tuple[Exit, int]] = field(
        default_factory=list
    )  # and when: their outputs cannot be read for a shortage
    asked: dict[tuple[str, int, int], tuple[AttemptRecord, float]] = field(
        default_factory=dict
    )  # lasting attempts that are still to be asked for, and when (monotonic)
    runs_done: int = 0
    stopping: bool = False
    beat_s: float = 0.0
    beat_due_s: float = 0.0
    poll_due_s: float = 0.0
    control_due_s: float = 0.0
    told: tuple[object, ...] = ()
    say_short_s: float = 0.0

    def next_due_s(self) -> float:
        """Return when something is to be done about a process or a wait, or a place is asked for again."""
        live_s = self.live.next_due_s()
        if self.asked:
            live_s = min(live_s, *(due_s for _, due_s in self.asked.values()))
        return live_s if self.stopping else min(live_s, self.place.due_s, self.waits.due_s)

    def ended_waits(self, maker: AttemptMaker, now: Instant) -> list[End]:
        """Give up the waits that are over, and return their ends; a worker that stops leaves them as they are."""
        return [] if self.stopping else self.waits.ended(self.plans, planned=maker.wait, now=now)

    def short_of(self, now_s: float) -> str | None:
        """Return what the machine has too little of for a task to start."""
        return self.place.words(now_s) if self.short is None else self.short.words

    def fall_short(self, short_of: str, *, now_s: float) -> None:
        """Have fewer attempts run at once, since the machine is short of something; said once a minute at most."""
        running = len(self.live)
        if self.short is not None:
            self.short.again(short_of, running=running, now_s=now_s)
            return
        self.short = Shortage(short_of, running, now_s + FIRST_PAUSE_S)
        if now_s >= self.say_short_s:
            self.say_short_s = now_s + SAY_AGAIN_S
            log.warning("the machine is short of something; what cannot start waits", extra={"short_of": short_of})

    def may_begin_ahead(self, now: Instant) -> bool:
        """Whether what is stored ahead may become processes, as far as this worker knows."""
        if not self.ahead or self.ahead.due_s <= now.mono_s:
            return False
        return not (self.stopping or self.short is not None or self.leases.late(now))

    def keep_unstarted(self, attempts: Iterable[AttemptRecord]) -> None:
        """Note what a turn chose, until its commit: one that is reported as failed may be there after all."""
        if not self.unstarted:
            self.unstarted += attempts
            return
        chosen = [*self.unstarted, *attempts]
        self.unstarted = list({(one.run_id, one.task_no, one.attempt): one for one in chosen}.values())

    def let_go(self, run_id: str) -> None:
        """Forget a run that is over, or that was parked."""
        del self.plans[run_id]
        self.leases.forget(run_id)
        self.forget_waits(run_id)

    def forget_waits(self, run_id: str | None) -> None:
        """Forget what the tasks of a run wait for."""
        self.waits.forget(run_id)
        for key in [key for key in self.children if key[0] == run_id]:
            del self.children[key]


def room_for(held: Holdings, *, slots: int, wanted: bool, now_s: float) -> int:
    """Return how many attempts may run; that something was short is forgotten once nothing waits for it."""
    short = held.short
    if short is None:
        return slots
    if not wanted or short.most >= slots:
        held.short = None
        return slots
    return 0 if held.unjudged else min(slots, short.room(now_s))


def stop_the_late(held: Holdings, now: Instant) -> None:
    """End what runs under a lease that is over, whether or not the store can be used."""
    late = held.leases.late(now)
    if late:
        held.live.end_where(lambda live: live.attempt.run_id in late, Ending.STOP, now_s=now.mono_s)
        gone = held.leases.late(now, within_s=0.0)
        held.live.kill_where(lambda live: live.attempt.run_id in gone)


def probe(held: Holdings, executor: Executor, *, now_s: float) -> None:
    """When the pause is over, see whether a process could be started, before a task is tried again."""
    if held.short is None or held.short.due_s > now_s:
        return
    short_of = executor.shortage()
    if short_of is not None:
        held.fall_short(short_of, now_s=now_s)


def beat(workers: Workers, limits: LoopLimits, me: Incarnation, held: Holdings, *, now: Instant) -> None:
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
    workers.beat(
        Heartbeat(
            node_id=me.node_id,
            worker_id=me.worker_id,
            epoch=me.epoch,
            status=state,
            now_us=now.wall_us,
            lease_until_us=now.wall_us + round(limits.lease_s * 1e6),
            runs_done=held.runs_done,
            current_run=current_run,
            short_of=short_of,
        )
    )
    held.told = told
    held.beat_s = now.mono_s
    held.beat_due_s = now.mono_s + limits.lease_s / 3
