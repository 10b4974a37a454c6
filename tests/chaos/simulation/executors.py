"""How the engine meets the processes of a simulated machine: an executor for each worker, and what it is woken by.

What is kept of lasting attempts is shared by all executors, as the folders of a home are (``Kept``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from cis.engine.ports import Exit, Fate, Launch, ProcessId, TakenUp
from cis.errors import LaunchError
from tests.chaos.simulation.faults import Faults
from tests.chaos.simulation.processes import MARKS, NEVER, Process, Processes
from tests.chaos.simulation.stage import Stage


class Witness(Protocol):
    """Looks at what executors do."""

    def spawns(self, owner: str, marks: tuple[str, str, str], env: Mapping[str, str]) -> None:
        """A process is about to exist."""
        ...

    def forgets(self, handle: str) -> None:
        """What is kept of a lasting attempt is about to be removed."""
        ...


class Kept:
    """What is kept of lasting attempts (``cis.worker.rescuer.LastingAttempts``), and what becomes of them."""

    def __init__(self, stage: Stage, processes: Processes, witness: Witness) -> None:
        self._stage = stage
        self._processes = processes
        self._witness = witness
        self._kept: dict[str, Process | None] = {}  # None: it was given up before it began
        self.unclear_p = stage.rng.choice((0.0, 0.0, 0.3))
        self.taken_up = 0
        self.ends_found = 0

    def add(self, process: Process) -> None:
        """Keep what is to be known of an attempt that begins."""
        self._kept[process.handle] = process

    def check_new(self, handle: str) -> None:
        """Raise LaunchError for an attempt that was begun, or given up, before."""
        if handle in self._kept:
            raise LaunchError("this attempt was given up before it could begin")

    def handles(self) -> Sequence[str]:
        return sorted(self._kept)

    def lives(self, handle: str) -> bool:
        process = self._kept.get(handle)
        return process is not None and process.guarded and process.dead_s is None

    def end(self, handle: str) -> None:
        process = self._kept.get(handle)
        if process is not None:
            self._processes.end_in_order(process)

    def forget(self, handle: str) -> None:
        if handle in self._kept:
            self._witness.forgets(handle)
            del self._kept[handle]

    def take_up(self, handle: str, by: str) -> tuple[TakenUp, Process | None]:
        """Say what became of an attempt; with the process when it is one of the worker *by* from now on."""
        if self._stage.chance(self.unclear_p):
            return TakenUp(Fate.UNKNOWN, why="simulated: nobody can tell"), None
        process = self._kept.setdefault(handle, None)
        if process is None:
            return TakenUp(Fate.GONE), None
        if self.lives(handle):
            self.taken_up += 1
            process.owner, process.signalled = by, False
            return TakenUp(Fate.RUNNING), process
        if not process.guarded:
            return TakenUp(Fate.GONE if self.is_ended(process) else Fate.UNKNOWN, why="it survives"), None
        self.ends_found += 1
        return TakenUp(Fate.ENDED, exit=exit_of(process)), None

    def is_ended(self, process: Process) -> bool:
        """End what is left of an attempt whose guardian was killed; return whether all of it is gone."""
        if process.dead_s is None:
            self._processes.signal(process, force=True, by="whoever missed its guardian")
            self._processes.act()
        return process.dead_s is not None


def exit_of(process: Process) -> Exit:
    """Return how a process ended, as its executor knows it."""
    if process.lasting and not process.guarded:
        return Exit(handle=process.handle, exit_code=None, pid=process.pid, lost="its guardian was killed")
    ended = Exit(handle=process.handle, exit_code=process.exit_code, pid=process.pid)
    if not process.lasting or process.dead_s is None:
        return ended
    return ended._replace(timed_out=process.timed_out, took_us=round((process.dead_s - process.began_s) * 1e6))


class SimulatedExecutor:
    """The executor of one worker; ``wait`` does not wait, but remembers until when it was asked to."""

    def __init__(
        self,
        owner: str,
        *,
        stage: Stage,
        processes: Processes,
        kept: Kept,
        faults: Faults,
        witness: Witness,
        bell: SimulatedBell,
    ) -> None:
        self._owner = owner
        self._stage = stage
        self._processes = processes
        self._faults = faults
        self._kept = kept
        self._witness = witness
        self._mine: dict[str, Process] = {}
        self._bell = bell
        self.until_s = 0.0

    def start(self, launch: Launch) -> str:
        if self._stage.chance(0.1):
            self._stage.let_others(0.3 * self._stage.rng.random())
        self._faults.point(self._owner, "start")
        run_id, task_id, attempt = (launch.env[mark] for mark in MARKS)
        if launch.lasting:
            self._kept.check_new(launch.handle)
        self._witness.spawns(self._owner, (run_id, task_id, attempt), launch.env)
        process = self._processes.start(self._owner, launch, endless=launch.env.get("ENDLESS") == "1")
        if process.lasting:
            self._kept.add(process)
        self._faults.point(self._owner, "started")
        self._mine[launch.handle] = process
        return launch.handle

    def take_up(self, handle: str, *, marks: Mapping[str, str]) -> TakenUp:  # noqa: ARG002 - the handle tells here
        self._faults.point(self._owner, "take up")
        found, process = self._kept.take_up(handle, self._owner)
        self._stage.log(f"{self._owner}: {handle} is {found.fate}")
        if process is not None:
            self._mine[handle] = process
        return found

    def let_go(self, handle: str) -> bool:
        process = self._mine[handle]
        if not process.lasting or self._reported_s(process) <= self._stage.now_s:
            return False
        del self._mine[handle]
        if process.owner == self._owner:
            process.owner = self._owner.replace("/", "/no longer ")
        return True

    def forget(self, handle: str) -> None:
        self._faults.point(self._owner, "forget")
        self._kept.forget(handle)

    def foresee(self, launch: Launch) -> None:
        """Have nothing ready: nothing takes time here."""

    def shortage(self) -> str | None:
        return None

    def identity(self, handle: str) -> ProcessId | None:
        process = self._mine[handle]
        if process.lasting and self._stage.chance(0.3):
            return None  # its guardian has not said yet
        return ProcessId(process.pid, str(process.began_s))

    def wait(self, timeout_s: float) -> Sequence[Exit]:
        self._faults.point(self._owner, "wait")
        self.until_s = self._stage.now_s + timeout_s
        self._processes.act()
        ended = {h: one for h, one in self._mine.items() if self._has_ended(one)}
        for handle in ended:
            del self._mine[handle]
        return [exit_of(process) for process in ended.values()]

    def next_exit_s(self) -> float:
        """Return when the next end, as far as it is known now, is to be told; infinity when none is."""
        return min((self._reported_s(process) for process in self._mine.values()), default=NEVER)

    def end(self, handle: str, *, force: bool) -> None:
        process = self._mine.get(handle)
        if process is not None and process.guarded == process.lasting:
            self._processes.signal(process, force=force, by="its worker")
        elif process is not None:
            process.signalled = True  # an order that nobody reads

    def close(self) -> None:
        """There is nothing to give back."""

    def _has_ended(self, process: Process) -> bool:
        if process.lasting and not process.guarded:
            return self._kept.is_ended(process)
        return self._reported_s(process) <= self._stage.now_s

    @staticmethod
    def _reported_s(process: Process) -> float:
        return process.ends_s + process.late_s


class SimulatedBell:
    """A bell that is rung by a call; a ring moves the time at which the worker acts."""

    def __init__(self) -> None:
        self.rung = False

    def was_rung(self) -> bool:
        rung, self.rung = self.rung, False
        return rung
