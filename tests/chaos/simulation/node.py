"""The node beside the workers: it starts those that the queue wants, buries the dead, and serves clients."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from cis.engine.accept.control import cancel, pause, resume
from cis.engine.accept.reruns import Repeat, rerun_of
from cis.engine.accept.submit import SubmitRequest, submit
from cis.errors import ConflictError, OrphanError, StoreError
from cis.model.dag import DagSpec
from cis.store.records import WorkerRecord
from cis.worker.rescuer import bury, end_unwanted
from tests.chaos.simulation.faults import CrashError
from tests.chaos.simulation.machine import NODE, Machine
from tests.chaos.simulation.processes import NEVER
from tests.chaos.simulation.workers import Worker

LOOK_S = 1.0


class Node:
    """The supervisor's part, as ``cis.worker.supervisor`` has it, without its pipes and processes."""

    def __init__(self, machine: Machine, name: str) -> None:
        self._machine = machine
        self._stage = machine.stage
        self._name = name
        self.store = machine.open_store(name)
        self.busy = False
        self.due_s = self._stage.now_s + self._stage.rng.random()

    def act(self) -> None:
        """Look around for the dead, and meet the demand of the queue."""
        self.due_s = self._stage.now_s + LOOK_S * (0.5 + self._stage.rng.random())
        try:
            self._look_around()
            end_unwanted(self.store, self._machine.kept, kill=self._machine.processes.kill_orphans)
            for demand in self.store.queue.demand(NODE):
                if demand.worker_id in self._machine.locks:
                    self._machine.ring(demand.worker_id)
                else:
                    self.start(demand.worker_id)
        except StoreError:
            self._stage.log(f"{self._name}: could not look around")
        except CrashError:
            self.crash()
        self._machine.hear()

    def crash(self) -> None:
        """Die at once; somebody starts it again after a while."""
        self._machine.faults.fuses.pop(self._name, None)
        self._machine.disturbed = True
        self.due_s = self._stage.now_s + 3.0 * self._stage.rng.random()
        self._stage.log(f"{self._name}: gone")

    def fall(self) -> None:
        """Die at one of the next points at which it does something."""
        self._machine.faults.fuses[self._name] = self._stage.rng.randint(1, 10)

    def start(self, worker_id: str) -> None:
        """Start a worker, unless its lock is held."""
        if worker_id not in self._machine.locks:
            Worker(self._machine, worker_id)

    def _look_around(self) -> None:
        for row in self.store.workers.all(node_id=NODE, live_only=True):
            if row.worker_id not in self._machine.locks:
                self._stage.let_others(0.6 * self._stage.rng.random() if self._stage.chance(0.5) else 0.0)
                self._bury(row)

    def _bury(self, row: WorkerRecord) -> None:
        now_us = self._stage.instant().wall_us
        try:
            bury(self.store, row, kill=self._machine.processes.kill_orphans, now_us=now_us)
        except OrphanError:
            self._stage.log(f"{self._name}: {row.worker_id} cannot be buried yet")


Action = Callable[[], None]


class Script:
    """What clients ask for, and whatever else is to happen, each at its time."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._stage = machine.stage
        self.store = machine.open_store("client")
        self._lines: list[tuple[float, int, Action]] = []
        self._count = 0
        self.busy = False

    @property
    def due_s(self) -> float:
        """When the next line is due."""
        return self._lines[0][0] if self._lines else NEVER

    @property
    def over(self) -> bool:
        """Whether nothing is left to happen."""
        return not self._lines

    def add(self, after_s: float, action: Action) -> None:
        """Let something happen *after_s* from now."""
        self._count += 1
        heapq.heappush(self._lines, (self._stage.now_s + after_s, self._count, action))

    def act(self) -> None:
        """Do the next line."""
        heapq.heappop(self._lines)[2]()
        self._machine.hear()

    def submit(self, key: str, spec: DagSpec) -> None:
        """Hand a DAG in, again and again with the same key until it is accepted."""
        request = SubmitRequest(spec=spec, idempotency_key=key)
        try:
            with self.store.transaction():
                run = submit(self.store, request, this_node=self._machine.this_node).run
        except StoreError:
            self.add(0.5, lambda: self.submit(key, spec))
            return
        self._machine.promises.accepted[key] = run.run_id
        self._machine.ring(run.worker_id)

    def control(self, action: str) -> None:
        """Cancel, pause, resume or rerun some run."""
        runs = sorted(self._machine.watch.rows.runs)
        if not runs:
            return
        run_id = self._stage.rng.choice(runs)
        from_failed = self._stage.chance(0.5)
        now_us = self._stage.instant().wall_us
        try:
            with self.store.transaction():
                match action:
                    case "cancel":
                        run = cancel(self.store, run_id, now_us=now_us)
                    case "pause":
                        run = pause(self.store, run_id, now_us=now_us)
                    case "resume":
                        run = resume(self.store, run_id, now_us=now_us)
                    case _:
                        run = submit(
                            self.store,
                            rerun_of(self.store, run_id, how=Repeat(from_failed=from_failed)).request,
                            this_node=self._machine.this_node,
                        ).run
        except (StoreError, ConflictError) as error:
            self._stage.log(f"client: {action} {run_id}: {type(error).__name__}")
            return
        self._stage.log(f"client: {action} {run_id}")
        if action == "cancel":
            self._machine.promises.cancelled.add(run_id)
        self._machine.ring(run.worker_id)

    def resume_all(self) -> None:
        """Let no run be held back any more, however often that takes."""
        paused = sorted(run_id for run_id, run in self._machine.watch.rows.runs.items() if run.status == "paused")
        for run_id in paused:
            with self.store.transaction():
                run = resume(self.store, run_id, now_us=self._stage.instant().wall_us)
            self._machine.ring(run.worker_id)
