"""What is done about a worker that is gone: its orphans are ended and its runs go back into the queue.

A worker is gone when its lock is free. Whoever finds that may bury it: the supervisor that started it, another
one that looks around, or the next worker of the same id. Order matters: first the old processes die, then
the runs become available, so that a task is never tried again while its last attempt still writes. Several may bury the
same one at once, and a new worker may have taken its place since its row was read: whoever buries touches only what
belongs to the epoch that it read, and only one of them finds the row still alive.
"""

from __future__ import annotations

import logging

from cis.engine.attempts import attempt_marks
from cis.engine.ports import Orphan, OrphanKiller
from cis.store.port import Store
from cis.store.records import EventRecord, WorkerRecord, WorkerState
from cis.worker.blame import blame

log = logging.getLogger(__name__)


def end_orphans(store: Store, worker_id: str, *, kill: OrphanKiller, up_to_epoch: int | None = None) -> int:
    """Kill what attempts of a dead worker left behind; return how many attempts there were.

    With *up_to_epoch*, what a later holder of the id has started since is let be.
    """
    attempts = [
        attempt for attempt in store.running_attempts(worker_id) if up_to_epoch is None or attempt.epoch <= up_to_epoch
    ]
    if attempts:
        kill(
            [Orphan(one.pid, one.pid_started, attempt_marks(one.run_id, one.task_id, one.attempt)) for one in attempts]
        )
    return len(attempts)


def bury(store: Store, worker: WorkerRecord, *, kill: OrphanKiller, now_us: int, unasked: bool = False) -> bool:
    """Declare a worker dead whose lock is free, and release its runs; False if that was done, or is not to be done.

    *unasked*: its parent saw it die though nobody had asked it to go, so what it ran may be to blame (``cis.worker.blame``).
    """
    if worker.status.live:
        orphans = end_orphans(store, worker.worker_id, kill=kill, up_to_epoch=worker.epoch)
        log.warning("a worker died", extra={"worker_id": worker.worker_id, "pid": worker.pid, "attempts": orphans})
    with store.transaction():
        if not store.set_worker_status(
            worker.node_id, worker.worker_id, epoch=worker.epoch, status=WorkerState.DEAD, now_us=now_us
        ):
            return False
        if unasked:
            held = [claimed.run_id for claimed in store.claimed_runs(worker.node_id, worker.worker_id)]
            blame(store, worker, held, now_us=now_us)
        store.release_claimed(worker.node_id, worker.worker_id)
        store.append_events([worker_event(worker.worker_id, WorkerState.DEAD, at_us=now_us)])
    return True


def worker_event(worker_id: str, status: WorkerState, *, at_us: int) -> EventRecord:
    """Return the event that tells of a worker's state."""
    return EventRecord(kind="worker", at_us=at_us, status=str(status), worker_id=worker_id)
