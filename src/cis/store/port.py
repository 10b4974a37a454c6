"""The store as the engine sees it: one port, an adapter for each database.

Rules that hold for every adapter, and that the contract suite in ``tests/store`` checks:

- Every method that writes must be called inside ``transaction()``; that is one durable unit (a power cut after
  it returned loses nothing), and takes the write lock when it begins, so what is read inside it stays true.
- Reads outside a transaction see the last committed state.
- ``change_run``, ``change_task`` and ``finish_attempt`` change a row only at the version (or state) that the
  caller read; otherwise they raise ``StaleVersionError`` and change nothing. They check the arrow as well.
- An object is for one thread; every thread opens its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from typing import Protocol

from cis.errors import PoisonRecordError
from cis.model.dag import DagSpec
from cis.model.scope_rules import Patterns
from cis.model.states import RunState
from cis.model.stored import check_stored
from cis.model.tree import clipped
from cis.store.cluster_port import OutboxStore, PeerStore, RemoteStore, RoomStore
from cis.store.queue_port import LeftStore, LossStore, QueueStore, StagingStore, WorkerStore
from cis.store.records import (
    EVERY_ENTRY,
    AttemptPlace,
    AttemptRecord,
    AuditFilter,
    AuditRecord,
    DefinitionRecord,
    EventRecord,
    EventTally,
    Page,
    RunChange,
    RunFilter,
    RunRecord,
    TaskRecord,
    TokenRecord,
)
from cis.store.upkeep_port import HomeStore, RestoreStore, RetentionStore


class DefinitionStore(Protocol):
    """DAG documents, one row a version."""

    def put_definition(self, definition: DefinitionRecord, document_json: str) -> int:
        """Store a document unless that version is there; return its ``definition_id`` (the one given is ignored)."""
        ...

    def save_definition(self, definition_id: int, *, now_us: int) -> None:
        """Mark a version as the stored one of its DAG, in place of any other."""
        ...

    def definition(self, dag_id: str) -> DefinitionRecord | None:
        """Return the stored version of a DAG, or else its newest."""
        ...

    def definition_by_id(self, definition_id: int) -> DefinitionRecord | None: ...

    def document(self, definition_id: int) -> str:
        """Return a version's document as JSON text.

        Raises:
            NotFoundError: no such version.
        """
        ...

    def definitions(
        self, *, limit: int, cursor: str | None = None, saved_only: bool = False, scopes: Patterns | None = None
    ) -> Page[DefinitionRecord]:
        """Return one row a DAG (as ``definition`` picks it), by ``dag_id``; those of other *scopes* are left out.

        A page may therefore have fewer than *limit*, and yet not be the last.
        """
        ...


class RunStore(Protocol):
    """Runs, their tasks and their attempts."""

    def insert_run(self, run: RunRecord, tasks: Iterable[TaskRecord]) -> None:
        """Store a new run with its tasks, or with those that were staged for it."""
        ...

    def grow_tree(self, tree: str) -> int:
        """Count one more run of a tree, and return how many there are below its root now.

        The counter's row is held until the transaction ends: of two that grow one tree, the second sees the first's.
        """
        ...

    def run(self, run_id: str) -> RunRecord | None: ...

    def run_version(self, run_id: str) -> int | None:
        """Return a run's version alone: a cheap way to see whether it changed."""
        ...

    def run_by_key(self, idempotency_key: str) -> RunRecord | None: ...

    def latest_run(self, dag_id: str) -> RunRecord | None: ...

    def runs(self, where: RunFilter, *, limit: int, cursor: str | None = None) -> Page[RunRecord]:
        """Return runs, newest first.

        Raises:
            UsageError: *cursor* is none that this method returned.
        """
        ...

    def unfinished_counts(self) -> Mapping[RunState, int]:
        """Return how many runs are in each state that is not final; reads an index of those alone."""
        ...

    def unfinished_of(self, run_ids: Sequence[str]) -> AbstractSet[str]:
        """Return those of the runs that are there and not over; their other columns are not read."""
        ...

    def unfinished_run_elsewhere(self, worker_id: str, target_node: str) -> RunRecord | None:
        """Return a run, not final, that asks for the worker on another target node by name."""
        ...

    def child_runs(self, parent_run_id: str) -> Sequence[RunRecord]: ...

    def change_run(self, run: RunRecord, change: RunChange) -> RunRecord:
        """Apply *change* to the run as it was read, and return it as it is now; the end of a child wakes its parent."""
        ...

    def set_aside(self, run_id: str, *, error: str, now_us: int, status: RunState = RunState.FAILED) -> bool:
        """End a run without reading its rows, which perhaps cannot be read; return False if it was final already.

        Its unfinished tasks become cancelled, each with its event, running attempts lost, and it leaves the queue
        either way.
        """
        ...

    def tasks(self, run_id: str, *, outputs: bool = True) -> Sequence[TaskRecord]:
        """Return a run's tasks in the order of the document; without *outputs* these are left out."""
        ...

    def tasks_after(self, run_id: str, task_no: int, *, limit: int, max_bytes: int) -> Sequence[TaskRecord]:
        """Return the tasks that follow one by number: at most *limit*, and none after *max_bytes* of outputs and errors."""
        ...

    def has_running_tasks(self, run_id: str) -> bool:
        """Whether a task of a run has started and not ended."""
        ...

    def task(self, run_id: str, task_id: str) -> TaskRecord | None: ...

    def outputs(self, run_id: str) -> Sequence[Mapping[str, str]]:
        """Return the outputs of a run's tasks, of those that have some, in the order of the document."""
        ...

    def outputs_size(self, run_id: str) -> int:
        """Return how many bytes the outputs of a run's tasks take as they are stored; never fewer than they have."""
        ...

    def cancel_unfinished(self, run_id: str, *, now_us: int) -> None:
        """Make every task of a run that is not over cancelled, and every attempt of it that has no end lost.

        Each of those tasks gets its event. However many they are, none of them is read: the store does it in a statement
        for the rows and one for the events.
        """
        ...

    def change_tasks(self, old_and_new: Iterable[tuple[TaskRecord, TaskRecord]]) -> None:
        """Replace tasks as they were read by what they become; versions grow by one in the store.

        The ``version`` of the new record is ignored (it is the old one's plus one).
        """
        ...

    def start_attempts(self, attempts: Iterable[AttemptRecord]) -> None: ...

    def drop_attempts(self, attempts: Iterable[AttemptRecord]) -> None:
        """Delete running attempts that never became a process, as if they had not been tried."""
        ...

    def set_pids(self, attempts: Iterable[AttemptRecord]) -> None:
        """Store ``pid`` and ``pid_started`` of running attempts."""
        ...

    def finish_attempts(self, attempts: Iterable[AttemptRecord]) -> None:
        """Store the ends of attempts that are running in the store."""
        ...

    def attempts(
        self, run_id: str, *, task_id: str | None = None, attempt: int | None = None
    ) -> Sequence[AttemptRecord]:
        """Return a run's attempts by start time, then task number, then attempt."""
        ...

    def attempt(self, run_id: str, task_no: int, attempt: int) -> AttemptRecord | None: ...

    def attempts_after(self, run_id: str, task_no: int, attempt: int, *, limit: int) -> Sequence[AttemptRecord]:
        """Return the attempts of a run that follow one by their task's number, then their own: at most *limit*."""
        ...

    def attempt_places(
        self,
        run_id: str,
        *,
        task_id: str | None = None,
        attempt: int | None = None,
        after: AttemptPlace | None = None,
        limit: int,
    ) -> Sequence[AttemptPlace]:
        """Return where a run's attempts come, in the order of ``attempts``: those that follow one, at most *limit*."""
        ...

    def has_stray_attempts(self, run_id: str) -> bool:
        """Whether there is an attempt that none of the run's tasks has made: its number may be wanted by the next."""
        ...

    def running_attempts(self, worker_id: str) -> Sequence[AttemptRecord]:
        """Return the attempts of one worker id that have no end, in runs that are not over."""
        ...


class LogStore(Protocol):
    """Events, tokens and the audit log."""

    def append_events(self, events: Iterable[EventRecord]) -> None: ...

    def events_after(self, seq: int, *, limit: int) -> Sequence[EventRecord]: ...

    def last_event_seq(self) -> int: ...

    def tally_events_after(self, seq: int) -> EventTally:
        """Return how many events there are after one, and what they say, without reading each of them."""
        ...

    def prune_events(self, *, keep: int, at_most: int) -> int:
        """Delete the oldest events, but for the newest *keep*, at least one; return how many went."""
        ...

    def put_token(self, token: TokenRecord) -> None: ...

    def tokens(self) -> Sequence[TokenRecord]: ...

    def token_by_sha256(self, sha256: str) -> TokenRecord | None: ...

    def delete_token(self, name: str) -> bool: ...

    def append_audit(self, entry: AuditRecord) -> None:
        """Add an entry to the audit log; of one actor's refusals, no more than its share (``cis.store.refusals``)."""
        ...

    def audit(
        self, where: AuditFilter = EVERY_ENTRY, *, limit: int, before: int | None = None
    ) -> Sequence[AuditRecord]:
        """Return entries, newest first. Nothing changes or deletes one."""
        ...


class Store(
    DefinitionStore,
    RunStore,
    LossStore,
    LeftStore,
    QueueStore,
    WorkerStore,
    LogStore,
    PeerStore,
    OutboxStore,
    RemoteStore,
    RoomStore,
    RetentionStore,
    StagingStore,
    HomeStore,
    RestoreStore,
    Protocol,
):
    """Everything that is kept, behind one transaction."""

    def transaction(self) -> AbstractContextManager[None]:
        """Begin, and commit when the block ends; roll back when it raises."""
        ...

    def savepoint(self) -> AbstractContextManager[None]:
        """Inside a transaction: keep or undo one part of it alone, as the block ends or raises."""
        ...

    def write_nothing(self) -> None:
        """Write what changes nothing, but takes the same way to the disk as anything else.

        Raises:
            StoreError: nothing can be written.
        """
        ...

    def first_damage(self) -> str | None:
        """Return the first thing that is wrong with what is stored; None when it is sound or the search took too long.

        Looks at every page.
        """
        ...

    def close(self) -> None: ...


def stored_spec(store: DefinitionStore, definition_id: int) -> DagSpec:
    """Return the DAG of one stored version.

    Raises:
        PoisonRecordError: the stored document cannot be read.
    """
    return read_spec(store.document(definition_id))


def read_spec(dag_json: str) -> DagSpec:
    """Return the DAG that a stored text holds. Raises PoisonRecordError when it holds none."""
    try:
        spec = DagSpec.from_dict(json.loads(dag_json))
        check_stored(spec)
    except (ValueError, RecursionError) as error:
        raise PoisonRecordError("a stored DAG", clipped(str(error), limit=500)) from error
    return spec
