"""The part of the store's port that is about the home itself; the rules are those of ``cis.store.port``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeRecord:
    """Whose home this is, and where it lives: *machine* is empty where it is not known, or is a container."""

    node_id: str
    machine: str
    path: str


class HomeStore(Protocol):
    """What a home knows of itself."""

    def home(self) -> HomeRecord | None:
        """Return what was kept; None before the first command that acts."""
        ...

    def check_current(self) -> None:
        """Raise unless what is written here is still read by others.

        Raises:
            StoreNewerError: a newer program has changed the schema since the store was opened.
            StoreGoneError: another database, or none, is in its place.
        """
        ...

    def put_home(self, home: HomeRecord) -> None:
        """Keep it, in place of what was kept before."""
        ...

    def forget_queue(self) -> None:
        """Forget all that waits to be done, sent or granted; runs stay as they are."""
        ...

    def runs_of_other_ids(self, node_id: str) -> dict[str, int]:
        """Return how many runs wait in the queues of other node ids that this home had, by id."""
        ...
