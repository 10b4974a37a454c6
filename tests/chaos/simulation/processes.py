"""The processes of a simulated machine, and the ports through which the engine meets them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cis.engine.ports import Exit, Fate, Launch, Orphan, ProcessId, StrPath, TakenUp
from cis.errors import OrphanError
from tests.chaos.simulation.faults import Faults
from tests.chaos.simulation.stage import Stage

NEVER = float("inf")
MARKS = ("CIS_RUN_ID", "CIS_TASK_ID", "CIS_ATTEMPT")


@dataclass(slots=True, kw_only=True)
class Process:
    """One process: what it will do by itself, and what became of it."""

    pid: int
    marks: tuple[str, str, str]  # run id, task id, attempt
    owner: str
    output: StrPath
    began_s: float
    ends_s: float
    exit_code: int
    says: str
    term: str  # what it does on TERM: "dies", "exits" by itself, or "ignores" it
    held_s: float = 0.0  # how long KILL takes: it hangs in the kernel
    late_s: float = 0.0  # how much later its end is reported
    ended_by: str = "itself"
    signalled: bool = False
    dead_s: float | None = None

    @property
    def name(self) -> str:
        """What the history calls it."""
        return f"{'.'.join(self.marks)}#{self.pid}"


class Spawned(Protocol):
    """Is told of every process that is about to exist."""

    def __call__(self, owner: str, marks: tuple[str, str, str], env: Mapping[str, str]) -> None: ...


class Processes:
    """All processes of the machine; an actor that lets them end at their times."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._hanging = stage.rng.choice((0.0, 0.0, 0.1))
        self._late = stage.rng.choice((0.0, 0.0, 0.2))
        self._failing = stage.rng.choice((0.0, 0.1, 0.3))
        self._deaf = stage.rng.choice((0.0, 0.2))
        self.all: list[Process] = []
        self.live: list[Process] = []
        self.busy = False

    def behave(self) -> None:
        """Let every process that begins from now on do its work, and end when it is asked to."""
        self._hanging = self._late = self._failing = self._deaf = 0.0

    @property
    def due_s(self) -> float:
        """When the next one ends."""
        return min((process.ends_s for process in self.live), default=NEVER)

    def act(self) -> None:
        """End those whose time has come."""
        for process in [one for one in self.live if one.ends_s <= self._stage.now_s]:
            self._die(process)

    def start(self, owner: str, launch: Launch, *, endless: bool) -> Process:
        """Make a process; one that is *endless* has to be ended."""
        rng = self._stage.rng
        for_s = rng.choice((0.0, 0.05, 0.3, 1.0, 1.0, 2.5)) * rng.random() + 0.01
        fails = self._stage.chance(self._failing)
        run_id, task_id, attempt = (launch.env[mark] for mark in MARKS)
        said = f"token={run_id}.{task_id}.{attempt}\n"
        process = Process(
            pid=100 + len(self.all),
            marks=(run_id, task_id, attempt),
            owner=owner,
            output=launch.env["CIS_OUTPUT"],
            began_s=self._stage.now_s,
            ends_s=NEVER if endless and self._stage.chance(0.5) else self._stage.now_s + for_s,
            exit_code=rng.choice((1, 2, -11)) if fails else 0,
            says="no output at all\n" if self._failing and self._stage.chance(0.05) else said,
            term="ignores" if self._stage.chance(self._deaf) else rng.choice(("dies", "dies", "exits")),
            held_s=2 * rng.random() if self._stage.chance(self._hanging) else 0.0,
            late_s=2 * rng.random() if self._stage.chance(self._late) else 0.0,
        )
        self.all.append(process)
        self.live.append(process)
        self._stage.log(f"{owner}: starts {process.name}")
        return process

    def signal(self, process: Process, *, force: bool, by: str) -> None:
        """Send TERM or KILL."""
        now_s = self._stage.now_s
        process.signalled = True
        if force:
            self._end_at(process, now_s + process.held_s, by, -9)
        elif process.ended_by == "itself" and process.term != "ignores":
            exit_code = process.exit_code if process.term == "exits" else -15
            self._end_at(process, now_s + 0.1 * self._stage.rng.random(), by, exit_code)

    def orphan(self, owner: str) -> None:
        """Let go of what *owner*, which is dead, had started: some die with it."""
        for process in [one for one in self.live if one.owner == owner]:
            if self._stage.chance(0.5):
                self.signal(process, force=True, by="its parent's death")
        self.act()

    def kill_orphans(self, orphans: Sequence[Orphan]) -> Sequence[str]:
        """Be the OrphanKiller: end the process of each number and start, and every one with the marks."""
        for one in orphans:
            self._kill_orphan(one.pid, one.pid_started, one.marks)
        return ()

    def _kill_orphan(self, pid: int | None, pid_started: str | None, marks: Mapping[str, str]) -> None:
        wanted = tuple(marks[mark] for mark in MARKS)
        self._stage.let_others(0.2 * self._stage.rng.random())
        found = [one for one in self.live if one.marks == wanted or (one.pid, str(one.began_s)) == (pid, pid_started)]
        for process in found:
            self.signal(process, force=True, by="the orphan killer")
        self.act()
        left = [process for process in found if process.dead_s is None]
        if left:
            self._stage.let_others(self._stage.rng.random())
            left = [process for process in found if process.dead_s is None]
        if left:
            raise OrphanError([process.pid for process in left], timeout_s=1.0)

    def _end_at(self, process: Process, at_s: float, by: str, exit_code: int) -> None:
        if at_s < process.ends_s:
            process.ends_s, process.ended_by, process.exit_code = at_s, by, exit_code
        if at_s <= self._stage.now_s:
            self._die(process)

    def _die(self, process: Process) -> None:
        if process.dead_s is not None:
            return
        process.dead_s = self._stage.now_s
        self.live.remove(process)
        if process.exit_code == 0:
            Path(process.output).write_text(process.says, encoding="utf-8")
        self._stage.log(f"{process.name} ends with {process.exit_code} by {process.ended_by}")


class SimulatedExecutor:
    """The executor of one worker; ``wait`` does not wait, but remembers until when it was asked to."""

    def __init__(
        self, owner: str, *, stage: Stage, processes: Processes, faults: Faults, spawned: Spawned, bell: SimulatedBell
    ) -> None:
        self._owner = owner
        self._stage = stage
        self._processes = processes
        self._faults = faults
        self._spawned = spawned
        self._mine: dict[str, Process] = {}
        self._bell = bell
        self.rung = False
        self.until_s = 0.0

    def start(self, launch: Launch) -> str:
        if self._stage.chance(0.1):
            self._stage.let_others(0.3 * self._stage.rng.random())
        self._faults.point(self._owner, "start")
        run_id, task_id, attempt = (launch.env[mark] for mark in MARKS)
        self._spawned(self._owner, (run_id, task_id, attempt), launch.env)
        process = self._processes.start(self._owner, launch, endless=launch.env.get("ENDLESS") == "1")
        self._faults.point(self._owner, "started")
        self._mine[launch.handle] = process
        return launch.handle

    def take_up(self, handle: str, *, marks: Mapping[str, str]) -> TakenUp:  # noqa: ARG002 - see Executor
        """Nothing outlives its worker here."""
        return TakenUp(Fate.GONE)

    def let_go(self, handle: str) -> bool:  # noqa: ARG002 - see Executor
        return False

    def forget(self, handle: str) -> None:
        """Nothing is kept here."""

    def foresee(self, launch: Launch) -> None:
        """Have nothing ready: nothing takes time here."""

    def shortage(self) -> str | None:
        return None

    def identity(self, handle: str) -> ProcessId | None:
        process = self._mine[handle]
        return ProcessId(process.pid, str(process.began_s))

    def wait(self, timeout_s: float) -> Sequence[Exit]:
        self._faults.point(self._owner, "wait")
        self.until_s = self._stage.now_s + timeout_s
        self._processes.act()
        self.rung = self._bell.rung
        ended = {h: one for h, one in self._mine.items() if self._reported_s(one) <= self._stage.now_s}
        for handle in ended:
            del self._mine[handle]
        return [Exit(handle=handle, exit_code=one.exit_code, pid=one.pid) for handle, one in ended.items()]

    def next_exit_s(self) -> float:
        """Return when the next end, as far as it is known now, is to be told; infinity when none is."""
        return min((self._reported_s(process) for process in self._mine.values()), default=NEVER)

    def watch(self, descriptor: int) -> None:
        """Nothing is watched: a ring moves the time at which the worker acts."""

    def end(self, handle: str, *, force: bool) -> None:
        self._processes.signal(self._mine[handle], force=force, by="its worker")

    def close(self) -> None:
        """There is nothing to give back."""

    @staticmethod
    def _reported_s(process: Process) -> float:
        return process.ends_s + process.late_s


class SimulatedBell:
    """A bell that is rung by a call."""

    def __init__(self) -> None:
        self.rung = False

    def fileno(self) -> int:
        return -1

    def drain(self) -> bool:
        rung, self.rung = self.rung, False
        return rung
