"""Which task may have taken its worker down, told by what ran when the worker died.

Only a death that nobody asked for is looked at: the supervisor that started the worker is there and saw it end, and neither
a signal, a lost lease nor the supervisor itself had asked it to go. So a machine that is switched off, a node that dies and
an orderly stop never count.

One attempt that ran alone is to blame, and its loss is counted (``max_losses``). Of several nobody knows which one it was: none is
counted, and each is tried again apart from the others, so that the guilty one is found and the innocent end. An attempt
runs apart for twice as long as it had lived when the worker died, and a minute; then others may start beside it.
"""

from __future__ import annotations

from collections.abc import Collection

from cis.errors import PoisonRecordError
from cis.store.port import Store
from cis.store.records import AttemptRecord, TaskLoss, WorkerRecord

ALONE_AT_LEAST_US = 60_000_000
ALONE_AT_MOST_US = 86_400_000_000


def blame(store: Store, worker: WorkerRecord, held: Collection[str], *, now_us: int) -> None:
    """Store what the death of *worker* says of the tasks that it ran of the runs *held*."""
    attempts = [
        attempt
        for attempt in store.running_attempts(worker.worker_id)
        if attempt.epoch == worker.epoch and attempt.run_id in held and _is_process(store, attempt)
    ]
    counted = int(len(attempts) == 1)
    store.add_losses(
        TaskLoss(attempt.run_id, attempt.task_no, counted, _alone_us(attempt, now_us=now_us)) for attempt in attempts
    )


def _is_process(store: Store, attempt: AttemptRecord) -> bool:
    try:
        task = store.task(attempt.run_id, attempt.task_id)
    except PoisonRecordError:
        return False
    return task is not None and task.child_run_id is None


def _alone_us(attempt: AttemptRecord, *, now_us: int) -> int:
    lived_us = max(0, now_us - attempt.started_at_us)
    return min(2 * lived_us + ALONE_AT_LEAST_US, ALONE_AT_MOST_US)
