"""What is done to a world on purpose: crashes, sleeps, jumps of the clock, a full disk, damage."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.chaos.simulation.machine import Machine
from tests.chaos.simulation.node import Node, Script
from tests.chaos.simulation.processes import NEVER

DAY_US = 86_400_000_000


class Disturbances:
    """Each is an action without arguments, which draws its victim by itself."""

    def __init__(self, machine: Machine, node: Node, script: Script) -> None:
        self._machine = machine
        self._stage = machine.stage
        self._node = node
        self._script = script
        self.crashes = 0

    @property
    def all(self) -> Sequence[Callable[[], None]]:
        """Every one, in an order that does not change."""
        return (
            self._spoil,
            self._crash,
            self._sleep,
            self._usurp,
            self._jump,
            self._fill,
            self._lock,
            self._term,
            self._start,
            self._end_node,
            self._end_all,
            self._kill_guardian,
        )

    def wake_fenced(self) -> None:
        """Let those wake whose sleep lasted until their epoch was over."""
        for worker in self._machine.workers:
            if worker.asleep and worker.due_s == NEVER and worker.fenced:
                worker.due_s = self._stage.now_s + self._stage.rng.random() * 3.0

    def _crash(self) -> None:
        """Let a worker die at one of the next points at which it does something."""
        if self._machine.workers:
            self.crashes += 1
            self._machine.faults.fuses[self._stage.rng.choice(self._machine.workers).name] = self._stage.rng.randint(
                1, 25
            )

    def _sleep(self) -> None:
        """Stop a worker for a while."""
        self._machine.disturbed = True
        for worker in self._machine.workers:
            if worker.in_office and not worker.busy and not worker.asleep and self._stage.chance(0.7):
                worker.asleep = True
                worker.due_s = self._stage.now_s + self._stage.rng.random() * 8.0
                self._stage.log(f"{worker.name}: sleeps")

    def _usurp(self) -> None:
        """Stop a worker and take its lock away: it sleeps through its own burial, or through what comes after it."""
        for worker in self._machine.workers:
            if worker.in_office and not worker.busy and not worker.asleep and not worker.fenced:
                self._machine.disturbed = True
                worker.asleep = True
                worker.due_s = NEVER
                self._machine.locks.pop(worker.worker_id, None)
                self._stage.log(f"{worker.name}: sleeps, and its lock is free")
                return

    def _end_node(self) -> None:
        """Let the node die in the middle of what it does; its workers see that, and stop in good order."""
        self._machine.disturbed = True  # its workers are stopped, also where all rests before it comes to that point
        self._node.fall()
        for worker in self._machine.workers:
            if not worker.busy and not worker.asleep:
                worker.terminate()

    def _end_all(self) -> None:
        """Let the node and all of its workers die."""
        self._machine.disturbed = True
        self._node.crash()
        for worker in list(self._machine.workers):
            if worker.busy:
                self._machine.faults.fuses[worker.name] = 1
            else:
                worker.crash()

    def _kill_guardian(self) -> None:
        """Kill what leads a lasting attempt: nobody will tell how that ends."""
        led = [process for process in self._machine.processes.live if process.guarded]
        if led:
            self._machine.disturbed = True
            self._machine.processes.kill_guardian(self._stage.rng.choice(led))

    def _jump(self) -> None:
        """Set the wall clock."""
        self._stage.jumped_us += self._stage.rng.randint(-DAY_US, DAY_US)
        self._stage.log(f"the wall clock is off by {self._stage.jumped_us / 1e6:.0f} s")

    def _fill(self) -> None:
        """Fill the disk for a while."""
        self._machine.faults.full_until_s = (
            self._stage.now_s + self._stage.rng.choice((2.0, 4.0, 12.0)) * self._stage.rng.random()
        )

    def _lock(self) -> None:
        """Let somebody else hold the database's lock for a while."""
        self._machine.faults.busy_until_s = self._stage.now_s + self._stage.rng.random() * 2.0

    def _spoil(self) -> None:
        """Damage what is stored of a run that is not over: nobody can read it any more, and the others go on."""
        unfinished = sorted(self._machine.watch.rows.unfinished)
        if not unfinished or self._stage.chance(0.7):
            return
        run_id = self._stage.rng.choice(unfinished)
        self._machine.disturbed = True
        self._machine.promises.spoilt.add(run_id)
        self._script.store._db.connection.execute(
            "UPDATE worker_queue SET dag_json = substr(dag_json, 2) WHERE run_id = ?", (run_id,)
        )
        self._stage.log(f"run {run_id} is damaged")

    def _term(self) -> None:
        """Ask a worker to stop."""
        self._machine.disturbed = True
        for worker in self._machine.workers:
            if not worker.busy and not worker.asleep and self._stage.chance(0.6):
                worker.terminate()

    def _start(self) -> None:
        """Somebody else starts a worker, wanted or not."""
        self._node.start(self._stage.rng.choice(["worker-global", "worker-project-p"]))
