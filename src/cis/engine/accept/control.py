"""Control of a run: cancel, pause, resume. Each runs inside the caller's transaction.

A run that no worker holds is changed here for good. One that a worker holds is asked: ``cancel_requested``
or the status ``paused`` is on disk, and the worker, once woken, acts on it (``cis.engine.run.loop``). One that another
node executes is asked through the outbox, and changes here when that node says that it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cis.engine.accept.dispatch import close_offer, post_control
from cis.engine.lookup import look_up_run
from cis.engine.transitions import cancel_unfinished, move_run
from cis.errors import IllegalStateError, NotFoundError, OverloadedError
from cis.model.dag import HANDLER
from cis.model.handlers import NAMES
from cis.model.message import MessageKind
from cis.model.states import RunState, TaskState
from cis.store.cluster import RemoteRole, RemoteRun
from cis.store.cluster_port import Remotes
from cis.store.port import Store
from cis.store.records import QueueState, RunChange, RunRecord
from cis.store.run_port import Tasks

MAX_ASKED = 1000  # tasks of one run that are to be cancelled by themselves
_FOR_ITS_WORKER = (QueueState.QUEUED, QueueState.PARKED)  # of a run that has begun and has handlers


def cancel(store: Store, run_id: str, *, now_us: int, again: bool = False) -> RunRecord:
    """End a run: at once if no worker holds it, else as soon as its worker has ended the tasks; then its handlers run.

    One that is over but for its handlers ends these, and stays what it is. *again*: so does one that was cancelled before.

    Raises:
        NotFoundError: no such run.
        IllegalStateError: the run is over.
    """
    run = look_up_run(store.runs, run_id)
    if run.status.final:
        raise _is_over(run, RunState.CANCELLED, "cancel")
    remote = elsewhere(store.remotes, run_id)
    if remote is not None and not _recalled(store, remote, now_us=now_us):
        if again or not run.cancel_requested:
            post_control(store, run, "cancel", now_us=now_us)
        return _ask_to_cancel(store, run, now_us=now_us, again=False)
    item = store.queue.get(run_id)
    if item is not None and item.status is QueueState.CLAIMED:
        return _ask_to_cancel(store, run, now_us=now_us, again=again)
    if item is not None and run.handled and run.started_at_us is not None and item.status in _FOR_ITS_WORKER:
        store.queue.move(run_id, QueueState.QUEUED, only=QueueState.PARKED)
        return _ask_to_cancel(store, run, now_us=now_us, again=again)
    return end_cancelled(store, run, now_us=now_us)


def cancel_task(store: Store, run_id: str, task_id: str, *, now_us: int) -> RunRecord:
    """End one task of a run, an instance alone or all of them; it counts as failed for what follows, and for the run.

    Raises:
        NotFoundError: no such run, or no such task in it.
        IllegalStateError: the run, or the task, is over.
    """
    run = look_up_run(store.runs, run_id)
    task = store.tasks.get(run_id, task_id)
    if task is None:
        raise NotFoundError("task", task_id, hint=f"in run {run_id}; 'cis dag status {run_id}' shows its tasks")
    if run.status.final:
        raise _is_over(run, RunState.CANCELLED, "cancel")
    if len(store.tasks.asked_to_cancel(run_id)) >= MAX_ASKED:
        what = f"{MAX_ASKED:,} tasks of run {run_id} are to be cancelled already; wait, or cancel the run"
        raise OverloadedError(what, retry_after_s=5)
    if not store.tasks.ask_to_cancel(run_id, task.task_no):
        because = " already, so there is nothing to cancel"
        raise IllegalStateError(f"task {task_id}", task.status, TaskState.CANCELLED, because=because)
    if elsewhere(store.remotes, run_id) is not None:
        post_control(store, run, None, now_us=now_us)
        return run
    return _look_again(store, run, now_us=now_us)


def cancel_tasks(store: Store, run_id: str, numbers: Sequence[int], *, now_us: int) -> RunRecord:
    """End tasks of a run as its origin asks; those that are over, or not there, are passed over.

    Raises:
        NotFoundError: no such run.
    """
    run = look_up_run(store.runs, run_id)
    asked = [number for number in numbers if store.tasks.ask_to_cancel(run_id, number)]
    return _look_again(store, run, now_us=now_us) if asked and not run.status.final else run


def _look_again(store: Store, run: RunRecord, *, now_us: int) -> RunRecord:
    """Have whoever holds a run look at its rows again, or somebody take it."""
    store.queue.move(run.run_id, QueueState.QUEUED, only=QueueState.PARKED)
    return move_run(store, run, RunChange(), at_us=now_us)


def _ask_to_cancel(store: Store, run: RunRecord, *, now_us: int, again: bool) -> RunRecord:
    handlers_too = None
    if run.handled and not run.cancelled_again and (again or not run.cancel_requested):
        handlers_too = any_handler(store.tasks, run.run_id) or None
    if run.cancel_requested and not handlers_too:
        return run
    return move_run(store, run, RunChange(cancel_requested=True, cancelled_again=handlers_too), at_us=now_us)


def any_handler(tasks: Tasks, run_id: str) -> bool:
    """Whether the handlers of a run have begun."""
    return any(tasks.get(run_id, HANDLER + name) is not None for name in NAMES)


def elsewhere(remotes: Remotes, run_id: str) -> RemoteRun | None:
    """Return the other node's part in a run that is not over and that this node has handed over."""
    remote = remotes.get(run_id)
    return remote if remote is not None and remote.open and remote.role is not RemoteRole.RECEIVED else None


def _has_it(remotes: Remotes, run_id: str) -> bool:
    """Whether another node has a run; one that is only on offer changes here, and is granted as it is then."""
    remote = elsewhere(remotes, run_id)
    return remote is not None and remote.role is RemoteRole.SENT


def _recalled(store: Store, remote: RemoteRun, *, now_us: int) -> bool:
    """Take a run back that nobody can have taken on: it arrived nowhere, or is only offered. Return whether it was."""
    sendings = [item for item in store.outbox.of_run(remote.run_id) if item.kind == MessageKind.EXECUTE]
    never_came = bool(sendings) and not any(item.uncertain for item in sendings) and remote.event_id is None
    if remote.role is not RemoteRole.OFFERED and not never_came:
        return False
    store.outbox.remove_of_run(remote.run_id, MessageKind.EXECUTE)
    close_offer(store, look_up_run(store.runs, remote.run_id), remote, now_us=now_us)
    store.remotes.put(replace(remote, open=False))
    return True


def end_cancelled(store: Store, run: RunRecord, *, now_us: int) -> RunRecord:
    """Make a run that has no process left, and each of its unfinished tasks, cancelled; and so its child runs."""
    # A worker that died left attempts; their processes were ended before the run went back into the queue.
    cancel_unfinished(store.tasks, run.run_id, at_us=now_us)
    finished_at_us = max(now_us, run.started_at_us or 0)
    change = RunChange(status=RunState.CANCELLED, finished_at_us=finished_at_us, cancel_requested=True)
    ended = move_run(store, run, change, at_us=now_us)
    store.queue.remove(run.run_id)
    cancel_children(store, run.run_id, now_us=now_us)
    return ended


def cancel_children(store: Store, run_id: str, *, now_us: int, again: bool = False) -> None:
    """Cancel what runs as a task of this run; *again* as for ``cancel``."""
    for child in store.runs.children(run_id):
        if not child.status.final:
            cancel(store, child.run_id, now_us=now_us, again=again)


def pause(store: Store, run_id: str, *, now_us: int) -> RunRecord:
    """Start nothing new of a run, nor of the runs below it; tasks that run now go on to their end. Harmless when repeated.

    Raises:
        NotFoundError, IllegalStateError: as for ``cancel``.
    """
    run = look_up_run(store.runs, run_id)
    if run.status is RunState.PAUSED:
        return run
    changed = _change(store, run, RunState.PAUSED, now_us=now_us, action="pause")
    for child in _below(store, run):
        pause(store, child.run_id, now_us=now_us)
    return changed


def resume(store: Store, run_id: str, *, now_us: int) -> RunRecord:
    """Let a paused run go on, with what is paused below it. Harmless for a run that is not paused and not over.

    Raises:
        NotFoundError, IllegalStateError: as for ``cancel``.
    """
    run = look_up_run(store.runs, run_id)
    if store.restores.settle(run_id):  # whoever asks for it knows, or does not mind, what became of it
        for child in store.runs.children(run_id):
            if child.status is RunState.PAUSED and store.restores.doubts(child.run_id):
                resume(store, child.run_id, now_us=now_us)
    if run.status in (RunState.PENDING, RunState.RUNNING) and not _has_it(store.remotes, run_id):
        return run
    target = RunState.PENDING if run.started_at_us is None else RunState.RUNNING
    changed = _change(store, run, target, now_us=now_us, action="resume")
    for child in _below(store, run):
        resume(store, child.run_id, now_us=now_us)
    return changed


def _below(store: Store, run: RunRecord) -> list[RunRecord]:
    """Return the runs of a run's DAG tasks that are not over; another node minds those of a run that it has."""
    if _has_it(store.remotes, run.run_id):
        return []
    return [child for child in store.runs.children(run.run_id) if not child.status.final]


def _is_over(run: RunRecord, wanted: RunState, action: str) -> IllegalStateError:
    because = f" already, so there is nothing to {action}; 'cis dag rerun' makes a new run of it"
    return IllegalStateError(f"run {run.run_id}", run.status, wanted, because=because)


def _change(store: Store, run: RunRecord, status: RunState, *, now_us: int, action: str) -> RunRecord:
    if _has_it(store.remotes, run.run_id):
        if run.status.final:
            raise _is_over(run, status, action)
        post_control(store, run, action, now_us=now_us)
        return run
    if run.status.final:
        raise _is_over(run, status, action)
    changed = move_run(store, run, RunChange(status=status), at_us=now_us)
    if run.status is RunState.PAUSED:
        store.queue.move(run.run_id, QueueState.QUEUED, only=QueueState.PARKED)
    return changed
