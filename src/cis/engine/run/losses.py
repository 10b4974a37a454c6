"""Tasks that lost their worker: which task is to blame, which run apart from others, which are given up.

Only a death that nobody asked for counts: the worker's supervisor saw it end, and neither a signal, a lost lease nor
the supervisor had asked it to go. A machine that is switched off, a node that dies and an orderly stop never count.

An attempt that ran alone when its worker died is to blame, and its loss is counted (``max_losses``). Of several, nobody
knows which one it was: none is counted, and each is tried again apart from the others, so the guilty one is found and
the innocent ones end. An attempt runs apart for twice as long as it had lived when the worker died, and a minute; then
others may start beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from cis.engine.ports import attempt_handle
from cis.errors import PoisonRecordError
from cis.model.states import AttemptState
from cis.store.port import Store
from cis.store.records import AttemptRecord, TaskLoss, WorkerRecord
from cis.store.run_port import Tasks

_GIVEN_UP = (
    "its worker died {count} times in a row while this task ran alone, so it is not tried again (max_losses); look for what"
    " ended the worker, most often too little memory, then rerun it, or set max_losses higher (0: no bound)"
)

ALONE_AT_LEAST_US = 60_000_000
ALONE_AT_MOST_US = 86_400_000_000


class Losses:
    """The tasks of one run whose worker died while they ran, by number; most runs have none."""

    def __init__(self, losses: Iterable[TaskLoss]) -> None:
        self._by_number = {loss.task_no: loss for loss in losses}
        self._acquitted: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._by_number)

    def __contains__(self, number: int) -> bool:
        return number in self._by_number

    def alone_s(self, number: int) -> float:
        """Return for how many seconds a task runs apart from others."""
        return self._by_number[number].alone_us / 1e6

    def outlived(self, number: int, lived_s: float) -> bool:
        """Whether a task that lost its worker has now run apart for its time, and the worker with it."""
        return number in self._by_number and lived_s >= self.alone_s(number)

    def take_end(self, number: int, status: AttemptState, *, limit: int) -> str | None:
        """Forget the losses of an attempt that ended by itself; return why a task is given up, None when it is not."""
        if number not in self._by_number:
            return None
        if status is not AttemptState.LOST:
            del self._by_number[number]
            self._acquitted.append(number)
            return None
        count = self._by_number[number].losses
        return _GIVEN_UP.format(count=count) if limit and count >= limit else None

    def take_acquitted(self) -> list[int]:
        """Return the tasks whose stored losses are to be forgotten, since an attempt of theirs ended by itself."""
        acquitted, self._acquitted = self._acquitted, []
        return acquitted


def blame(
    store: Store, worker: WorkerRecord, held: Collection[str], *, spared: Collection[str] = (), now_us: int
) -> None:
    """Store what the death of *worker* says of its tasks in the runs *held*, but for attempts that go on (*spared*)."""
    attempts = [
        attempt
        for attempt in store.attempts.running(worker.worker_id)
        if attempt.epoch == worker.epoch
        and attempt.run_id in held
        and attempt_handle(attempt.run_id, attempt.task_no, attempt.attempt) not in spared
        and _is_process(store.tasks, attempt)
    ]
    counted = int(len(attempts) == 1)
    store.attempts.add_losses(
        TaskLoss(attempt.run_id, attempt.task_no, counted, _alone_us(attempt, now_us=now_us)) for attempt in attempts
    )


def _is_process(tasks: Tasks, attempt: AttemptRecord) -> bool:
    try:
        task = tasks.get(attempt.run_id, attempt.task_id)
    except PoisonRecordError:
        return False
    return task is not None and task.child_run_id is None and task.due_at_us is None


def _alone_us(attempt: AttemptRecord, *, now_us: int) -> int:
    lived_us = max(0, now_us - attempt.started_at_us)
    return min(2 * lived_us + ALONE_AT_LEAST_US, ALONE_AT_MOST_US)
