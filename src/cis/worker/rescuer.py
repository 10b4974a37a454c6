"""Finds the workers that are dead, and those that live and do nothing; ends what is left of either.

**A dead worker.** A free lock says for certain that its worker is gone. Whoever finds that may bury it: the supervisor
that started it, another one that looks around, or the next worker of the same id. Order matters: first its old
processes die, then its runs go back into the queue, so that a task is never tried again while its last attempt still
writes. Several may bury the same one at once, and a new worker may have taken its place since its row was read. So
whoever buries touches only what belongs to the epoch that it read, and only one of them finds the row still alive.

**A silent worker.** One that holds its lock may still be of no use: stopped by a signal, stuck in a call that does not
return, hung before its first heartbeat. It shows by giving no sign of life for a lease time, or, as long as it has no
row, for ``START_DEADLINE_S``. A sign is a heartbeat, or a touch of its lock file. Heartbeats wait for the write lock of
the database, as all writes do: a worker whose only fault is that others keep that lock touches its file meanwhile
(``SignOfLife``), and is left alone.

That time is measured in looks. Each look adds what has passed since the one before, but never more than the time
between two. A machine that slept, a supervisor that was itself stopped, or a wall clock that was set therefore condemns
nobody: a worker that is well gives its next sign before enough looks are made. What a worker is measured by is the
lease that it took, not the one of whoever looks.

Then, in this order, since whoever breaks off in between must leave something that the next one can go on from:

    fence     its row gets the next epoch, unless it has changed since it was read: from here on it can write nothing
    kill      that very process, by its number and its start; KILL also ends what is stopped
    bury      now that its lock is free: its orphans are ended, its row is dead, its runs are released

Up to the burial its row says that it lives. A rescuer that dies after the first or the second step leaves a row whose
lock is held by somebody silent, or free, and so for the next look what it was for this one.

Who was stopped in the middle of a transaction holds the database's write lock, and nobody can fence it, nor anything
else be written. The others then stop by themselves within their lease (``LeaseLostError``). Whoever is still silent,
and holds its lock file, when twice the time is over is killed without a fence: what is dead writes nothing either.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cis.engine.ports import Orphan, OrphanKiller, attempt_handle, attempt_of_handle
from cis.engine.run.attempts import attempt_marks
from cis.engine.run.losses import blame
from cis.engine.times import Instant
from cis.errors import ConfigError, OrphanError, PoisonRecordError, StoreBusyError, StoreError
from cis.model.states import AttemptState
from cis.store.port import Store
from cis.store.records import AttemptRecord, EventRecord, WorkerRecord, WorkerState
from cis.worker.lock import Holder, holder_of, worker_lock_path

log = logging.getLogger(__name__)

LOOK_AROUND_S = 5.0
LOOKS_IN_A_LEASE = 3
START_DEADLINE_S = 20.0


class LastingAttempts(Protocol):
    """The attempts that go on without a worker, by their handles; what is kept of them lies in the home."""

    def handles(self) -> Sequence[str]:
        """Return the handles of all that anything is kept of. Raises OSError, as ``lives`` does."""
        ...

    def lives(self, handle: str) -> bool:
        """Whether an attempt goes on. Raises OSError: the machine is short of what finding it out takes."""
        ...

    def end(self, handle: str) -> None:
        """Have an attempt end, within its grace period; nobody asks how it ended."""
        ...

    def forget(self, handle: str) -> None:
        """Remove what is kept of an attempt."""
        ...


class NothingLasts:
    """Where no attempt goes on without a worker."""

    def handles(self) -> Sequence[str]:
        """Return none."""
        return ()

    def lives(self, handle: str) -> bool:  # noqa: ARG002 - see LastingAttempts
        """None does."""
        return False

    def end(self, handle: str) -> None:
        """There is nothing to end."""

    def forget(self, handle: str) -> None:
        """There is nothing to remove."""


def end_unwanted(store: Store, lasting: LastingAttempts, *, kill: OrphanKiller) -> None:
    """End lasting attempts that nobody will take up any more, and remove what is kept of those whose runs are over.

    A run may have been cancelled while no worker held it, set aside, or be gone with a backup that was put in place. A
    start is on disk before anything is kept of it, so what was just begun is never taken for unwanted. Of one that
    nobody saw end, the task may have outlived what led it: it is killed.
    """
    try:
        handles = lasting.handles()
    except OSError as error:  # there is no descriptor to look with: at the next look, perhaps
        log.error("lasting attempts cannot be looked at", extra={"error": str(error)})
        return
    for handle in handles:
        named = attempt_of_handle(handle)
        if named is None:
            continue  # somebody else's file
        run_id, task_no, attempt = named
        try:
            run = store.runs.get(run_id)
            row = store.attempts.get(run_id, task_no, attempt)
            over = run is None or run.status.final
            if not over and row is not None and row.status is AttemptState.RUNNING:
                continue
            if lasting.lives(handle):
                log.warning("an attempt that nobody will take up is ended", extra={"handle": handle})
                lasting.end(handle)
            elif over:
                if row is not None and row.status is AttemptState.LOST:
                    kill([_orphan(row)])
                lasting.forget(handle)
        except (PoisonRecordError, OrphanError, OSError) as error:  # until the next look, perhaps
            log.error("a lasting attempt cannot be looked at", extra={"handle": handle, "error": str(error)})


def end_orphans(
    store: Store, worker_id: str, *, kill: OrphanKiller, up_to_epoch: int | None = None
) -> tuple[int, Collection[str]]:
    """Kill what a dead worker's attempts left; return how many there were, and the handles of those that go on.

    With *up_to_epoch*, what a later holder of the id has started since is let be.
    """
    attempts = [
        attempt for attempt in store.attempts.running(worker_id) if up_to_epoch is None or attempt.epoch <= up_to_epoch
    ]
    spared = kill([_orphan(one) for one in attempts]) if attempts else ()
    return len(attempts) - len(spared), spared


def _orphan(one: AttemptRecord) -> Orphan:
    marks = attempt_marks(one.run_id, one.task_id, one.attempt)
    return Orphan(one.pid, one.pid_started, marks, attempt_handle(one.run_id, one.task_no, one.attempt))


def bury(store: Store, worker: WorkerRecord, *, kill: OrphanKiller, now_us: int, unasked: bool = False) -> bool:
    """Declare a worker dead whose lock is free, and release its runs; False if that was done, or is not to be done.

    Its lasting attempts go on, and nothing is to blame on them.

    *unasked*: its parent saw it die though nobody had asked it to go, so what it ran may be to blame
    (``cis.engine.run.losses``).
    """
    spared: Collection[str] = ()
    if worker.status.live:
        orphans, spared = end_orphans(store, worker.worker_id, kill=kill, up_to_epoch=worker.epoch)
        log.warning("a worker died", extra={"worker_id": worker.worker_id, "pid": worker.pid, "attempts": orphans})
    with store.transaction():
        if not store.workers.set_status(
            worker.node_id, worker.worker_id, epoch=worker.epoch, status=WorkerState.DEAD, now_us=now_us
        ):
            return False
        held = store.queue.hand_over(worker.node_id, worker.worker_id, epoch=None)
        if unasked:
            blame(store, worker, [claimed.run_id for claimed in held], spared=spared, now_us=now_us)
        store.events.append([worker_event(worker.worker_id, WorkerState.DEAD, at_us=now_us)])
    return True


def worker_event(worker_id: str, status: WorkerState, *, at_us: int) -> EventRecord:
    """Return the event that tells of a worker's state."""
    return EventRecord(kind="worker", at_us=at_us, status=str(status), worker_id=worker_id)


class ProcessKiller(Protocol):
    """Ends one process for good."""

    def __call__(self, pid: int, started: str) -> bool:
        """Kill *pid* if it is the process that started then, wait for its end, and return whether it is gone."""
        ...


class OwnWorker(Protocol):
    """A worker process of whoever looks; ``subprocess.Popen`` is one. Its number is not reused before it is reaped."""

    pid: int

    def kill(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RescuerParts:
    """What a rescuer works with; *lease_s* is the lease that workers of this home are started with."""

    store: Store
    node_id: str
    run_dir: Path
    kill_orphans: OrphanKiller
    kill_process: ProcessKiller
    clock: Callable[[], Instant]
    lease_s: float
    lasting: LastingAttempts = field(default_factory=NothingLasts)


@dataclass(slots=True)
class _Silence:
    """The last sign that a worker gave, and for how long, in looks, there was no other."""

    sign: tuple[object, ...]
    seconds: float = 0.0


class Rescuer:
    """Looks around for dead and hung workers, again and again; see this module's first lines."""

    def __init__(self, parts: RescuerParts) -> None:
        self.look_every_s = min(LOOK_AROUND_S, parts.lease_s / LOOKS_IN_A_LEASE)
        self._parts = parts
        self._silences: dict[str, _Silence] = {}
        self._looked_s: float | None = None
        self._locked = False
        self._unasked: dict[str, int] = {}  # workers that died unasked, by their epoch, until they are buried
        self._ended: set[int] = set()  # own workers that were ended here

    def look_around(self, own: Mapping[str, OwnWorker]) -> None:
        """Bury who is dead, rescue who hangs. One of *own* is killed here; its parent sees its end, and buries it."""
        store, now_s = self._parts.store, self._parts.clock().mono_s
        passed_s = 0.0 if self._looked_s is None else min(now_s - self._looked_s, self.look_every_s)
        self._looked_s = now_s
        self._locked = False
        rows = {row.worker_id: row for row in store.workers.all(node_id=self._parts.node_id, live_only=True)}
        wanted = {demand.worker_id for demand in store.queue.demand(self._parts.node_id)}
        seen: dict[str, _Silence] = {}
        for worker_id in sorted({*own, *rows, *wanted}):
            try:
                seen[worker_id] = self._look_at(worker_id, rows.get(worker_id), own.get(worker_id), passed_s=passed_s)
            except OSError as error:  # there is no descriptor to look with, so nothing can be told of it
                log.error("a worker cannot be looked at", extra={"worker_id": worker_id, "error": str(error)})
                seen[worker_id] = self._silences.get(worker_id, _Silence(()))
        self._silences = seen
        end_unwanted(store, self._parts.lasting, kill=self._parts.kill_orphans)

    def _look_at(
        self, worker_id: str, row: WorkerRecord | None, child: OwnWorker | None, *, passed_s: float
    ) -> _Silence:
        """Do what is to be done about one worker; return for how long it has been silent."""
        holder = self._holder(worker_id)
        if child is None and holder is None:
            if row is not None and not self._locked:
                self.bury(row)
            return _Silence(())
        pid = child.pid if child is not None else holder.pid if holder is not None else 0
        serving = row if row is not None and row.pid == pid else None
        touched_ns = 0 if holder is None else holder.touched_ns
        sign = (pid, touched_ns) if serving is None else (pid, touched_ns, serving.epoch, serving.heartbeat_at_us)
        silence = self._silences.get(worker_id)
        if silence is None or silence.sign != sign:
            return _Silence(sign)
        silence.seconds += passed_s
        allowed_s = _silence_allowed_s(serving)
        if silence.seconds < allowed_s:
            return silence
        if serving is not None:
            try:
                serving = self._fence(serving, touched_ns=touched_ns)
            except StoreError as error:
                log.error("a hung worker cannot be fenced", extra={"worker_id": worker_id, "error": str(error)})
                if not self._locked or silence.seconds < 2 * allowed_s:
                    return silence
            if serving is None:
                return _Silence(sign)  # it has moved after all, or another rescuer was quicker
        self._end(worker_id, serving, child=child, holder=holder)
        return _Silence(sign)

    def has_ended(self, pid: int) -> bool:
        """Whether one of the own workers was ended here, since it gave no sign of life; asked once it is gone."""
        ended = pid in self._ended
        self._ended.discard(pid)
        return ended

    def bury(self, worker: WorkerRecord, *, unasked: bool = False) -> None:
        """Bury a worker whose process is gone; one whose orphans survive is left for the next look."""
        parts = self._parts
        if unasked:
            self._unasked[worker.worker_id] = worker.epoch
        unasked = self._unasked.get(worker.worker_id) == worker.epoch
        try:
            bury(parts.store, worker, kill=parts.kill_orphans, now_us=parts.clock().wall_us, unasked=unasked)
            self._unasked.pop(worker.worker_id, None)
        except (OrphanError, OSError) as error:  # some survive, or nothing can be told for want of a descriptor
            # Its row still says live, so the next look around tries again; its runs wait until then.
            log.error("what a dead worker left cannot be ended", extra={"error": str(error)})
        except StoreError as error:
            # The same, and there are others to be looked at.
            self._locked = isinstance(error, StoreBusyError)
            log.error("a worker cannot be buried", extra={"worker_id": worker.worker_id, "error": str(error)})

    def _end(
        self, worker_id: str, serving: WorkerRecord | None, *, child: OwnWorker | None, holder: Holder | None
    ) -> None:
        log.error("a worker gives no sign of life; it is ended", extra={"worker_id": worker_id})
        if child is not None:
            self._ended.add(child.pid)
            child.kill()
            return
        if holder is None or holder.started is None or not self._parts.kill_process(holder.pid, holder.started):
            log.error("a worker that hangs cannot be ended", extra={"worker_id": worker_id})
        elif serving is not None and self._holder(worker_id) is None:
            self.bury(serving)

    def _fence(self, row: WorkerRecord, *, touched_ns: int) -> WorkerRecord | None:
        """Give the id of a hung worker the next epoch, if it has given no sign of life since it was looked at.

        Raises:
            StoreError: it cannot be written; ``_locked`` says whether that is for somebody's lock.
        """
        if self._locked:  # found out in this very look, and waiting once is enough
            raise StoreError("the database is locked")
        try:
            with self._parts.store.transaction():
                if self._parts.store.workers.get(row.node_id, row.worker_id) != row:
                    return None
                holder = self._holder(row.worker_id)  # whoever waited for this very lock has touched its own meanwhile
                if holder is not None and holder.touched_ns != touched_ns:
                    return None
                return self._parts.store.workers.take(row)
        except StoreBusyError:
            self._locked = True
            raise

    def _holder(self, worker_id: str) -> Holder | None:
        try:
            return holder_of(worker_lock_path(self._parts.run_dir, worker_id))
        except (
            ConfigError
        ) as error:  # a link in its place, which no process holds; the others are looked at all the same
            log.error("a worker's lock file is not a lock", extra={"worker_id": worker_id, "error": str(error)})
            return None


def _silence_allowed_s(serving: WorkerRecord | None) -> float:
    """Return how long a worker may be silent: its own lease, or the time to start as long as it has none."""
    if serving is None:
        return START_DEADLINE_S
    return (serving.lease_until_us - serving.heartbeat_at_us) / 1e6
