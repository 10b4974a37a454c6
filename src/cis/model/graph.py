"""The graph of a DAG: order, levels, cycles, critical path. Linear in tasks and edges, and never recursive.

Tasks are numbered by their place in the document; every result keeps that order where the graph leaves a choice.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cis.model.dag import TaskSpec

_BITS = 4096


@dataclass(frozen=True, slots=True)
class Graph:
    """Who depends on whom, by number: ``parents[n]`` must complete before n, ``children[n]`` wait for n."""

    parents: tuple[tuple[int, ...], ...]
    children: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, tasks: Sequence[TaskSpec]) -> Graph:
        """Return the graph of *tasks*, whose dependencies all exist."""
        number_of = {task.id: number for number, task in enumerate(tasks)}
        return cls.from_parents([[number_of[name] for name in task.depends_on] for task in tasks])

    @classmethod
    def from_parents(cls, parents: Sequence[Sequence[int]]) -> Graph:
        """Return the graph in which node n depends on ``parents[n]``."""
        children: list[list[int]] = [[] for _ in parents]
        for number, mine in enumerate(parents):
            for parent in mine:
                children[parent].append(number)
        return cls(tuple(map(tuple, parents)), tuple(map(tuple, children)))

    def order(self) -> list[int]:
        """Return a topological order, the document's where there is a choice; what a cycle holds back is missing.

        Source: A. B. Kahn, Topological sorting of large networks, CACM 5 (1962).
        """
        missing = [len(mine) for mine in self.parents]
        ready = [number for number, count in enumerate(missing) if not count]
        order: list[int] = []
        while ready:
            number = heapq.heappop(ready)
            order.append(number)
            for child in self.children[number]:
                missing[child] -= 1
                if not missing[child]:
                    heapq.heappush(ready, child)
        return order

    def levels(self) -> list[list[int]]:
        """Return the tasks by depth: level 0 depends on nothing, level n on something of level n - 1."""
        depth = [0] * len(self.parents)
        for number in self.order():
            depth[number] = max((depth[parent] + 1 for parent in self.parents[number]), default=0)
        levels: list[list[int]] = [[] for _ in range(max(depth, default=-1) + 1)]
        for number, level in enumerate(depth):
            levels[level].append(number)
        return levels

    def find_cycle(self) -> list[int] | None:
        """Return the nodes of one cycle, each depending on the next, the last on the first; None if there is none."""
        ordered = set(self.order())
        stuck = next((number for number in range(len(self.parents)) if number not in ordered), None)
        if stuck is None:
            return None
        seen: dict[int, int] = {}
        path: list[int] = []
        while stuck not in seen:
            seen[stuck] = len(path)
            path.append(stuck)
            stuck = next(parent for parent in self.parents[stuck] if parent not in ordered)
        return path[seen[stuck] :]

    def critical_path(self, weights: Mapping[int, float] | Sequence[float]) -> list[int]:
        """Return the chain of tasks whose weights add up to the most, first to last."""
        total = [0.0] * len(self.parents)
        before: list[int | None] = [None] * len(self.parents)
        for number in self.order():
            best = max(self.parents[number], key=lambda parent: total[parent], default=None)
            before[number] = best
            total[number] = weights[number] + (0.0 if best is None else total[best])
        last = max(range(len(total)), key=lambda number: total[number], default=None)
        path: list[int] = []
        while last is not None:
            path.append(last)
            last = before[last]
        return path[::-1]

    def strangers(self, pairs: Iterable[tuple[int, int]]) -> set[tuple[int, int]]:
        """Return those (task, other) of *pairs* in which the task does not depend on the other, directly or not.

        Tasks that a cycle holds back are passed over: nothing is certain of them before the cycle is gone.

        Thousands of others are followed along the order at once, a bit for each: walking up from every task
        would take ten minutes for a chain of 100,000.
        """
        order = self.order()
        place = {number: at for at, number in enumerate(order)}
        asked: dict[int, list[int]] = {}
        for number, other in pairs:
            if number in place:
                asked.setdefault(other, []).append(number)
        others = sorted(asked, key=lambda other: place.get(other, -1))
        found: set[tuple[int, int]] = set()
        for start in range(0, len(others), _BITS):
            bits = {other: 1 << bit for bit, other in enumerate(others[start : start + _BITS])}
            last = max(place[number] for other in bits for number in asked[other])
            below = self._below(bits, order[: last + 1])
            found.update(
                (number, other) for other, bit in bits.items() for number in asked[other] if not below[number] & bit
            )
        return found

    def _below(self, bits: Mapping[int, int], order: Sequence[int]) -> dict[int, int]:
        """Return, for each task of *order*, the bits of what it depends on."""
        below: dict[int, int] = {}
        for number in order:
            mine = 0
            for parent in self.parents[number]:
                mine |= below[parent] | bits.get(parent, 0)
            below[number] = mine
        return below
