"""Starts that are stored before there is a slot for them.

A turn costs a flush to the disk. While tasks end sooner than that, a slot would be free for most of each turn. So a
turn in which all that ended was short stores some more starts than there are slots, of tasks like those; each becomes a
process as soon as another has ended, without a turn in between. There are never more processes than slots. As long as
some are left, the ends may wait for ``STORE_WITHIN_S``, so that one turn stores many.

What is stored here counts as running, although for some milliseconds nothing runs. Nobody is to see a difference:

- only as many are stored as begin within ``HORIZON_S``, as fast as tasks have ended since the last turn;
- somebody else who has changed a run may have paused or cancelled it, so nothing of it begins before the next turn has
  looked;
- what has found no slot within ``WITHIN_S`` waits again (``Holdings.unstarted``);
- at the end of the attempt its rows say when it really began;
- only a task that is tried again when its worker dies (``on_lost: retry``) is stored ahead: it might not have begun;
  and none that ends with another one (``fail_fast``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from cis.engine.lookup import is_stale
from cis.engine.run.effects import NEVER, NOTHING_SEEN, Start
from cis.engine.run.ends import End
from cis.engine.run.plan import RunPlan
from cis.engine.this_node import Incarnation
from cis.model.dag import OnLost, TaskSpec
from cis.model.states import RunState
from cis.store.port import Store
from cis.store.records import AttemptRecord

HORIZON_S = 0.05
WITHIN_S = 0.25
STORE_WITHIN_S = 0.003
MOST_AHEAD = 64
_SHORT_US = 10_000
_ROUNDS = 4  # of all slots

Kind = tuple[str | None, str]


class Pace(NamedTuple):
    """How many starts to store ahead, and of what kinds of tasks: those that have just been short."""

    most: int
    kinds: frozenset[Kind]

    def allows(self, plan: RunPlan) -> bool:
        """Whether the start of the next task of a run may be stored ahead."""
        number = plan.ready.first
        if number is None or plan.run.status is not RunState.RUNNING:
            return False
        task = plan.task_spec(number)
        return task.on_lost is OnLost.RETRY and not task.fail_fast and _kind(task) in self.kinds


NONE = Pace(0, frozenset())


class Ahead:
    """The starts that are stored ahead, in their order.

    ``seen`` is up to which of others' writes (``Store.others_writes``) their runs are known to be unchanged.
    """

    __slots__ = ("_last_s", "_since_s", "_starts", "seen")

    def __init__(self) -> None:
        self._starts: deque[Start] = deque()
        self._last_s = -NEVER
        self._since_s = NEVER
        self.seen = NOTHING_SEEN

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[Start]:
        return iter(self._starts)

    @property
    def due_s(self) -> float:
        """When the first of them is to wait again; infinity when there is none."""
        return self._starts[0].begins_by_s if self._starts else NEVER

    def note_turn(self, now_s: float) -> None:
        """Note when a turn comes that has ends to store."""
        self._since_s, self._last_s = now_s - self._last_s, now_s

    def pace(self, ends: Sequence[tuple[RunPlan, End]], *, slots: int) -> Pace:
        """Return what may be stored ahead, as fast as attempts have ended since the last turn with ends."""
        if any((end.attempt.finished_at_us or 0) - end.attempt.started_at_us >= _SHORT_US for _, end in ends):
            return NONE
        soon, since_s = len(ends) * HORIZON_S, self._since_s
        most = min(MOST_AHEAD, _ROUNDS * slots, round(soon / since_s) if since_s > 0 else MOST_AHEAD)
        return Pace(most, frozenset(_kind(plan.task_spec(end.attempt.task_no)) for plan, end in ends)) if most else NONE

    def may_begin(self, store: Store, me: Incarnation) -> bool:
        """Whether nobody else has changed the runs of these starts, or taken over this worker's id.

        Raises:
            FencedError: somebody has taken it over.
        """
        writes = store.others_writes()  # first: what is written while the rows are read is looked at the next time
        if writes == self.seen:
            return True
        store.workers.check_epoch(me.node_id, me.worker_id, me.epoch)
        plans = {start.plan.run.run_id: start.plan for start in self._starts}
        if any(is_stale(store.runs, plan.run) for plan in plans.values()):
            return False
        self.seen = writes
        return True

    def replace(self, starts: Iterable[Start], *, seen: int) -> None:
        """Hold *starts* in place of all others."""
        self._starts = deque(starts)
        self.seen = seen

    def take(self, most: int) -> list[Start]:
        """Give up the first ones."""
        return [self._starts.popleft() for _ in range(min(most, len(self._starts)))]


def began(plan: RunPlan, attempt: AttemptRecord, *, at_us: int) -> AttemptRecord:
    """Return an attempt as of when it really begins; the rows say so when it ends."""
    at_us = max(at_us, attempt.started_at_us)
    if attempt.attempt == 1:
        plan.tasks[attempt.task_no] = plan.tasks[attempt.task_no]._replace(started_at_us=at_us)
    return attempt._replace(started_at_us=at_us)


def _kind(task: TaskSpec) -> Kind:
    """Return what tasks that take about as long may have in common: the skill, and the first word of the command."""
    command = task.command or ""
    return task.skill, command.partition(" ")[0] if isinstance(command, str) else command[0]
