"""The processes of a simulated machine, and what ends those of a dead worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cis.engine.ports import Launch, Orphan, StrPath
from cis.errors import OrphanError
from tests.chaos.simulation.stage import Stage

NEVER = float("inf")
MARKS = ("CIS_RUN_ID", "CIS_TASK_ID", "CIS_ATTEMPT")
GUARDIAN_GRACE_S = 1.0


@dataclass(slots=True, kw_only=True)
class Process:
    """One process: what it will do by itself, and what became of it."""

    pid: int
    handle: str
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
    lasting: bool = False
    guarded: bool = False  # a guardian leads it, and writes down how it ends
    limit_s: float = NEVER  # when its guardian ends it for its time limit
    kill_s: float = NEVER  # when its guardian has waited long enough for its TERM to be heard
    timed_out: bool = False

    @property
    def name(self) -> str:
        """What the history calls it."""
        return f"{'.'.join(self.marks)}#{self.pid}"


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
        """When the next one ends, or is ended by its guardian."""
        return min((min(one.ends_s, one.limit_s, one.kill_s) for one in self.live), default=NEVER)

    def act(self) -> None:
        """End those whose time has come."""
        now_s = self._stage.now_s
        for process in [one for one in self.live if one.ends_s <= now_s]:
            self._die(process)
        for process in [one for one in self.live if min(one.limit_s, one.kill_s) <= now_s]:
            if process.kill_s <= now_s:
                self._end_by_guardian(process, force=True)
            else:
                process.timed_out = True
                self._end_by_guardian(process, force=False)

    def end_in_order(self, process: Process) -> None:
        """Have its guardian end a process: TERM, and KILL after the grace period."""
        if process.guarded and process.dead_s is None:
            self._end_by_guardian(process, force=False)

    def hang(self, process: Process) -> None:
        """Have a process never end by itself any more."""
        process.limit_s = NEVER
        if process.ended_by == "itself":
            process.ends_s = NEVER

    def kill_guardian(self, process: Process) -> None:
        """Leave a process without its guardian; now and then both die."""
        process.guarded = False
        process.limit_s = process.kill_s = NEVER
        self._stage.log(f"the guardian of {process.name} is killed")
        if self._stage.chance(0.5):
            self.signal(process, force=True, by="whoever killed its guardian")

    def _end_by_guardian(self, process: Process, *, force: bool) -> None:
        process.limit_s, process.kill_s = NEVER, NEVER if force else self._stage.now_s + GUARDIAN_GRACE_S
        self.signal(process, force=force, by="its guardian")

    def start(self, owner: str, launch: Launch, *, endless: bool) -> Process:
        """Make a process; one that is *endless* has to be ended."""
        rng = self._stage.rng
        for_s = rng.choice((0.0, 0.05, 0.3, 1.0, 1.0, 2.5)) * rng.random() + 0.01
        if launch.lasting:
            for_s *= 4
        fails = self._stage.chance(self._failing)
        run_id, task_id, attempt = (launch.env[mark] for mark in MARKS)
        said = f"token={run_id}.{task_id}.{attempt}\n"
        process = Process(
            pid=100 + len(self.all),
            handle=launch.handle,
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
            lasting=launch.lasting,
            guarded=launch.lasting,
            limit_s=self._stage.now_s + launch.timeout_s if launch.lasting and launch.timeout_s else NEVER,
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
        """Let go of what *owner*, which is dead, had started: some die with it, but what lasts goes on."""
        for process in [one for one in self.live if one.owner == owner and not one.lasting]:
            if self._stage.chance(0.5):
                self.signal(process, force=True, by="its parent's death")
        self.act()

    def kill_orphans(self, orphans: Sequence[Orphan]) -> Sequence[str]:
        """Be the OrphanKiller: end the process of each number and start, and every one with the marks.

        What a guardian leads is let be.
        """
        guarded = {process.handle for process in self.live if process.guarded}
        spared = [one.handle for one in orphans if one.handle in guarded]
        for one in orphans:
            if one.handle not in spared:
                self._kill_orphan(one.pid, one.pid_started, one.marks)
        return spared

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
