"""What the losses of a run's tasks lead to: which run apart from others, which are given up, which are forgotten."""

from __future__ import annotations

from collections.abc import Iterable

from cis.model.states import AttemptState
from cis.store.records import TaskLoss

_GIVEN_UP = (
    "its worker died {count} times in a row while this task ran alone, so it is not tried again (max_losses); look for what"
    " ended the worker, most often too little memory, then rerun it, or set max_losses higher (0: no bound)"
)


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
