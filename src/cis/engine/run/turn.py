"""What the steps of one turn share: what the worker holds, the moment, and what is to follow once all is stored.

Also the four things that several steps do to a run or a task: look at its row again, cancel it, begin it, make an
attempt.
"""

from __future__ import annotations

from collections.abc import Sequence

from cis.engine.accept.control import cancel_children
from cis.engine.lookup import is_stale
from cis.engine.run.effects import NOTHING_SEEN, Effects, Start
from cis.engine.run.parts import Holdings, LoopLimits, WorkerPorts
from cis.engine.run.plan import RunPlan
from cis.engine.this_node import Incarnation
from cis.engine.times import Instant
from cis.engine.transitions import move_run, move_tasks
from cis.errors import PoisonRecordError
from cis.model.states import AttemptState, RunState
from cis.store.records import AttemptRecord, RunChange


class Turn:
    """One turn of one worker, inside its transaction."""

    def __init__(
        self, parts: WorkerPorts, limits: LoopLimits, me: Incarnation, held: Holdings, *, now: Instant
    ) -> None:
        self.parts = parts
        self.store = parts.store
        self.limits = limits
        self.me = me
        self.held = held
        self.now = now
        self.ahead: list[Start] = []
        self.alone: tuple[AttemptRecord, float] | None = None
        self.cancelled: set[str] = set()
        self.stopped: set[tuple[str, int]] = set()
        self.suspended: set[str] = set()
        self.ended: set[str] = set()
        self.rings: set[str] = set()
        self._writes = parts.store.others_writes()
        self.undisturbed = self._writes == held.seen  # nobody else has written since all that is held was looked at
        self._looked_at: set[str] = set()
        self._disturbs = False

    def effects(self, starts: Sequence[Start]) -> Effects:
        """Return what is to be done once all of this is stored."""
        return Effects(
            starts,
            ahead=self.ahead,
            seen=self._seen(),
            alone=self.alone,
            cancelled=frozenset(self.cancelled),
            stopped=frozenset(self.stopped),
            suspended=frozenset(self.suspended),
            ended=frozenset(self.ended),
            rings=frozenset(self.rings),
        )

    def disturb(self) -> None:
        """Have every run looked at again: this worker itself has changed some that it may hold."""
        self.undisturbed = False
        self._looked_at.clear()
        self._disturbs = True

    def note_read(self, run_ids: Sequence[str]) -> None:
        """Note that runs were read in this very transaction."""
        self._looked_at.update(run_ids)

    def refresh(self, plan: RunPlan) -> None:
        """Read the run again if somebody changed it, and begin to cancel it if that is what they asked for.

        If nobody else has written since the last look, it is unchanged; and nobody else can write before the commit.
        """
        if not self.undisturbed and plan.run.run_id not in self._looked_at:
            self._looked_at.add(plan.run.run_id)
            if is_stale(self.store.runs, plan.run):
                fresh = self.store.runs.get(plan.run.run_id)
                if fresh is None:
                    raise PoisonRecordError(f"run {plan.run.run_id}", "its row is gone")
                plan.run = fresh
                plan.cancel_tasks(self.store.tasks.asked_to_cancel(fresh.run_id))
        if plan.to_cancel:
            self._cancel(plan)

    def time_out(self, plan: RunPlan) -> None:
        """End a run whose time is over as if it were cancelled; it will be failed."""
        plan.timed_out = True
        self._cancel(plan)

    def _cancel(self, plan: RunPlan) -> None:
        run_id = plan.run.run_id
        plan.cancel_waiting(self.now)
        self.cancelled.add(run_id)
        self.rings.update(child.worker_id for child in self.store.runs.children(run_id))
        cancel_children(self.store, run_id, now_us=self.now.wall_us, again=plan.run.cancelled_again)
        self.disturb()

    def _seen(self) -> int:
        """Return the count of others' writes up to which every run that is held has been looked at."""
        if self._disturbs:
            return NOTHING_SEEN
        return self._writes if self.undisturbed or self._looked_at.issuperset(self.held.plans) else self.held.seen

    def held_back(self, plan: RunPlan) -> bool:
        """Whether control wants nothing more of this run to start, as of this very transaction."""
        self.refresh(plan)
        return plan.paused or plan.given_up

    def begun(self) -> Instant:
        """Return the moment at which what is decided now begins."""
        # Ends of this turn carry its time; what they made ready starts later, by the stored clock too.
        return self.now._replace(wall_us=max(self.parts.clock().wall_us, self.now.wall_us + 1))

    def mark_running(self, plan: RunPlan, begun: Instant) -> None:
        """Have a run that is pending run."""
        if plan.run.status is RunState.PENDING:
            change = RunChange(status=RunState.RUNNING, started_at_us=begun.wall_us)
            plan.run = move_run(self.store, plan.run, change, at_us=begun.wall_us)
            plan.begin(begun)

    def write(self, plan: RunPlan) -> None:
        """Store every change of a run's tasks, in the order in which they were decided."""
        move_tasks(self.store, plan.run, plan.rows.take_changes(), at_us=self.now.wall_us)
        acquitted = plan.losses.take_acquitted()
        if acquitted:
            self.store.attempts.forget_losses(plan.run.run_id, acquitted)

    def attempt(self, plan: RunPlan, number: int, begun: Instant) -> AttemptRecord:
        """Return the attempt of a task that was just moved to running."""
        task = plan.tasks[number]
        return AttemptRecord(
            run_id=plan.run.run_id,
            task_no=number,
            task_id=task.task_id,
            attempt=task.attempts,
            status=AttemptState.RUNNING,
            worker_id=self.me.worker_id,
            epoch=self.me.epoch,
            started_at_us=begun.wall_us,
        )
