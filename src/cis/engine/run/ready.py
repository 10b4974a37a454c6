"""The tasks of one run that may start, by what a start takes, and those that wait for their retry.

A task is a process, which takes a slot, or a wait, which takes none (``cis.engine.ports``). What may have taken its
last worker down is started apart from all others (``cis.engine.run.losses``).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet

from cis.engine.run.losses import Losses
from cis.model.dag import TaskSpec


class ReadyTasks:
    """Tasks by their numbers; of each kind, the first in the document is taken first."""

    def __init__(self, losses: Losses, is_wait: Callable[[TaskSpec], bool]) -> None:
        self._losses = losses
        self._is_wait = is_wait
        self._processes: list[int] = []
        self._alone: list[tuple[float, int]] = []  # the time, and the task
        self._waits: list[int] = []
        self.dag_skills: set[str] = set()  # those that were seen to plan a DAG
        self._dags: list[int] = []  # of these, DAGs that found as many tasks at work as their run may have
        self._retries: list[tuple[float, int]] = []

    def __len__(self) -> int:
        """How many tasks want a slot."""
        return len(self._processes) + len(self._alone)

    def has_wait(self, *, dags: bool) -> bool:
        """Whether a task may start that takes no slot; *dags*: one that is a DAG, too."""
        return bool(self._waits or (dags and self._dags))

    @property
    def first(self) -> int | None:
        """The task that ``next_process`` would give out, if it is to start beside others."""
        return self._processes[0] if self._processes else None

    @property
    def alone_s(self) -> float:
        """For how long the next one is to run apart from all others; infinity: none is."""
        return self._alone[0][0] if self._alone else math.inf

    @property
    def due_s(self) -> float:
        """The monotonic time of the next retry; infinity when nothing waits for one."""
        return self._retries[0][0] if self._retries else math.inf

    def add(self, number: int, task: TaskSpec) -> None:
        """Take in a task that may start."""
        if task.skill is not None and self._is_wait(task):
            heapq.heappush(self._waits, number)
        elif number in self._losses:
            heapq.heappush(self._alone, (self._losses.alone_s(number), number))
        else:
            heapq.heappush(self._processes, number)

    def put_back_wait(self, number: int) -> None:
        """Take in again what ``next_wait`` gave out."""
        heapq.heappush(self._waits, number)

    def hold_dag(self, number: int) -> None:
        """Take in again what ``next_wait`` gave out: it is a DAG, and waits for a place."""
        heapq.heappush(self._dags, number)

    def retry(self, number: int, *, at_s: float) -> None:
        """Take in a task that may start again from then on (monotonic)."""
        heapq.heappush(self._retries, (at_s, number))

    def take_due(self, now_s: float) -> Iterator[int]:
        """Give up the tasks that have waited long enough for their retry."""
        while self._retries and self._retries[0][0] <= now_s:
            yield heapq.heappop(self._retries)[1]

    def next_process(self) -> int:
        """Give up the next task that takes a slot."""
        return heapq.heappop(self._processes) if self._processes else heapq.heappop(self._alone)[1]

    def next_alone(self) -> tuple[float, int]:
        """Give up the task that is to run apart for the shortest time, and that time in seconds."""
        return heapq.heappop(self._alone)

    def next_wait(self, *, dags: bool) -> int:
        """Give up the next task that takes no slot; *dags*: those that waited for a place, too."""
        if dags and self._dags and (not self._waits or self._dags[0] < self._waits[0]):
            return heapq.heappop(self._dags)
        return heapq.heappop(self._waits)

    def drop(self, numbers: AbstractSet[int]) -> None:
        """Forget some of them."""
        for heap in (self._processes, self._waits, self._dags):
            if not numbers.isdisjoint(heap):
                heap[:] = [number for number in heap if number not in numbers]
                heapq.heapify(heap)
        for timed in (self._alone, self._retries):
            if any(number in numbers for _, number in timed):
                timed[:] = [one for one in timed if one[1] not in numbers]
                heapq.heapify(timed)

    def clear(self) -> None:
        """Forget them all."""
        for heap in (self._processes, self._alone, self._waits, self._dags, self._retries):
            heap.clear()
