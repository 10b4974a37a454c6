"""The parts of the store's port (``cis.store.port``) about forgetting, restored backups and the home.

A run is *live*, whatever its state says, while it is not over, its parent is not, it is in a queue, something about it
waits in the outbox, or another node's part in it is open. Whatever ends a run ends its attempts in the same
transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Pruned(StrEnum):
    """What came of an attempt to forget a run."""

    GONE = "gone"
    MORE = "more"  # some of its attempts went; ask again
    HELD = "held"  # it is live, or a run of one of its tasks is still there


@dataclass(frozen=True, slots=True, order=True)
class EndedRun:
    """A run that is over, and when it ended; they sort by their ends."""

    finished_at_us: int
    run_id: str


class RetentionStore(Protocol):
    """What is old, and how it goes."""

    def ended_dags(self, *, after: str, limit: int) -> Sequence[str]:
        """Return ids of DAGs that have runs which are over and no task of another, by name, from *after* on."""
        ...

    def expired_runs(
        self, dag_id: str, *, before_us: int | None, keep: int | None, until_us: int, after: EndedRun | None, limit: int
    ) -> Sequence[EndedRun]:
        """Return runs of a DAG, no tasks of others, that ended before *before_us* or are not its newest *keep*.

        Oldest first, from *after* on. With *keep*, runs that ended after *until_us* neither count nor come.
        """
        ...

    def run_family(self, run_id: str) -> Sequence[str]:
        """Return a run and all that its tasks and their tasks started, deepest first; nothing if one of them is live."""
        ...

    def prune_run(self, run_id: str, *, at_most: int) -> Pruned:
        """Delete about *at_most* attempts of a run, and once none is left the run itself with all that is its own."""
        ...

    def run_ends(self, run_ids: Sequence[str]) -> Mapping[str, int | None]:
        """Return when each of these runs ended, None for one that is live; those that are not known are left out."""
        ...

    def unused_definitions(self, *, limit: int) -> Sequence[int]:
        """Return ids of documents that are not the stored version of their DAG, and that no run is of."""
        ...

    def drop_definitions(self, definition_ids: Sequence[int]) -> int:
        """Delete those of them that are still unused; return how many went."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreRecord:
    """A backup was put in place of the database at one time, and knows nothing of what happened after another."""

    restored_at_us: int
    known_until_us: int


class RestoreStore(Protocol):
    """What a database knows of its own age."""

    def restore(self) -> RestoreRecord | None:
        """Return the last restore; None for a database that never was restored."""
        ...

    def put_restore(self, record: RestoreRecord) -> None: ...

    def newest_record_us(self) -> int:
        """Return when the last event, or entry of the audit log, was written; 0 when there is none."""
        ...

    def put_restored_run(self, run_id: str) -> None:
        """Note that what is stored of a run may be out of date."""
        ...

    def is_restored_run(self, run_id: str) -> bool: ...

    def settle_restored_run(self, run_id: str) -> bool:
        """Forget that note: it was found out how the run goes, or somebody decided. Return whether there was one."""
        ...

    def restored_runs(self) -> int:
        """Return how many runs with such a note are not over."""
        ...


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
