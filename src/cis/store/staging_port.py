"""The part of the store's port for tasks that are stored before their run is (``cis.engine.staging``)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from cis.store.records import TaskRecord


class StagingStore(Protocol):
    """What is stored of a run that is yet to come; nothing of it is shown anywhere."""

    def staging(self) -> AbstractContextManager[None]:
        """A transaction in which tasks may be stored before their run is: nothing is shown of them until it comes."""
        ...

    def stage_tasks(self, tasks: Sequence[TaskRecord]) -> None:
        """Inside ``staging``: store tasks of one run that is not there yet. Raises StoreRefusedError when it is."""
        ...

    def is_staged(self, run_id: str, *, tasks: int) -> bool:
        """Whether so many tasks are stored under the id of a run. They come and go in order, so the first and the last tell."""
        ...

    def staged_runs(self, *, after: str, before: str, limit: int) -> Sequence[str]:
        """Return ids between two others under which tasks are stored, but no run."""
        ...

    def drop_staged(self, run_id: str, *, at_most: int) -> bool:
        """Delete some tasks that have no run; return whether there were any. Those of a run that is there stay."""
        ...
