"""The part of the store's port that is about forgetting; the rules are those of ``cis.store.port``.

A run is *live*, whatever its state says, while it is not over, its parent is not, it is in a queue, something about it
waits in the outbox, or another node's part in it is open. Whatever ends a run ends its attempts in the same transaction.
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
