"""A worker process from its lock to its end.

    lock -> end orphans -> next epoch -> ready -> turns -> drain -> hand back -> stopped

Signals: TERM drains (what runs may end within the grace period, then it is ended and its task handed back),
a second TERM kills at once; but where there is a supervisor, which tells each worker once, one more within two grace
periods says that everybody was told, the tasks as well, by whoever stops the node (``cis.engine.run.live``): what runs
is then ended. USR1 retires the worker if it is idle at that very moment, or if all of its runs only wait, which it then
parks (``cis.engine.run.claiming``): the supervisor may have decided on what it read a moment ago. USR2 lets it go as
soon as none of its tasks runs; what waits is handed back. When the parent is gone, a worker ends as after a grace
period.

One that finds that a newer program has changed the schema starts nothing more, lets what runs end without a limit,
hands back and ends.

A worker that cannot use the store for a whole lease time ends its tasks, within the grace period, and itself. It says
so in its log only, since its row cannot be written: whoever finds its lock free buries it, and ``on_lost`` decides
about what it could not store.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from cis.engine.run.loop import WorkerLoop
from cis.engine.times import Instant
from cis.errors import FencedError, LeaseLostError, StoreError, StoreGoneError, StoreNewerError
from cis.store.port import Store
from cis.store.records import WorkerRecord, WorkerState
from cis.worker.bell import FifoBell
from cis.worker.rescuer import worker_event

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0


class ParentWatch(Protocol):
    """Knows whether the process that started this one is still there."""

    def gone(self) -> bool: ...


class Reporter:
    """The worker's side of the pipe to its supervisor: one byte says what happened; harmless without one."""

    READY = b"r"
    STORED = b"s"
    ENQUEUED = b"q"
    LEAVING = b"l"

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        if descriptor is not None:
            os.set_blocking(descriptor, False)
            os.set_inheritable(descriptor, False)

    def say(self, what: bytes) -> None:
        """Send one of the bytes above; a full or broken pipe is nobody's loss."""
        if self._descriptor is not None:
            with suppress(BlockingIOError, BrokenPipeError):
                os.write(self._descriptor, what)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenure:
    """What a worker process lives by: its row, its limits, and whom it watches."""

    store: Store
    worker: WorkerRecord
    bell: FifoBell
    parent: ParentWatch
    reporter: Reporter
    clock: Callable[[], Instant]
    idle_timeout_s: float | None
    grace_s: float
    supervised: bool = False


class WorkerProcess:
    """Turns a loop until a signal, idleness, a new epoch or the loss of the parent ends it."""

    def __init__(self, loop: WorkerLoop, tenure: Tenure) -> None:
        self._loop = loop
        self._tenure = tenure
        self._terms = 0
        self._told_all = False
        self._told_s = 0.0
        self._retire_asked = False
        self._dismissed = False
        self._superseded = False
        self._look_s = 0.0

    def run(self) -> int:
        """Serve until the end; return the exit status: 0 after an orderly one, 4 after losing the id, 1 the lease."""
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGINT, self._on_term)
        signal.signal(signal.SIGUSR1, self._on_retire)
        signal.signal(signal.SIGUSR2, self._on_dismiss)
        self._tenure.reporter.say(Reporter.READY)
        try:
            self._serve()
            self._wind_down()
        except FencedError as error:
            log.error("this worker's id was taken over; stopping", extra={"error": str(error)})
            self._tenure.reporter.say(Reporter.LEAVING)
            self._loop.kill()
            return error.exit_status
        except LeaseLostError as error:
            log.error(
                "the lease could not be renewed; tasks are ended, and so is this worker", extra={"error": str(error)}
            )
            self._tenure.reporter.say(Reporter.LEAVING)
            self._end_tasks()
            return error.exit_status
        return 0

    def _serve(self) -> None:
        clock, limit_s = self._tenure.clock, self._tenure.idle_timeout_s
        idle_since_s: float | None = None
        while not self._terms and not self._tenure.parent.gone():
            self._loop.turn(at_most_s=1.0 if limit_s is None else min(1.0, limit_s))
            now_s = clock().mono_s
            if self._retire_asked and self._loop.resting:
                self._put_away()
            if (self._dismissed and self._loop.resting) or self._is_superseded(now_s):
                return
            if not self._loop.idle:
                idle_since_s = None
                self._retire_asked = False
                continue
            idle_since_s = now_s if idle_since_s is None else idle_since_s
            if self._retire_asked or (limit_s is not None and now_s - idle_since_s >= limit_s):
                return

    def _put_away(self) -> None:
        """Let go of runs that all only wait; what fails is not asked for again by itself."""
        try:
            while not self._loop.idle and self._loop.put_away():
                pass
        except FencedError:
            raise
        except StoreError as error:
            log.error("runs that wait could not be parked", extra={"error": str(error)})

    def _is_superseded(self, now_s: float) -> bool:
        """Whether a newer program has changed the schema: looked at once a second."""
        if now_s < self._look_s:
            return False
        self._look_s = now_s + LOOK_EVERY_S
        try:
            self._tenure.store.upkeep.check_current()
        except StoreNewerError as error:
            log.error("nothing more is started; what runs goes on to its end", extra={"error": str(error)})
            self._superseded = True
        except StoreGoneError as error:  # whoever has the home now knows nothing of these tasks
            self._loop.disown()
            raise LeaseLostError(str(error)) from error
        except StoreError:
            return False  # the loop says so, and knows what to do
        return self._superseded

    def _wind_down(self) -> None:
        clock = self._tenure.clock
        self._tenure.reporter.say(Reporter.LEAVING)  # from here on its death is nobody's fault
        self._loop.drain(doubting=self._tenure.supervised)
        stop_at_s = clock().mono_s + (0.0 if self._tenure.parent.gone() else self._tenure.grace_s)
        stopping = False
        while not self._loop.stopped:
            if self._superseded:  # it was not told to stop, so its tasks have all the time that they take
                stop_at_s = float("inf") if not self._terms else clock().mono_s + self._tenure.grace_s
                self._superseded = not self._terms
            if self._terms > 1:
                self._loop.kill()
                if self._loop.failing and not self._loop.running:
                    break  # now means now: what cannot be stored is lost
            elif not stopping and (self._told_all or clock().mono_s >= stop_at_s or self._tenure.parent.gone()):
                self._loop.stop(all_were_told=self._told_all)
                stopping = True
            self._loop.turn(at_most_s=0.2)
        self._say_goodbye()

    def _end_tasks(self) -> None:
        self._loop.stop()
        while self._loop.running:
            if self._terms > 1:
                self._loop.kill()
            self._loop.attend(at_most_s=0.2)

    def _say_goodbye(self) -> None:
        store, worker, now_us = self._tenure.store, self._tenure.worker, self._tenure.clock().wall_us
        try:
            self._loop.hand_back()
            with store.transaction():
                if store.workers.set_status(
                    worker.node_id, worker.worker_id, epoch=worker.epoch, status=WorkerState.STOPPED, now_us=now_us
                ):
                    store.events.append([worker_event(worker.worker_id, WorkerState.STOPPED, at_us=now_us)])
        except FencedError:
            raise
        except StoreError as error:
            # Whoever finds the lock free does the same (cis.worker.rescuer).
            log.error("the end of this worker could not be stored", extra={"error": str(error)})

    def _on_term(self, _signal: int, _frame: object) -> None:
        now_s = self._tenure.clock().mono_s
        supervised, window_s = self._tenure.supervised, 2 * self._tenure.grace_s
        if supervised and self._terms == 1 and not self._told_all and now_s < self._told_s + window_s:
            self._told_all = True
        else:
            self._terms += 1
            self._told_s = now_s
        self._tenure.bell.ring()

    def _on_retire(self, _signal: int, _frame: object) -> None:
        self._retire_asked = True
        self._tenure.bell.ring()

    def _on_dismiss(self, _signal: int, _frame: object) -> None:
        self._dismissed = True
        self._tenure.bell.ring()
