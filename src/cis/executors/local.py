"""Tasks as processes of this machine: started, measured, ended and reaped by one single-threaded object.

Each process leads a process group of its own, comes after this one (``cis.executors.launching``) and writes into two
pipes, which are read here (``cis.executors.streams``). An attempt is over when everything is gone that descends from
its process (``cis.executors.linux.descendants``); nobody reads what is written from then on. Up to then, where this
process is their heir, the first one keeps its number, by which the attempt is known. When that one ended by itself,
what it left in the background has a second to come to its own end (``tee`` with the last lines, say), then TERM, and
KILL after the grace period; with ``Launch.leave`` and status 0 it stays. What is *ended* gets TERM at once, all of it.

One that was given secrets, or that may leave something behind, writes into the pipes of a process that keeps its logs
(``cis.executors.keeper``). It is over when that has told what it wrote, or two seconds later; what is left behind is
masked and kept to the cap for as long as it writes. When that process dies, its task is killed: nothing gets past it.

A lasting attempt is led by a process of its own, which outlives this one (``cis.executors.guarded``).
"""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from signal import SIGKILL, SIGTERM

from cis.engine.ports import Exit, Launch, ProcessId, StrPath, TakenUp
from cis.errors import LaunchError
from cis.executors import launching
from cis.executors.exits import ExitWatch, PidfdExits, Process, SignalExits, WakeUp, expect_children
from cis.executors.groups import Groups
from cis.executors.guarded import GuardedAttempts, GuardianOptions
from cis.executors.keeper import KeptStreams
from cis.executors.launching import explain, has_terminal, input_of, lower, place_to_spawn_from, spawn
from cis.executors.linux.descendants import Adopted, Descendants, adopt_descendants
from cis.executors.linux.stamps import Stamping
from cis.executors.platform import HAS_PIDFD, process_started
from cis.executors.streams import Foreseen, Listener, PlainStreams, Written

log = logging.getLogger(__name__)

LAST_WORDS_S = 1.0
_LOOK_EVERY_S = 1.0
_FIRST_LOOK_S = 0.001
_CLOSE_TIMEOUT_S = 2.0
_NEVER = float("inf")
DRAIN_TIMEOUT_S = 2.0
_KEEPER_DIED = "the process that masks its secrets and keeps its logs was ended, so the task was ended, too"


@dataclass(slots=True)
class _Running:
    handle: str
    process: Process
    streams: PlainStreams | KeptStreams
    ending: bool = False
    forced: bool = False
    fault: str | None = None
    drained_by_s: float = 0.0
    leave: bool = False
    left: Sequence[tuple[int, str]] = ()
    term_at_s: float = _NEVER
    kill_at_s: float = _NEVER


class LocalExecutor:
    """An ``Executor`` (``cis.engine.ports``) for this machine.

    ``max_log_bytes`` caps each log file; tasks are nicer than this process by ``nice``; ``portable`` keeps off what
    only Linux has. In portable mode, and only there, the object catches SIGCHLD while it lives. ``alone`` says that
    this process starts nothing but its tasks: then every other child is one that a task left, and is reaped and ended
    here. ``grace_s`` is how long that has between TERM and KILL. ``home`` tells its processes from those of a copy of
    the home (``cis.executors.linux.stamps``). ``attempts`` is the folder that all executors of this home share for
    lasting attempts; without it there are none. ``wake_up`` ends a wait.
    """

    def __init__(
        self,
        *,
        max_log_bytes: int,
        nice: int = 0,
        portable: bool = False,
        alone: bool = False,
        grace_s: float = 10.0,
        home: StrPath | None = None,
        attempts: StrPath | None = None,
        wake_up: WakeUp | None = None,
    ) -> None:
        expect_children()
        self._portable = portable or not HAS_PIDFD
        self._cap = max_log_bytes
        adopts = alone and not self._portable and adopt_descendants()
        self._exits: ExitWatch = SignalExits() if self._portable else PidfdExits(hold=adopts)
        self._listener = Listener(self._exits)
        self._descendants: Descendants = Adopted(self._exits.has) if adopts else Groups(portable=self._portable)
        self._stamping = Stamping()
        self._grace_s = grace_s
        options = GuardianOptions(cap=max_log_bytes, nice=nice, grace_s=grace_s, portable=self._portable, home=home)
        self._guarded = GuardedAttempts(attempts, options, exits=self._exits, descendants=self._descendants)
        self._pids: dict[str, int] = {}
        self._running: dict[int, _Running] = {}
        self._lingering: dict[int, _Running] = {}  # leader ended, what it left not yet gone
        self._look_due_s = 0.0
        self._pause_s = _FIRST_LOOK_S  # between looks at those that linger
        self._draining: dict[int, _Running] = {}  # leader reaped, what it wrote not yet told
        self._keepers: dict[int, _Running] = {}  # by the pid of the process that keeps the logs
        self._over_with: list[_Running] = []  # their numbers and pipes are given back while nobody waits for it
        self._foreseen = Foreseen(cap=max_log_bytes, home=home)
        self._wake_up = wake_up
        if wake_up is not None:
            self._exits.watch(wake_up.fileno())
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._place = None if portable else place_to_spawn_from()
        self._own_session = has_terminal()
        self._nice = nice

    def start(self, launch: Launch) -> str:
        """Start a process in a process group of its own, and return its handle.

        Raises:
            LaunchError: it cannot be started; the message says why and what to mend.
        """
        if launch.lasting:
            self._guarded.start(launch)
            return launch.handle
        stdin = self._null if not launch.stdin else input_of(launch)
        try:
            made, stamp = self._foreseen.take(launch)
            streams = made if made is not None else self._open_streams(launch)
            try:
                process = self._start(launch, stdin, *streams.writers, stamp=stamp)
            except LaunchError:
                streams.close()
                raise
        finally:
            if stdin != self._null:
                os.close(stdin)
        streams.hand_over()
        running = _Running(launch.handle, process, streams, leave=launch.leave)
        if isinstance(streams, KeptStreams):
            self._keepers[streams.process.pid] = running
        else:
            self._listener.add(streams, time.monotonic())
        self._running[process.pid] = running
        self._pids[launch.handle] = process.pid
        return launch.handle

    def take_up(self, handle: str, *, marks: Mapping[str, str]) -> TakenUp:
        """Say what became of a lasting attempt; one that runs is waited for from now on."""
        return self._guarded.take_up(handle, marks)

    def let_go(self, handle: str) -> bool:
        """Leave a lasting attempt to whoever takes it up next; False: it is not lasting, or has ended."""
        return self._guarded.let_go(handle)

    def forget(self, handle: str) -> None:
        """Remove what is kept of a lasting attempt whose end is stored by now."""
        self._guarded.folders.forget(handle)

    def foresee(self, launch: Launch) -> None:
        """Make the pipes of a launch that may be started next."""
        self._foreseen.make(launch)

    def shortage(self) -> str | None:
        """Return what the machine is short of, with the mend; None: a process could be started."""
        return launching.shortage()

    def identity(self, handle: str) -> ProcessId | None:
        """Return the process of an attempt; None: it is not known yet, or gone."""
        self._give_back()
        if handle in self._guarded:
            return self._guarded.identity(handle)
        pid = self._pids.get(handle)
        started = None if pid is None else process_started(pid, portable=self._portable)
        return None if pid is None or started is None else ProcessId(pid, started)

    def wait(self, timeout_s: float) -> Sequence[Exit]:
        """Return what has ended as soon as something has, the worker is woken or the time is over."""
        self._give_back()
        deadline_s = time.monotonic() + timeout_s
        while True:
            ended, woken, readable = self._exits.wait(self._wait_s(time.monotonic(), deadline_s))
            now_s = time.monotonic()
            self._listener.take(readable, now_s)
            self._listener.look(now_s)
            if self._guarded:
                for descriptor in readable:
                    self._guarded.readable(descriptor)
            if ended or now_s >= self._look_due_s:
                self._look_due_s = now_s + _LOOK_EVERY_S
                self._descendants.look()
            exits = [ended_now for process in ended if (ended_now := self._leader_ended(process, now_s))]
            if self._lingering:
                exits += self._gone(now_s)
            if self._draining:
                exits += self._drained(now_s)
            if self._guarded:
                exits += self._guarded.collect(now_s)
            if len(exits) > 1:  # many would keep as many from being started
                self._give_back()
            if woken and self._wake_up is not None:
                self._wake_up.woken()
            if exits or woken or now_s >= deadline_s:
                return exits

    def end(self, handle: str, *, force: bool) -> None:
        """Send TERM, or KILL with *force*, to the process and all that descends from it; no error when it is gone."""
        if handle in self._guarded:
            self._guarded.end(handle, force=force)
            return
        pid = self._pids.get(handle)
        running = None if pid is None else self._running.get(pid) or self._lingering.get(pid)
        if pid is None or running is None:
            return
        running.ending = True
        running.forced = running.forced or force
        running.term_at_s = running.kill_at_s = _NEVER  # whoever asked sees to it
        self._descendants.signal(pid, SIGKILL if force else SIGTERM, reaped=pid in self._lingering)

    def close(self) -> None:
        """Kill every process that is left, but for lasting attempts, reap it, and give all descriptors back."""
        self._guarded.close()
        left = list(self._running.values())
        for pid in [*self._running, *self._lingering]:
            self._descendants.signal(pid, SIGKILL, reaped=pid in self._lingering)
        for running in left:
            with suppress(subprocess.TimeoutExpired):
                running.process.wait(timeout=_CLOSE_TIMEOUT_S)
        self._end_the_rest([*self._running, *self._lingering])
        for running in [*left, *self._lingering.values(), *self._draining.values()]:
            if isinstance(running.streams, KeptStreams):
                running.streams.close()
                with suppress(subprocess.TimeoutExpired):
                    running.streams.process.wait(timeout=_CLOSE_TIMEOUT_S)
            self._finish(running)
        self._give_back()
        self._foreseen.forget()
        for held in (self._running, self._lingering, self._draining, self._keepers):
            held.clear()
        self._descendants.close()
        self._exits.close()
        os.close(self._null)
        if self._place is not None:
            os.close(self._place)

    def _end_the_rest(self, leaders: Sequence[int]) -> None:
        """Kill what is left of attempts whose leaders are gone, for as long as there is any, within bounds."""
        deadline_s = time.monotonic() + _CLOSE_TIMEOUT_S
        while leaders and time.monotonic() < deadline_s:
            self._descendants.look()
            leaders = [leader for leader in leaders if self._descendants.left_by(leader)]
            for leader in leaders:
                self._descendants.signal(leader, SIGKILL, reaped=True)
            if leaders:
                time.sleep(_FIRST_LOOK_S)

    def _open_streams(self, launch: Launch) -> PlainStreams | KeptStreams:
        if launch.mask or launch.keep_log:
            streams = KeptStreams(launch, cap=self._cap)
            self._exits.add(streams.process)
            return streams
        try:
            return PlainStreams(launch.stdout, launch.stderr, cap=self._cap)
        except OSError as error:
            raise LaunchError(explain(error, launch)) from error

    def _start(self, launch: Launch, stdin: int, stdout: int, stderr: int, *, stamp: int | None) -> Process:
        with self._stamping(stamp):
            process = spawn(
                launch, stdin=stdin, stdout=stdout, stderr=stderr, place=self._place, own_session=self._own_session
            )
        lower(process.pid, by=self._nice)
        self._exits.add(process)
        self._descendants.begin(process.pid, stamp=stamp, marks=launch.marks)
        return process

    def _wait_s(self, now_s: float, deadline_s: float) -> float:
        if self._lingering:
            deadline_s = min(deadline_s, now_s + self._pause_s)
        for running in self._draining.values():
            deadline_s = min(deadline_s, running.drained_by_s)
        if self._guarded:
            deadline_s = min(deadline_s, self._guarded.due_s)
        return max(0.0, min(deadline_s, self._listener.due_s) - now_s)

    def _leader_ended(self, process: Process, now_s: float) -> Exit | None:
        running = self._running.pop(process.pid, None)
        if running is None:
            if not (self._guarded and self._guarded.child_ended(process)):
                self._exits.release(process)
                self._keeper_ended(process)
            return None
        may_stay = running.leave and process.returncode == 0
        if not running.ending and (may_stay or not self._descendants.left_by(process.pid)):
            return self._over(running)
        if not running.ending:
            running.term_at_s = now_s + LAST_WORDS_S
            running.kill_at_s = running.term_at_s + self._grace_s
        self._lingering[process.pid] = running
        self._pause_s = _FIRST_LOOK_S
        return None

    def _keeper_ended(self, process: Process) -> None:
        running = self._keepers.pop(process.pid, None)
        if running is not None and process.returncode != 0:
            running.fault = _KEEPER_DIED
            if running.process.pid in self._running:
                self._descendants.signal(running.process.pid, SIGKILL, reaped=False)

    def _gone(self, now_s: float) -> list[Exit]:
        """Return the ends of those of which nothing is left, and press the others."""
        exits = []
        self._descendants.look()
        for pid, running in list(self._lingering.items()):
            if self._descendants.left_by(pid):
                self._press(pid, running, now_s)
                continue
            del self._lingering[pid]
            over = self._over(running)
            if over is not None:
                exits.append(over)
        self._pause_s = min(2 * self._pause_s, self._descendants.look_every_s)
        return exits

    def _press(self, pid: int, running: _Running, now_s: float) -> None:
        """End what outlives its leader: again and again with KILL, since it may have started others meanwhile."""
        if running.forced or now_s >= running.kill_at_s:
            self._descendants.signal(pid, SIGKILL, reaped=True)
        elif running.ending or now_s >= running.term_at_s:
            self._descendants.signal(pid, SIGTERM, reaped=True)

    def _over(self, running: _Running) -> Exit | None:
        """Return the end of an attempt of which nothing is to end any more, or wait to be told what it wrote."""
        left = self._descendants.forget(running.process.pid)
        running.left = self._named(left)
        streams = running.streams
        if not isinstance(streams, KeptStreams):
            return self._exit_of(running)
        streams.ask()
        running.drained_by_s = time.monotonic() + DRAIN_TIMEOUT_S
        self._draining[running.process.pid] = running
        return None

    def _named(self, left: Sequence[int]) -> list[tuple[int, str]]:
        """Return what an attempt leaves with its start times, without which nobody could tell it from others later."""
        try:
            return [(pid, started) for pid in left if (started := process_started(pid, portable=self._portable))]
        except OSError as error:
            log.warning("what a task leaves running cannot be shown later", extra={"pids": left, "error": str(error)})
            return []

    def _drained(self, now_s: float) -> list[Exit]:
        exits = []
        for pid, running in list(self._draining.items()):
            streams = running.streams
            if isinstance(streams, KeptStreams):
                streams.listen()
                if not streams.answered and running.drained_by_s > now_s:
                    with suppress(OSError):  # more than can be waited for: it is asked again when the time is over
                        self._exits.listen(streams.answer)
                    continue
                if streams.failed:
                    running.fault = _KEEPER_DIED
            del self._draining[pid]
            exits.append(self._exit_of(running))
        return exits

    def _finish(self, running: _Running) -> Written:
        self._over_with.append(running)
        streams = running.streams
        if isinstance(streams, KeptStreams):
            self._exits.unlisten(streams.answer)
        else:
            self._listener.forget(streams)
        return streams.finish()

    def _give_back(self) -> None:
        """Give back the numbers and the pipes of what is over."""
        for running in self._over_with:
            self._exits.release(running.process)
            if not isinstance(running.streams, KeptStreams):
                running.streams.close()
        self._over_with.clear()

    def _exit_of(self, running: _Running) -> Exit:
        written = self._finish(running)
        if self._pids.get(running.handle) == running.process.pid:
            del self._pids[running.handle]
        return Exit(
            handle=running.handle,
            pid=running.process.pid,
            exit_code=running.process.returncode,
            stdout_tail=written.stdout_tail,
            stderr_tail=written.stderr_tail,
            stdout_bytes=written.stdout_bytes,
            stderr_bytes=written.stderr_bytes,
            fault=running.fault,
            left=running.left,
        )
