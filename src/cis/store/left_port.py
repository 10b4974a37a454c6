"""What tasks were allowed to leave running, as the store keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from cis.store.records import LeftProcess


class LeftStore(Protocol):
    """What tasks were allowed to leave running."""

    def add_left(self, left: Iterable[LeftProcess]) -> None: ...

    def left_processes(self, run_id: str) -> Sequence[LeftProcess]:
        """Return what the tasks of a run left running when they ended, in their order, whether or not it still runs."""
        ...
