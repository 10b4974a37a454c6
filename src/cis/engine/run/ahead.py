"""Starts that are stored before there is a slot for them.

A turn costs a flush to the disk. While tasks end sooner than that, a slot would be free for most of each turn. So a turn
in which all that ended was short stores some starts more than there are slots for; each becomes a process as soon as
another has ended, without a turn in between. There are never more processes than slots. As long as some are left, the
ends may wait for ``STORE_WITHIN_S``, so that one turn stores many.

What is stored here counts as running, although for some milliseconds nothing runs. Nobody is to see a difference:

- nothing begins after somebody else has written to the database, who may have paused or cancelled the run: the next turn
  looks at that first;
- what has found no slot within ``WITHIN_S`` waits again (``Held.unstarted``);
- at the end of the attempt its rows say when it really began;
- a task that fails when its worker dies (``on_lost: fail``) is never stored ahead, since it might not have begun.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from cis.engine.run.effects import NEVER, Start
from cis.engine.run.plan import RunPlan
from cis.store.records import AttemptRecord

WITHIN_S = 0.02
STORE_WITHIN_S = 0.003
MOST_AHEAD = 64
_SHORT_US = 10_000
_ROUNDS = 4


def most_ahead(longest_us: int, *, slots: int) -> int:
    """Return how many starts to store ahead, when the last attempts took *longest_us* at most: what begins within 10 ms."""
    return min(MOST_AHEAD, slots * min(_ROUNDS, _SHORT_US // longest_us)) if longest_us else 0


class Ahead:
    """The starts that are stored ahead, in their order, and what had been *seen* of others' writes when they were."""

    __slots__ = ("_starts", "seen")

    def __init__(self) -> None:
        self._starts: deque[Start] = deque()
        self.seen = 0

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[Start]:
        return iter(self._starts)

    @property
    def due_s(self) -> float:
        """When the first of them is to wait again; infinity when there is none."""
        return self._starts[0].begins_by_s if self._starts else NEVER

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
