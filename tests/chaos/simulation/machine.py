"""The machine of one history: its processes, its locks, its bells, its database file, and what can fail of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from cis.engine.logfiles import LogFiles
from cis.engine.run.plan import RunPlan
from cis.engine.this_node import ThisNode
from tests.chaos.simulation.documents import Book
from tests.chaos.simulation.executors import Kept
from tests.chaos.simulation.faults import Faults, FaultyStore
from tests.chaos.simulation.processes import Processes
from tests.chaos.simulation.stage import Stage
from tests.chaos.simulation.watch import Promises, Watch
from tests.worlds.migrated import new_database

NODE = "node-1"


class WorkerLike(Protocol):
    """A worker process, as the others see it."""

    name: str
    worker_id: str
    busy: bool
    asleep: bool
    due_s: float
    store: FaultyStore

    @property
    def in_office(self) -> bool: ...

    @property
    def epoch(self) -> int: ...

    def cancelling(self, run_id: str) -> RunPlan | None: ...

    @property
    def fenced(self) -> bool: ...

    def ring(self) -> None: ...

    def terminate(self) -> None: ...

    def crash(self) -> None: ...


class Machine:
    """What the actors of one history share."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.stage = Stage(seed, folder)
        self.faults = Faults(self.stage)
        self.processes = Processes(self.stage)
        self.promises = Promises()
        self.watch = Watch(self.stage, self.processes, self, self.promises)
        self.kept = Kept(self.stage, self.processes, self.watch)
        self.locks: dict[str, WorkerLike] = {}
        self.workers: list[WorkerLike] = []
        self.logfiles = LogFiles(folder / "logs")
        self.deaf_p = self.stage.rng.choice((0.0, 0.0, 0.3))
        self.disturbed = False
        self._rings: set[str] = set()
        self._numbers = 0
        self._path = new_database(folder)
        self.this_node = ThisNode(
            node_id=NODE,
            skills=Book(),
            clock_us=lambda: self.stage.instant().wall_us,
            new_id=self.stage.new_id,
            uptime_us=lambda: round(self.stage.now_s * 1e6),
        )

    @property
    def quiet(self) -> bool:
        """Whether nothing went wrong in this history."""
        return not self.disturbed and not self.faults.happened

    def cancelling(self, run_id: str) -> RunPlan | None:
        """Return the plan by which a worker has seen that a run is cancelled, and acts on that."""
        plans = ((worker, worker.cancelling(run_id)) for worker in self.workers)
        return next((plan for worker, plan in plans if plan is not None and not worker.fenced), None)

    def minded(self, worker_id: str, epoch: int) -> bool:
        """Whether a process holds the lock of a worker under that epoch."""
        holder = self.locks.get(worker_id)
        return holder is not None and holder.in_office and holder.epoch == epoch

    def calm(self) -> None:
        """End all that goes wrong by itself."""
        self.faults.end()
        self.processes.behave()
        self.deaf_p = self.kept.unclear_p = 0.0

    def open_store(self, who: str, incarnation: Callable[[], tuple[str, int] | None] = lambda: None) -> FaultyStore:
        """Open the database for *who*."""
        watch = self.watch
        committed = watch.committed_by(who, incarnation=incarnation)
        return FaultyStore(self._path, who=who, faults=self.faults, prepare=watch.prepare, committed=committed)

    def next_number(self) -> int:
        """Return the number of the next worker process."""
        self._numbers += 1
        return self._numbers

    def ring(self, worker_id: str) -> None:
        """Ring a worker's bell, which is heard once the one who rings has done what it does."""
        self._rings.add(worker_id)

    def hear(self) -> None:
        """Let those hear who were rung for; a ring may be lost, or come twice."""
        for worker_id in sorted(self._rings):
            holder = self.locks.get(worker_id)
            if holder is not None and not self.stage.chance(self.deaf_p):
                holder.ring()
        self._rings.clear()
