"""The parent's side of the workers: one process for each scope that has work, at most ``max_workers`` of them.

    queue has work for a worker id ──> live here?      ring its bell
                                   ──> live elsewhere? (its lock is held) ring its bell
                                   ──> room?           start it; it says when it is ready
                                   ──> no room?        ask the idle worker that was used longest ago to retire

Retiring is a request that only a worker follows that is idle, or whose runs all only wait, so a busy one is never
evicted, whatever this side read a moment ago. A worker whose runs all only wait takes no place of ``max_workers``; when
there are ``MAX_WAITING`` of them, those that were used longest ago are put away: they park their runs
(``cis.engine.run.claiming``), and are started again when one is due. A worker's death is seen as the end of its pipe;
it is then buried, and if its runs are to go on, the queue shows it. One that does not start, or crashes, is tried again
after a growing pause. Those that hang, and what others left, are found by looking around (``cis.worker.rescuer``).
"""

from __future__ import annotations

import logging
import math
import os
import selectors
from collections.abc import Callable, Container, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Protocol

from cis.engine.ports import OrphanKiller
from cis.engine.shortage import LONGEST_PAUSE_S, shortage_of
from cis.engine.times import Instant
from cis.errors import ConfigError, ShortageError, StoreError
from cis.model.scope import Scope, parse_worker_id
from cis.store.port import Store
from cis.store.records import QueueDemand, WorkerState
from cis.worker.bell import NEAR, TOLD_ALL, FifoBell, ring
from cis.worker.lock import holder, worker_lock_path
from cis.worker.process import Reporter
from cis.worker.rescuer import LastingAttempts, NothingLasts, ProcessKiller, Rescuer, RescuerParts

log = logging.getLogger(__name__)

TICK_S = 1.0
SHORT_AT_START = (
    "a worker found too few open files, processes or memory at its start; raise the limits (ulimit -n, ulimit -u)"
)
MAX_PAUSE_S = 30.0
STEADY_S = 10.0  # a worker that lived as long did not fail at its start
MAX_WAITING = 16
WAKE_AT_ONCE = 200
CLOCK_STEP_S = 1.0
LATEST_US = 2**53
ASKED_S = 5.0  # in which a worker that was asked to retire may do so
REAP_S = 20.0


class WorkerProcessHandle(Protocol):
    """A started worker process; ``subprocess.Popen`` is one."""

    pid: int

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...

    def send_signal(self, sig: int) -> None: ...


SpawnWorker = Callable[[str, Scope, int], WorkerProcessHandle]
"""Starts ``cis worker run`` for a worker id and scope; the descriptor is its end of the report pipe."""


@dataclass(slots=True, kw_only=True)
class Child:
    """A worker process that this supervisor started."""

    worker_id: str
    process: WorkerProcessHandle
    pipe: int
    used_s: float
    started_s: float
    ready: bool = False
    leaving: bool = False
    asked_s: float = -ASKED_S


@dataclass(slots=True)
class _Pause:
    failures: int = 0
    until_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorParts:
    """What a supervisor is made of.

    ``told`` is called whenever a worker stored something, and ``told_work`` when that may be work for somebody else; ``reap`` takes the status of ended children that are none of
    its workers; ``let_in`` is called, inside a transaction, for a worker id whose runs wait for one of the places of
    their scope (``cis.engine.accept.admission``). A worker that *holds* says so of is not started yet. Runs before *from_position* in the queue are left alone.
    """

    store: Store
    node_id: str
    run_dir: Path
    bell: FifoBell
    spawn: SpawnWorker
    kill_orphans: OrphanKiller
    kill_process: ProcessKiller
    clock: Callable[[], Instant]
    retire_signal: int
    dismiss_signal: int
    max_workers: int
    lease_s: float
    told: Callable[[], None]
    reap: Callable[[Container[int]], None]
    told_work: Callable[[], None] = lambda: None
    let_in: Callable[[Store, str], None] = lambda _store, _worker_id: None
    holds: Callable[[str], bool] = lambda _: False
    lasting: LastingAttempts = field(default_factory=NothingLasts)
    from_position: int = 0


class Supervisor:
    """Keeps a worker alive for every scope that has work. One thread calls ``turn`` again and again."""

    def __init__(self, parts: SupervisorParts) -> None:
        self._parts = parts
        self._children: dict[str, Child] = {}
        self._pauses: dict[str, _Pause] = {}
        self._rescuer = Rescuer(
            RescuerParts(
                store=parts.store,
                node_id=parts.node_id,
                run_dir=parts.run_dir,
                kill_orphans=parts.kill_orphans,
                kill_process=parts.kill_process,
                clock=parts.clock,
                lease_s=parts.lease_s,
                lasting=parts.lasting,
            )
        )
        self._selector = selectors.DefaultSelector()
        self._selector.register(parts.bell.fileno(), selectors.EVENT_READ)
        self._short_of_room = 0
        self._next_look_s = 0.0
        self._next_demand_s = 0.0
        self._next_reap_s = 0.0
        self._closing = False
        self._short: dict[str, str] = {}  # what workers could not be started for
        self._wall_ahead_s = -math.inf

    @property
    def children(self) -> Iterable[Child]:
        """The worker processes that live and were started here."""
        return tuple(self._children.values())

    def turn(self, *, at_most_s: float = TICK_S) -> None:
        """Wait for a ring, a report or a death, and see to it that every queued run has a worker."""
        now_s = self._parts.clock().mono_s
        due_s = min(self._next_demand_s, self._next_look_s)
        look = self._listen(min(at_most_s, max(0.0, due_s - now_s)))
        now_s = self._parts.clock().mono_s
        if now_s >= self._next_reap_s:
            self._next_reap_s = now_s + TICK_S
            self._parts.reap({child.process.pid for child in self._children.values()})
        if now_s >= self._next_look_s:
            self._next_look_s = now_s + self._rescuer.look_every_s
            self._rescuer.look_around({child.worker_id: child.process for child in self._children.values()})
            look = True
        if look or now_s >= self._next_demand_s:
            self._next_demand_s = now_s + TICK_S
            self._meet_demand(now_s)

    def dismiss(self, *, unless: Callable[[], bool] = lambda: False) -> None:
        """Let each worker go once none of its tasks runs, however long it takes; return when all are gone, or *unless*.

        A worker may have taken up the run of somebody else by now; the tasks of that one go on to their ends, and
        what then only waits is handed back.
        """
        while self._children and not unless():
            for child in self._children.values():
                if child.ready and not child.leaving:  # a signal that comes while it ends would be its end
                    child.process.send_signal(self._parts.dismiss_signal)
            self._listen(0.1)

    def close(self, *, timeout_s: float) -> None:
        """Ask every worker to stop, insist after *timeout_s*, and return when all are gone."""
        self._closing = True
        for urgent in (False, True):
            for child in self._children.values():
                with suppress(ProcessLookupError):
                    child.process.terminate()
            deadline_s = self._parts.clock().mono_s + (5.0 if urgent else timeout_s)
            while self._children and self._parts.clock().mono_s < deadline_s:
                self._listen(0.2)
        for child in tuple(self._children.values()):
            child.process.kill()
            self._gone(child)
        self._selector.close()

    def _listen(self, timeout_s: float) -> bool:
        """Read the bell and the pipes; return whether the queue should be looked at."""
        look = stored = work = False
        for key, _ in self._selector.select(timeout_s):
            if key.data is None:
                rung = self._parts.bell.drain()
                if TOLD_ALL in rung:
                    self._ring_all()
                if NEAR in rung:
                    stored = work = True
                look = True
                continue
            child: Child = key.data
            said = os.read(child.pipe, 4096)
            if not said:
                self._gone(child)
                look = stored = True
                continue
            if Reporter.READY in said:
                child.ready = True
                self._short.pop(child.worker_id, None)  # its row was made anew
                look = True
            child.leaving |= Reporter.LEAVING in said
            if Reporter.STORED in said:
                child.used_s = self._parts.clock().mono_s
                stored = True
            work |= Reporter.ENQUEUED in said
            look |= Reporter.ENQUEUED in said or bool(self._short_of_room)
        if stored:
            self._parts.told()
        if work:
            self._parts.told_work()
        return look

    def _meet_demand(self, now_s: float) -> None:
        self._wake_due()
        self._let_in()
        self._short_of_room = 0
        waiting = self._in_state(WorkerState.WAITING)
        for demand in self._parts.store.queue.demand(self._parts.node_id, from_position=self._parts.from_position):
            child = self._children.get(demand.worker_id)
            if child is not None:
                child.used_s = now_s
                ring(self._parts.run_dir, demand.worker_id)
            elif self._lives_elsewhere(demand.worker_id):
                ring(self._parts.run_dir, demand.worker_id)
            elif self._pauses.get(demand.worker_id, _Pause()).until_s > now_s or self._parts.holds(demand.worker_id):
                continue
            elif self._has_room(len(waiting)):
                self._start(demand, now_s)
            else:
                self._short_of_room += 1
        if self._short_of_room:
            self._evict(waiting, now_s)

    def _ring_all(self) -> None:
        for worker_id in self._children:
            ring(self._parts.run_dir, worker_id)

    def _wake_due(self) -> None:
        """Put parked runs that are due back into the queue, all of them when the clock was set back."""
        store, now = self._parts.store, self._parts.clock()
        ahead_s = now.wall_us / 1e6 - now.mono_s
        set_back = ahead_s < self._wall_ahead_s - CLOCK_STEP_S
        self._wall_ahead_s = ahead_s
        now_us = LATEST_US if set_back else now.wall_us
        if not store.queue.any_due(self._parts.node_id, now_us=now_us):
            return
        try:
            with store.transaction():
                store.queue.wake_due(self._parts.node_id, now_us=now_us, limit=WAKE_AT_ONCE)
        except StoreError as error:
            log.error("runs that are due could not be woken", extra={"error": str(error)})

    def _let_in(self) -> None:
        """Queue what waits for a place in its scope, if there is one: who ended the last run may not have looked."""
        store = self._parts.store
        for worker_id in store.queue.workers_waited_for(self._parts.node_id):
            try:
                with store.transaction():
                    self._parts.let_in(store, worker_id)
            except (StoreError, ValueError) as error:
                log.error("runs of a scope could not be let in", extra={"worker": worker_id, "error": str(error)})

    def _lives_elsewhere(self, worker_id: str) -> bool:
        try:
            return holder(worker_lock_path(self._parts.run_dir, worker_id)) is not None
        except ConfigError:  # a link in its place: the worker says so in its log, and ends
            return False
        except OSError:  # there is no descriptor to look with; one that is started beside another ends by itself
            return False

    def _has_room(self, waiting: int) -> bool:
        """Whether one more worker may be started: those that only wait take no place, up to a bound of their own."""
        if len(self._children) < self._parts.max_workers:
            return True
        return len(self._children) - waiting < self._parts.max_workers and waiting < MAX_WAITING

    def _in_state(self, state: WorkerState) -> list[Child]:
        rows = self._parts.store.workers.all(node_id=self._parts.node_id, live_only=True)
        pids = {row.worker_id: row.pid for row in rows if row.status is state}
        return [child for child in self._children.values() if pids.get(child.worker_id) == child.process.pid]

    def _start(self, demand: QueueDemand, now_s: float) -> None:
        try:
            process, ours = self._spawn(demand)
        except OSError as error:
            short_of = shortage_of(error)
            if short_of is None or demand.worker_id not in self._short:
                log.error("a worker could not be started", extra={"worker_id": demand.worker_id, "error": str(error)})
            self._could_not_start(demand.worker_id, short_of, now_s)
            return
        child = Child(worker_id=demand.worker_id, process=process, pipe=ours, used_s=now_s, started_s=now_s)
        self._children[demand.worker_id] = child
        self._selector.register(ours, selectors.EVENT_READ, child)

    def _spawn(self, demand: QueueDemand) -> tuple[WorkerProcessHandle, int]:
        """Start a worker; return it, and our end of its pipe. Raises OSError."""
        ours, theirs = os.pipe()
        try:
            os.set_blocking(ours, False)
            return self._parts.spawn(demand.worker_id, demand.scope, theirs), ours
        except OSError:
            os.close(ours)
            raise
        finally:
            os.close(theirs)

    def _could_not_start(self, worker_id: str, short_of: str | None, now_s: float) -> None:
        """Try again after a pause; what the machine is short of is told of in the worker's row."""
        self._pause(worker_id, now_s, at_most_s=MAX_PAUSE_S if short_of is None else LONGEST_PAUSE_S)
        if short_of is None or self._short.get(worker_id) == short_of:
            return
        self._short[worker_id] = short_of
        store, now_us = self._parts.store, self._parts.clock().wall_us
        try:
            with store.transaction():
                store.workers.cannot_start(
                    self._parts.node_id, worker_id, parse_worker_id(worker_id), short_of=short_of, now_us=now_us
                )
        except StoreError as error:
            log.error("a shortage could not be noted", extra={"worker_id": worker_id, "error": str(error)})

    def _evict(self, waiting: list[Child], now_s: float) -> None:
        """Ask idle or waiting workers to retire, the longest unused first, as many as others want to start."""
        if any(not child.ready for child in self._children.values()):
            return
        room = self._parts.max_workers - (len(self._children) - len(waiting))
        candidates = waiting if room > 0 else self._in_state(WorkerState.IDLE)
        asked = [child for child in self._children.values() if child.asked_s + ASKED_S > now_s]
        wanted = min(self._short_of_room, room if room > 0 else len(candidates)) - len(asked)
        candidates = sorted((child for child in candidates if child not in asked), key=lambda child: child.used_s)
        for child in candidates[: max(0, wanted)]:
            child.asked_s = now_s
            child.process.send_signal(self._parts.retire_signal)

    def _gone(self, child: Child) -> None:
        self._selector.unregister(child.pipe)
        os.close(child.pipe)
        del self._children[child.worker_id]
        unasked = not self._rescuer.has_ended(child.process.pid) and not child.leaving and not self._closing
        try:
            status = child.process.wait(timeout=REAP_S)
        except TimeoutExpired:
            # As long as it holds its lock it lives, like one that another supervisor started: the rescuer sees to it.
            log.error("a worker has closed its pipe and does not end", extra={"worker_id": child.worker_id})
            self._pause(child.worker_id, self._parts.clock().mono_s)
            return
        short_of = SHORT_AT_START if status == ShortageError.exit_status and not child.ready else None
        if status != 0 and not (short_of and child.worker_id in self._short):
            log.warning("a worker ended", extra={"worker_id": child.worker_id, "status": status})
        now_s = self._parts.clock().mono_s
        if now_s - child.started_s >= STEADY_S:
            self._pauses.pop(child.worker_id, None)
        if status != 0 or not child.ready:
            self._could_not_start(child.worker_id, short_of, now_s)
        try:
            worker = self._parts.store.workers.get(self._parts.node_id, child.worker_id)
            if worker is not None and worker.pid == child.process.pid and worker.status.live:
                self._rescuer.bury(worker, unasked=unasked)
        except StoreError as error:
            # There are others to be minded; this one's row still says live, so the next look around finds it.
            log.error("a worker could not be buried", extra={"worker_id": child.worker_id, "error": str(error)})

    def _pause(self, worker_id: str, now_s: float, *, at_most_s: float = MAX_PAUSE_S) -> None:
        pause = self._pauses.setdefault(worker_id, _Pause())
        pause.failures += 1
        pause.until_s = now_s + min(at_most_s, 0.2 * 2.0**pause.failures)
