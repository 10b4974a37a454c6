"""The parts of the store's port (``cis.store.port``) about DAGs and their runs.

Documents, runs, tasks and attempts, and tasks that are stored before their run is (``cis.engine.accept.staging``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from cis.model.dag import Json
from cis.model.scope_rules import Patterns
from cis.model.states import RunState
from cis.store.records import (
    AttemptPlace,
    AttemptRecord,
    DefinitionRecord,
    LeftProcess,
    NewDefinition,
    Page,
    RunChange,
    RunFilter,
    RunHead,
    RunRecord,
    TaskLoss,
    TaskRecord,
)


class Definitions(Protocol):
    """DAG documents, one row a version."""

    def put(self, definition: NewDefinition) -> int:
        """Store a document unless that version is there; return its ``definition_id``."""
        ...

    def save(self, definition_id: int, *, at_us: int | None) -> None:
        """Mark a version as the stored one of its DAG since a time, in place of any other: a DAG has one at most.

        None: its DAG has none from now on. All versions stay.
        """
        ...

    def saved_count(self, *, at_most: int) -> int:
        """Return how many DAGs are stored, counted no further than *at_most*."""
        ...

    def current(self, dag_id: str) -> DefinitionRecord | None:
        """Return the stored version of a DAG, or else its newest."""
        ...

    def get(self, definition_id: int) -> DefinitionRecord | None:
        """Return one version."""
        ...

    def document(self, definition_id: int) -> str:
        """Return a version's document as JSON text.

        Raises:
            NotFoundError: no such version.
        """
        ...

    def page(
        self, *, limit: int, cursor: str | None = None, saved_only: bool = False, scopes: Patterns | None = None
    ) -> Page[DefinitionRecord]:
        """Return one row a DAG (as ``current`` picks it), by ``dag_id``; those of other *scopes* are left out.

        A page may therefore have fewer than *limit*, and yet not be the last.
        """
        ...

    def unused(self, *, limit: int) -> Sequence[int]:
        """Return ids of documents that are not the stored version of their DAG, and that no run is of."""
        ...

    def drop(self, definition_ids: Sequence[int]) -> int:
        """Delete those of them that are still unused; return how many went.

        Check, then delete: no run of one may be added before the commit (the run refers to its row).
        """
        ...


class Runs(Protocol):
    """Runs of DAGs."""

    def add(self, run: RunRecord, tasks: Iterable[TaskRecord], *, params: Mapping[str, Json] | None = None) -> None:
        """Store a new run with its tasks, or with those that were staged for it, and the values of its parameters.

        Its place among all runs is that of the next event at this time (``page`` shows the newest first, whatever the
        clock said). A run's id and its idempotency key are unique. Check, then insert: whoever found neither (``get``,
        ``by_key``) may add; of two that add the same at once, one must find the other's, or wait and find it.
        """
        ...

    def grow_tree(self, tree: str) -> int:
        """Count one more run of a tree, and return how many there are below its root now.

        Holds until the commit: of two that grow one tree, the second sees the first's (the row of the tree is locked).
        """
        ...

    def get(self, run_id: str) -> RunRecord | None:
        """Return a run. What is decided by it is protected by its version, where ``change`` follows.

        Raises:
            PoisonRecordError: its row cannot be read.
        """
        ...

    def params(self, run_id: str) -> Mapping[str, Json]:
        """Return the values of a run's parameters, by name; most runs have none. They never change.

        Raises:
            PoisonRecordError: they cannot be read.
        """
        ...

    def beginning(self, text: str, *, limit: int) -> Sequence[RunRecord]:
        """Return runs whose id begins so, by id. One that cannot be read is left out, and named in the log."""
        ...

    def by_key(self, idempotency_key: str) -> RunRecord | None:
        """Return the run that an idempotency key made."""
        ...

    def latest(self, dag_id: str) -> RunRecord | None:
        """Return the run of a DAG that was accepted last, whatever the clock said then."""
        ...

    def page(self, where: RunFilter, *, limit: int, cursor: str | None = None) -> Page[RunRecord]:
        """Return runs, those first that were accepted last. One that cannot be read is left out, and named in the log.

        Raises:
            UsageError: *cursor* is none that this method returned.
        """
        ...

    def unfinished_counts(self) -> Mapping[RunState, int]:
        """Return how many runs are in each state that is not final; reads an index of those alone."""
        ...

    def heads(self, run_ids: Sequence[str]) -> Mapping[str, RunHead]:
        """Return what says whether runs have changed or are over, for those that are there; no more of them is read."""
        ...

    def unfinished_elsewhere(self, worker_id: str, target_node: str) -> RunRecord | None:
        """Return a run, not final, that asks for the worker on another target node by name.

        Check, then insert: no such run may come before the commit (the worker's id is what to lock).
        """
        ...

    def children(self, parent_run_id: str) -> Sequence[RunRecord]:
        """Return the runs of a run's DAG tasks, by id."""
        ...

    def change(self, run: RunRecord, change: RunChange) -> RunRecord:
        """Apply *change* to the run as it was read, and return it as it is now.

        The end of a child puts its parent back into the queue, if it is parked. A parent that is about to be parked
        sees the end in that very transaction, or waits for this one (``queue.move``).

        Raises:
            StaleVersionError: the run is past the version of *run*; nothing was changed.
            IllegalStateError: the model has no such arrow.
        """
        ...

    def set_aside(self, run_id: str, *, error: str, now_us: int, status: RunState = RunState.FAILED) -> bool:
        """End a run without reading its rows, which perhaps cannot be read; return False if it was final already.

        Its unfinished tasks become cancelled, each with its event, running attempts lost, and it leaves the queue
        either way.
        """
        ...


class Tasks(Protocol):
    """The tasks of runs."""

    def of_run(self, run_id: str, *, outputs: bool = True) -> Sequence[TaskRecord]:
        """Return a run's tasks in the order of the document, all or none; without *outputs* these are left out.

        Raises:
            PoisonRecordError: one of them cannot be read.
        """
        ...

    def page(self, run_id: str, task_no: int, *, limit: int, max_bytes: int) -> Sequence[TaskRecord]:
        """Return the tasks after one by number: at most *limit*, and none after *max_bytes* of outputs and errors."""
        ...

    def any_running(self, run_id: str) -> bool:
        """Whether a task of a run has started and not ended."""
        ...

    def get(self, run_id: str, task_id: str) -> TaskRecord | None:
        """Return one task of a run."""
        ...

    def outputs(self, run_id: str) -> Sequence[Mapping[str, Json]]:
        """Return the outputs of a run's tasks, of those that have some, in the order in which they ended."""
        ...

    def outputs_size(self, run_id: str) -> int:
        """Return how many bytes the outputs of a run's tasks take as they are stored; never fewer than they have."""
        ...

    def cancel_unfinished(self, run_id: str, *, now_us: int) -> None:
        """Make every task of a run that is not over cancelled, and every attempt of it that has no end lost.

        Each of those tasks gets its event. However many they are, none of them is read: the store does it in a
        statement for the rows and one for the events.
        """
        ...

    def add(self, tasks: Sequence[TaskRecord]) -> None:
        """Store tasks, one at least, that a run gets while it goes on, and count them in the row of the run.

        Its version stays: whoever holds the run is who adds to it.
        """
        ...

    def ask_to_cancel(self, run_id: str, task_no: int) -> bool:
        """Note that a task is to be cancelled, and not its run; return False if it is over. Its version stays."""
        ...

    def asked_to_cancel(self, run_id: str) -> Sequence[int]:
        """Return the numbers of the tasks that are to be cancelled and are not over, in order."""
        ...

    def change(self, old_and_new: Iterable[tuple[TaskRecord, TaskRecord]]) -> None:
        """Replace tasks as they were read by what they become; the ``version`` of each grows by one.

        Raises:
            StaleVersionError: one of them is past the version of its old record; the transaction must not go on.
            IllegalStateError: the model has no such arrow.
        """
        ...

    def mirror(self, tasks: Iterable[TaskRecord]) -> Sequence[TaskRecord]:
        """Take over tasks of another node, each whose version is above the stored one; return those.

        The node that executes them checked the arrows; one that is over here stays as it is.
        """
        ...


class Staged(Protocol):
    """Tasks that are stored before their run is; nothing of them is shown anywhere until it comes.

    Their rows name a run that is not there. An adapter that cannot leave its constraints out for ``add`` alone keeps
    them in a table of their own, and moves them in the transaction that stores the run (``Runs.add``).
    """

    def add(self, tasks: Sequence[TaskRecord]) -> None:
        """Store tasks of one run that is not there yet, in a transaction of their own.

        Raises:
            StoreRefusedError: the run is there.
        """
        ...

    def complete(self, run_id: str, *, tasks: int) -> bool:
        """Whether so many tasks are stored under a run's id. They come and go in order: the first and the last tell."""
        ...

    def runs(self, *, after: str, before: str, limit: int) -> Sequence[str]:
        """Return ids between two others under which tasks are stored, but no run."""
        ...

    def drop(self, run_id: str, *, at_most: int) -> bool:
        """Delete some tasks that have no run; return whether there were any. Those of a run that is there stay."""
        ...


class Attempts(Protocol):
    """Attempts at tasks, what they lost, and what they left running."""

    def start(self, attempts: Iterable[AttemptRecord]) -> None:
        """Store attempts that are about to start; this is on disk before their processes exist."""
        ...

    def drop(self, attempts: Iterable[AttemptRecord]) -> None:
        """Delete attempts that never became a process, as if they had not been tried; those that run in the store."""
        ...

    def set_pids(self, attempts: Iterable[AttemptRecord]) -> None:
        """Store ``pid`` and ``pid_started`` of running attempts."""
        ...

    def finish(self, attempts: Iterable[AttemptRecord], *, left: Iterable[LeftProcess] = ()) -> None:
        """Store the ends of attempts that are running in the store, and the processes that they *left* running.

        Raises:
            StaleVersionError: one of them is not running there; the transaction must not go on.
        """
        ...

    def get(self, run_id: str, task_no: int, attempt: int) -> AttemptRecord | None:
        """Return one attempt; None also when its row cannot be read."""
        ...

    def page(self, run_id: str, task_no: int, attempt: int, *, limit: int) -> Sequence[AttemptRecord]:
        """Return the attempts of a run that follow one by their task's number, then their own: at most *limit*."""
        ...

    def places(
        self,
        run_id: str,
        *,
        task_id: str | None = None,
        attempt: int | None = None,
        after: AttemptPlace | None = None,
        limit: int,
    ) -> Sequence[AttemptPlace]:
        """Return where a run's attempts come, by start time, then task number, then attempt.

        Those of a task come in their order, whatever the clock said: those that follow one, at most *limit*.
        """
        ...

    def any_stray(self, run_id: str) -> bool:
        """Whether there is an attempt that none of the run's tasks has made: its number may be wanted by the next."""
        ...

    def running(self, worker_id: str) -> Sequence[AttemptRecord]:
        """Return the attempts of one worker id that have no end, in runs that are not over."""
        ...

    def mirror(self, attempts: Iterable[AttemptRecord]) -> Sequence[AttemptRecord]:
        """Take over new attempts, and what changed of running ones; return those that changed anything."""
        ...

    def add_losses(self, losses: Iterable[TaskLoss]) -> None:
        """Count losses to those that are stored of the same tasks; ``alone_us`` takes the place of the old one."""
        ...

    def losses(self, run_id: str) -> Sequence[TaskLoss]:
        """Return the losses of a run's tasks; a task that has none is not in it."""
        ...

    def forget_losses(self, run_id: str, task_nos: Iterable[int]) -> None:
        """Forget the losses of tasks that have ended by themselves."""
        ...

    def left(self, run_id: str) -> Sequence[LeftProcess]:
        """Return what the tasks of a run left running when they ended, in their order, whether or not it still runs."""
        ...
