"""What a worker's loop is made of, and what it holds while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from cis.engine.attempts import AttemptMaker
from cis.engine.instant import Instant
from cis.engine.leases import Leases
from cis.engine.live import LiveAttempts
from cis.engine.plan import RunPlan
from cis.engine.ports import Bell, Executor, Exit
from cis.engine.reading import RunReading
from cis.engine.shortage import Shortage
from cis.engine.site import Site
from cis.engine.task_places import NoBound, Places, PlaceUse
from cis.model.dag import DagSpec, Json
from cis.store.port import Store
from cis.store.records import AttemptRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopParts:
    """The ports of a loop.

    ``ring`` wakes another worker by its id; ``tell`` says that something was stored; ``jitter`` is in [0, 1);
    ``parse`` reads the document of a DAG as a task; ``alive`` is called whenever the loop does anything at all.
    """

    store: Store
    executor: Executor
    maker: AttemptMaker
    site: Site
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
    """The bounds of a loop; durations in seconds."""

    slots: int
    grace_s: float
    lease_s: float


@dataclass(slots=True)
class ChildWait:
    """An attempt that waits for its child run, until ``due_s`` (monotonic) at the most."""

    attempt: AttemptRecord
    due_s: float = float("inf")
    timed_out: bool = False


@dataclass(slots=True)
class Held:
    """What a worker holds: plans by run id, attempts that wait for a child run, processes, who is to be woken."""

    live: LiveAttempts
    leases: Leases
    plans: dict[str, RunPlan] = field(default_factory=dict)
    children: dict[tuple[str, int], ChildWait] = field(default_factory=dict)
    rings: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)  # runs whose processes are to be ended once that is stored
    ended: set[str] = field(default_factory=set)  # runs to be let go of once that is stored
    alone: tuple[AttemptRecord, float] | None = None  # what runs apart from all others, and until when (monotonic)
    reading: RunReading | None = None  # the large run that is taken next, while it is read
    place: PlaceUse = field(default_factory=lambda: PlaceUse(NoBound()))
    short: Shortage | None = None
    unstarted: list[AttemptRecord] = field(default_factory=list)  # stored, but begun by nobody; to be put back
    unjudged: list[tuple[Exit, int]] = field(
        default_factory=list
    )  # and when: their outputs cannot be read for a shortage
    runs_done: int = 0
    stopping: bool = False
    beat_s: float = 0.0
    beat_due_s: float = 0.0
    poll_due_s: float = 0.0
    control_due_s: float = 0.0
    told: tuple[object, ...] = ()
    told_short: bool = False  # the row of the worker may say what is short
    say_short_s: float = 0.0

    def next_due_s(self) -> float:
        """Return when something is to be done about a process, or a place is asked for again."""
        live_s = self.live.next_due_s()
        return live_s if self.stopping else min(live_s, self.place.due_s)

    def short_of(self, now_s: float) -> str | None:
        """Return what the machine has too little of for a task to start."""
        return self.place.words(now_s) if self.short is None else self.short.words

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
        for key in [key for key in self.children if key[0] == run_id]:
            del self.children[key]
