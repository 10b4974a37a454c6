"""The parts of the store's port (``cis.store.port``) about rights, forgetting, restores and the store itself.

A run is *live*, whatever its state says, while it is not over, its parent is not, it is in a queue, something about it
waits in the outbox, or another node's part in it is open. Whatever ends a run ends its attempts in the same
transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol

from cis.store.access_records import EVERY_ENTRY, AuditFilter, AuditRecord, TokenRecord


class Pruned(StrEnum):
    """What came of an attempt to forget a run."""

    GONE = "gone"
    MORE = "more"  # some of its attempts went; ask again
    HELD = "held"  # it is live, or a run of one of its tasks is still there


class EndedRun(NamedTuple):
    """A run that is over, and when it ended; they sort by their ends."""

    finished_at_us: int
    run_id: str


class RestoreRecord(NamedTuple):
    """A backup was put in place of the database at one time, and knows nothing of what happened after another."""

    restored_at_us: int
    known_until_us: int


class Schema(NamedTuple):
    """Whether a store has the schema that this program knows, and whether it is one of this program at all."""

    is_newest: bool
    is_ours: bool


class HomeRecord(NamedTuple):
    """Whose home this is, and where it lives: *machine* is empty where it is not known, or is a container."""

    node_id: str
    machine: str
    path: str


class Tokens(Protocol):
    """Tokens of the API."""

    def put(self, token: TokenRecord) -> None:
        """Store a token, in place of one of the same name."""
        ...

    def all(self) -> Sequence[TokenRecord]:
        """Return all tokens by name. Check, then insert: a name that is not there may be given (it is the key)."""
        ...

    def by_sha256(self, sha256: str) -> TokenRecord | None:
        """Return the token with this digest."""
        ...

    def delete(self, name: str) -> bool:
        """Delete a token; return whether there was one."""
        ...


class Audit(Protocol):
    """Who did what; nothing changes or deletes an entry."""

    def append(self, entry: AuditRecord) -> None:
        """Add an entry to the audit log; of one actor's refusals, no more than its share (``cis.store.shares``)."""
        ...

    def page(self, where: AuditFilter = EVERY_ENTRY, *, limit: int, before: int | None = None) -> Sequence[AuditRecord]:
        """Return entries, newest first. Nothing changes or deletes one."""
        ...


class Pruning(Protocol):
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

    def family(self, run_id: str) -> Sequence[str]:
        """Return a run and all that came of its tasks, deepest first; nothing if one of them is live."""
        ...

    def prune(self, run_id: str, *, at_most: int) -> Pruned:
        """Delete about *at_most* attempts of a run, and once none is left the run itself with all that is its own.

        Check, then delete: nothing may make the run live before the commit (its row is locked; what is added names it).
        """
        ...

    def prune_notes(self, *, expired_us: int, withdrawn_us: int, asked_us: int) -> int:
        """Forget what is kept of other nodes for a time; return how much went.

        These are offers and places of former peers that expired before *expired_us*, runs to be refused that expired
        before *withdrawn_us* (they would be refused as expired anyway), and what was asked before *asked_us*.
        """
        ...

    def ends(self, run_ids: Sequence[str]) -> Mapping[str, int | None]:
        """Return when each of these runs ended, None for one that is live; those that are not known are left out."""
        ...


class Restores(Protocol):
    """What a database knows of its own age."""

    def last(self) -> RestoreRecord | None:
        """Return the last restore; None for a database that never was restored."""
        ...

    def begin(self, *, now_us: int) -> RestoreRecord:
        """Note that this store was put in place of another one now, and return until when it knows what happened.

        That is when its last event, or entry of the audit log, was written. What was asked of other nodes is forgotten.
        """
        ...

    def doubt(self, run_id: str) -> None:
        """Note that what is stored of a run may be out of date."""
        ...

    def doubts(self, run_id: str) -> bool:
        """Whether there is such a note."""
        ...

    def settle(self, run_id: str) -> bool:
        """Forget that note: it was found out how the run goes, or somebody decided. Return whether there was one."""
        ...

    def doubted(self) -> int:
        """Return how many runs with such a note are not over."""
        ...

    def forget_queue(self) -> None:
        """Forget all that waits to be done, sent or granted; runs stay as they are."""
        ...


class Homes(Protocol):
    """Whose home this is."""

    def get(self) -> HomeRecord | None:
        """Return what was kept; None before the first command that acts."""
        ...

    def put(self, home: HomeRecord) -> None:
        """Keep it, in place of what was kept before."""
        ...


class Upkeep(Protocol):
    """The store itself."""

    def write_nothing(self) -> None:
        """Write what changes nothing, but takes the same way to the disk as anything else: can there be a commit now?

        Raises:
            StoreError: nothing can be written.
        """
        ...

    def faults(self, *, quick: bool = False) -> Sequence[str]:
        """Return what is wrong with what is stored, a line each; nothing when it is sound. Looks at everything.

        With *quick* it stops at the first, and gives up after some seconds; what was not found by then is not told.
        """
        ...

    def schema(self) -> Schema:
        """Return which schema the store has; one that was opened as it is may have an older one, or be anybody's."""
        ...

    def check_current(self) -> None:
        """Raise unless what is written here is still read by others.

        Raises:
            StoreNewerError: a newer program has changed the schema since the store was opened.
            StoreGoneError: another database, or none, is in its place.
        """
        ...

    def back_up(self, path: Path) -> None:
        """Copy the store to a new file here, mode 0600, while it is in use, as of one moment.

        It is what ``cis.store.opening.restoring`` of the same kind of store takes; what is in it is the adapter's affair.

        Raises:
            StoreError: the file is there already, or cannot be written.
        """
        ...
