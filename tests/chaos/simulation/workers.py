"""A simulated worker process around the real loop: it lives as ``cis.node.worker_main`` and ``cis.worker.process`` have it."""

from __future__ import annotations

from cis.engine.run.attempts import AttemptMaker
from cis.engine.run.loop import WorkerLoop
from cis.engine.run.parts import LoopLimits, WorkerPorts
from cis.engine.run.plan import RunPlan
from cis.engine.this_node import Incarnation
from cis.errors import FencedError, OrphanError, StoreError
from cis.model.dag import DagSpec
from cis.model.scope import parse_worker_id
from cis.store.records import WorkerRecord, WorkerState
from cis.worker.rescuer import end_orphans, worker_event
from tests.chaos.simulation.documents import Book
from tests.chaos.simulation.executors import SimulatedBell, SimulatedExecutor
from tests.chaos.simulation.faults import CrashError
from tests.chaos.simulation.machine import NODE, Machine
from tests.chaos.simulation.processes import NEVER

IDLE_S = 4.0
LEASE_S = 6.0


class Worker:
    """One process of a worker id, from its lock to its end."""

    def __init__(self, machine: Machine, worker_id: str) -> None:
        self.machine = machine
        self.stage = machine.stage
        self.worker_id = worker_id
        self._number = machine.next_number()
        self.name = f"{worker_id}/{self._number}"
        self.epoch = 0
        self.asleep = False
        self.busy = False
        self.due_s = self.stage.now_s
        self.bell = SimulatedBell()
        self._idle_since_s = NEVER
        self._stop_at_s = NEVER
        self._winding_down = False
        self._loop: WorkerLoop | None = None
        rng = self.stage.rng
        self._slots, self._grace_s = rng.randint(1, 4), rng.choice((0.2, 1.0))
        machine.watch.slots[self.name] = self._slots
        self.executor = SimulatedExecutor(
            self.name,
            stage=self.stage,
            processes=machine.processes,
            kept=machine.kept,
            faults=machine.faults,
            witness=machine.watch,
            bell=self.bell,
        )
        machine.locks[worker_id] = self
        machine.workers.append(self)
        self.store = machine.open_store(self.name, lambda: (worker_id, self.epoch) if self.epoch else None)
        self.stage.actors.append(self)

    @property
    def in_office(self) -> bool:
        """Whether it has its epoch."""
        return self._loop is not None

    @property
    def fenced(self) -> bool:
        """Whether its epoch is over, so far as the last commit says."""
        epoch, status = self.machine.watch.rows.workers[self.worker_id]
        return epoch != self.epoch or status == "dead"

    def cancelling(self, run_id: str) -> RunPlan | None:
        """Return the plan by which it has seen that a run is cancelled, and acts on that."""
        plan = self._loop._held.plans.get(run_id) if self._loop is not None else None
        return plan if plan is not None and plan.cancelling else None

    def ring(self) -> None:
        self.bell.rung = True
        if not self.asleep:
            self.due_s = min(self.due_s, self.stage.now_s + 0.001)

    def act(self) -> None:
        self.asleep = False
        try:
            if self._loop is None:
                self._take_office()
            else:
                self._turn(self._loop)
        except CrashError:
            self._gone()
        except (StoreError, OrphanError) as error:
            # Another epoch has its id, or it cannot start, or cannot keep its lease: it ends its tasks and itself.
            self.stage.log(f"{self.name}: stops: {type(error).__name__}")
            if self._loop is not None:
                self._loop.kill()
            self._gone()
        self.machine.hear()

    def terminate(self) -> None:
        """Have it end in order: TERM; a second one: now."""
        if self._loop is None:
            return
        self.stage.log(f"{self.name}: TERM")
        if self._winding_down:
            self._loop.kill()
        self._winding_down = True
        self._loop.drain()
        self._stop_at_s = min(self._stop_at_s, self.stage.now_s + self._grace_s)
        self.ring()

    def _take_office(self) -> None:
        # The order of cis.node.worker_main: the lock, the orphans, the epoch.
        end_orphans(self.store, self.worker_id, kill=self.machine.processes.kill_orphans)
        now_us = self.stage.instant().wall_us
        with self.store.transaction():
            row = self.store.workers.take(
                WorkerRecord(
                    worker_id=self.worker_id,
                    node_id=NODE,
                    scope=parse_worker_id(self.worker_id),
                    status=WorkerState.IDLE,
                    pid=self._number,
                    pid_started=None,
                    epoch=0,
                    slots=self._slots,
                    started_at_us=now_us,
                    heartbeat_at_us=now_us,
                    lease_until_us=now_us + round(LEASE_S * 1e6),
                )
            )
        self.epoch = row.epoch
        self._loop = self._make_loop()
        self.due_s = self.stage.now_s + 0.01

    def _make_loop(self) -> WorkerLoop:
        maker = AttemptMaker(
            skills=Book(),
            logfiles=self.machine.logfiles,
            base_env={},
            node_id=NODE,
            worker_id=self.worker_id,
            workdir=self.stage.folder,
        )
        parts = WorkerPorts(
            store=self.store,
            executor=self.executor,
            maker=maker,
            this_node=self.machine.this_node,
            bell=self.bell,
            ring=self.machine.ring,
            tell=self._told,
            clock=self.stage.instant,
            jitter=self.stage.rng.random,
            parse=DagSpec.from_dict,
        )
        limits = LoopLimits(slots=self._slots, grace_s=self._grace_s, lease_s=LEASE_S)
        return WorkerLoop(parts, limits, Incarnation(NODE, self.worker_id, self.epoch))

    def _told(self) -> None:
        self.machine.faults.point(self.name, "tell")

    def _turn(self, loop: WorkerLoop) -> None:
        now_s = self.stage.now_s
        if now_s >= self._stop_at_s:
            self._stop_at_s = NEVER
            loop.stop()
        loop.turn(at_most_s=1.0)
        if self._winding_down and loop.stopped:
            self._say_goodbye(loop)
            return
        self._idle_since_s = min(self._idle_since_s, now_s) if loop.idle else NEVER
        if now_s - self._idle_since_s >= IDLE_S:
            self._winding_down = True
            loop.drain()
        woken_s = min(self.executor.until_s, self.executor.next_exit_s(), self._stop_at_s)
        self.due_s = max(self.stage.now_s + 0.002 + 0.01 * self.stage.rng.random(), woken_s)

    def _say_goodbye(self, loop: WorkerLoop) -> None:
        try:
            loop.hand_back()
            with self.store.transaction():
                self.store.workers.set_status(
                    NODE,
                    self.worker_id,
                    epoch=self.epoch,
                    status=WorkerState.STOPPED,
                    now_us=self.stage.instant().wall_us,
                )
                at_us = self.stage.instant().wall_us
                self.store.events.append([worker_event(self.worker_id, WorkerState.STOPPED, at_us=at_us)])
        except FencedError:
            raise
        except StoreError:
            self.stage.log(f"{self.name}: its goodbye is not stored")
        self._gone()

    def crash(self) -> None:
        """Die at once; what it started may live on."""
        self.machine.disturbed = True
        self._gone()

    def _gone(self) -> None:
        self.stage.log(f"{self.name}: gone")
        self.due_s = NEVER
        self.store.close()
        self.stage.actors.remove(self)
        self.machine.workers.remove(self)
        self.machine.faults.fuses.pop(self.name, None)
        if self.machine.locks.get(self.worker_id) is self:
            del self.machine.locks[self.worker_id]
        self.machine.processes.orphan(self.name)
