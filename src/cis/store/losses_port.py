"""What the store keeps of tasks that lost their worker: a part of the port (``cis.store.port``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from cis.store.records import TaskLoss


class LossStore(Protocol):
    """Tasks whose worker died while they ran."""

    def add_losses(self, losses: Iterable[TaskLoss]) -> None:
        """Count losses to those that are stored of the same tasks; ``alone_us`` takes the place of the old one."""
        ...

    def losses(self, run_id: str) -> Sequence[TaskLoss]:
        """Return the losses of a run's tasks; a task that has none is not in it."""
        ...

    def forget_losses(self, run_id: str, task_nos: Iterable[int]) -> None: ...
