"""What is known of a run while its plan works on it, and what the loop asks of it: what wants to start, what waits, how it ends.

``cis.engine.run.plan`` decides what each end of a task leads to; here is only what can be told from where that stands.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from cis.engine.run.handling import Verdict, verdict_of
from cis.engine.run.losses import Losses
from cis.engine.run.many import Many
from cis.engine.run.ready import ReadyTasks
from cis.engine.run.task_rows import TaskRows
from cis.engine.run.upstream import Decision, UpstreamCounts
from cis.engine.run.values import Values
from cis.engine.times import Instant
from cis.errors import PoisonRecordError
from cis.model.added import added_task
from cis.model.dag import DagSpec, Json, TaskSpec
from cis.model.graph import Graph
from cis.model.states import RunState, TaskState
from cis.store.records import RunRecord, TaskLoss, TaskRecord


class Outlook:
    """What is known of one run, and what follows from it; nothing here changes a task."""

    def __init__(
        self,
        run: RunRecord,
        spec: DagSpec,
        tasks: Sequence[TaskRecord],
        *,
        params: Mapping[str, Json] | None = None,
        losses: Iterable[TaskLoss] = (),
        is_wait: Callable[[TaskSpec], bool] = lambda _: False,
    ) -> None:
        """Make a plan that has nothing to do yet: ``place_in_pieces`` comes next. *is_wait*: a task takes no slot."""
        self.run = run
        self.spec = spec
        self.rows = TaskRows(tasks)
        self.tasks = self.rows.tasks
        self.running: set[int] = set()
        self.children: dict[int, str] = {}
        self.waits: set[int] = set()  # running tasks without a process or a child run
        self.cancelling = False
        self.timed_out = False
        self.ends_by_s = math.inf  # the time limit of the run (monotonic), once it has begun
        self.waits_due_s = 0.0  # no task that waits is started before that (monotonic)
        self.output_bytes = 0
        self.ended_at_us = 0  # when the last end was that this process saw
        self.set_us = 0  # how far the clock was set (``Instant``) before the run began, or this process had it
        self.values = Values(run.run_id, spec, self.tasks, params or {})
        self.written = len(spec.tasks)  # those of the document; what was added comes after them
        self.specs: Sequence[TaskSpec] = spec.tasks
        self.many: dict[int, Many] = {}  # tasks that were made into many, by number
        self.unmade: list[int] = []  # those that are to be
        self.stopped: list[
            int
        ] = []  # tasks that run and are to end by themselves: asked for, or beside one that failed
        self.asked: set[int] = set()  # tasks that somebody wants cancelled
        self.settled: Verdict | None = None  # how it has ended but for its handlers, once these are there
        self._graph = Graph.of(spec.tasks)
        self.losses = Losses(losses)
        self.ready = ReadyTasks(self.losses, is_wait)
        self._upstream = UpstreamCounts(spec, self._graph, self.tasks)
        self._skips: list[tuple[int, Decision]] = []  # tasks to be skipped, and why
        self.undecided: deque[int] = deque()  # tasks that could start, if their ``when`` holds
        self._cancels: list[int] = []  # tasks that wait and are to be cancelled by themselves
        self._cancelled_up_to: int | None = None  # the next task to be cancelled; None when none is
        if len(tasks) > self.written:
            self._note_added(self.tasks[self.written :])

    def note_begin(self, now: Instant) -> None:
        """Know by when the run has to be over, if it has begun: waits and pauses count, and so does the machine's sleep.

        Asked again it may turn out sooner, since the monotonic clock does not see a sleep; never later.
        """
        limit_s = self.spec.timeout_s
        if limit_s is not None and self.run.started_at_us is not None and not self.cancelling and not self.settled:
            ends_by_s = now.until(self.run.started_at_us + round(limit_s * 1e6), at_most_s=limit_s)
            self.ends_by_s = min(self.ends_by_s, ends_by_s)

    @property
    def given_up(self) -> bool:
        """Whether nothing of it is to go on, since somebody cancelled it, or its time is over; its handlers do."""
        return self.run.cancelled_again if self.settled else self.run.cancel_requested or self.timed_out

    @property
    def to_cancel(self) -> bool:
        """Whether somebody wants it cancelled, and that has not begun."""
        asked = self.run.cancelled_again if self.settled else self.run.cancel_requested
        return asked and not self.cancelling

    @property
    def cyclic(self) -> bool:
        """Whether tasks wait for each other, so that the run would never end."""
        return self._graph.find_cycle() is not None

    @property
    def paused(self) -> bool:
        """Whether control holds the run back."""
        return self.run.status is RunState.PAUSED

    @property
    def full(self) -> bool:
        """Whether as many processes and DAGs are at work as the run may have at once."""
        limit = self.spec.max_parallel
        return limit is not None and len(self.running) + len(self.children) >= limit

    @property
    def wants_slot(self) -> bool:
        """Whether a task would start if a slot were free."""
        return bool(self.ready) and not self.paused and not self.full

    @property
    def alone_s(self) -> float:
        """For how long the next task is to run apart from all others, since its last worker died; infinity: none is."""
        return self.ready.alone_s if self.wants_slot else math.inf

    @property
    def wants_wait(self) -> bool:
        """Whether a task may start that takes no slot."""
        return not self.paused and self.ready.has_wait(dags=not self.full)

    @property
    def active(self) -> bool:
        """Whether the run has work for this worker now, rather than only waiting."""
        return bool(self.running or self.unmade) or self.backlog or self.wants_slot

    @property
    def only_waits(self) -> bool:
        """Whether no process runs and nothing could start: its tasks wait, or it is paused."""
        return not self.active and not self.wants_wait and self.verdict() is None

    @property
    def slots_wanted(self) -> int:
        """How many slots its tasks use, or would use if they were free."""
        running, limit = len(self.running), self.spec.max_parallel or math.inf
        ready = 0 if self.paused else len(self.ready)
        return running + int(min(ready, max(0, limit - running - len(self.children))))

    @property
    def backlog(self) -> bool:
        """Whether something that was decided is not worked off yet."""
        return bool(self._skips or self._cancels or self.undecided) or self._cancelled_up_to is not None

    @property
    def due_s(self) -> float:
        """The monotonic time of the next retry, or the past while there is a backlog; infinity without either."""
        if self.backlog or (self.cancelling and self.waits) or (self.unmade and not self.paused):
            return 0.0
        return self.ready.due_s if self.cancelling else min(self.ready.due_s, self.ends_by_s)

    def task_spec(self, number: int) -> TaskSpec:
        """Return the specification of a task by its place in the document."""
        return self.specs[number]

    def follower(self, number: int) -> int | None:
        """Return the first task downstream of a running one, if it waits for that one alone."""
        for child in self._graph.children[number][:1] if number < self.written else ():
            if self._upstream.waits_for_one(child) and self.tasks[child].status is TaskState.PENDING:
                return child
        return None

    def verdict(self) -> RunState | None:
        """Return the final state of the run, or None while something is left to do; its handlers change nothing."""
        if self.rows.unfinished:
            return None
        if self.settled is not None:
            return self.settled.status
        if self.run.cancel_requested:
            return RunState.CANCELLED
        if all(task.status is TaskState.COMPLETED for task in self.tasks):
            return RunState.COMPLETED
        return RunState.FAILED if any(task.counts_as_failed for task in self.tasks) else RunState.COMPLETED

    def why_failed(self) -> str | None:
        """Return what is to be said of the run itself when it has failed; None: its tasks say it."""
        if self.settled is not None:
            return self.settled.error
        return f"timed out after {self.spec.timeout_s:g} s" if self.timed_out else None

    def _note_added(self, added: Sequence[TaskRecord]) -> None:
        """Know what tasks are that the run got while it went on. Raises PoisonRecordError."""
        self.specs = [*self.specs, *map(self._spec_of, added)]
        for task in added:
            if task.part_of is None:
                self.settled = self.settled or verdict_of(task)
            else:
                self.many_of(task.part_of).add(task)

    def is_stopped(self, number: int) -> bool:
        """Whether a task is to be cancelled by itself: it was asked for, or an instance beside it has failed."""
        if number in self.asked:
            return True
        part_of = self.tasks[number].part_of
        return part_of is not None and (self.many[part_of].stopped or part_of in self.asked)

    def many_of(self, number: int) -> Many:
        """Return what is known of the instances of a task."""
        if number not in self.many:
            self.many[number] = Many(self.spec.tasks[number])
        return self.many[number]

    def _spec_of(self, task: TaskRecord) -> TaskSpec:
        found = added_task(self.spec, task.task_id, task.part_of)
        if found is None:
            raise PoisonRecordError(f"run {task.run_id}", f"its document has nothing that adds {task.task_id!r}")
        return found
