"""Control of a run: cancel, pause, resume, rerun. Each runs inside the caller's transaction.

A run that no worker holds is changed here for good. One that a worker holds is asked: ``cancel_requested``
or the status ``paused`` is on disk, and the worker, once woken, acts on it (``cis.engine.loop``).
"""

from __future__ import annotations

from dataclasses import replace

from cis.engine.existing import existing_run
from cis.engine.notices import run_event
from cis.engine.site import Site
from cis.engine.submit import SubmitRequest, submit
from cis.errors import IllegalStateError
from cis.model.states import AttemptState, RunState, TaskState
from cis.store.port import Store, stored_spec
from cis.store.records import QueueState, RunChange, RunRecord


def cancel(store: Store, run_id: str, *, now_us: int) -> RunRecord:
    """End a run: at once if no worker holds it, else as soon as its worker has ended the tasks.

    Raises:
        NotFoundError: no such run.
        IllegalStateError: the run is over.
    """
    run = existing_run(store, run_id)
    if run.status.final:
        raise IllegalStateError(f"run {run_id}", run.status, RunState.CANCELLED)
    item = store.queue_item(run_id)
    if item is not None and item.status is QueueState.CLAIMED:
        return run if run.cancel_requested else store.change_run(run, RunChange(cancel_requested=True))
    return end_cancelled(store, run, now_us=now_us)


def end_cancelled(store: Store, run: RunRecord, *, now_us: int) -> RunRecord:
    """Make a run that has no process left, and each of its unfinished tasks, cancelled; and so its child runs."""
    unfinished = [task for task in store.tasks(run.run_id) if not task.status.final]
    store.change_tasks(
        (task, replace(task, status=TaskState.CANCELLED, finished_at_us=now_us, retry_at_us=None))
        for task in unfinished
    )
    # A worker that died left these; their processes were ended before the run went back into the queue.
    store.finish_attempts(
        replace(attempt, status=AttemptState.LOST, finished_at_us=max(now_us, attempt.started_at_us))
        for attempt in store.attempts(run.run_id)
        if attempt.status is AttemptState.RUNNING
    )
    ended = store.change_run(run, RunChange(status=RunState.CANCELLED, finished_at_us=now_us, cancel_requested=True))
    store.dequeue(run.run_id)
    store.append_events([run_event(ended, at_us=now_us)])
    cancel_children(store, run.run_id, now_us=now_us)
    return ended


def cancel_children(store: Store, run_id: str, *, now_us: int) -> None:
    """Cancel what runs as a task of this run."""
    for child in store.child_runs(run_id):
        if not child.status.final:
            cancel(store, child.run_id, now_us=now_us)


def pause(store: Store, run_id: str, *, now_us: int) -> RunRecord:
    """Start nothing new of a run; tasks that run now go on to their end. Harmless when repeated.

    Raises:
        NotFoundError, IllegalStateError: as for ``cancel``.
    """
    run = existing_run(store, run_id)
    if run.status is RunState.PAUSED:
        return run
    return _change(store, run, RunState.PAUSED, now_us=now_us)


def resume(store: Store, run_id: str, *, now_us: int) -> RunRecord:
    """Let a paused run go on. Harmless for a run that is not paused and not over.

    Raises:
        NotFoundError, IllegalStateError: as for ``cancel``.
    """
    run = existing_run(store, run_id)
    if run.status in (RunState.PENDING, RunState.RUNNING):
        return run
    target = RunState.PENDING if run.started_at_us is None else RunState.RUNNING
    return _change(store, run, target, now_us=now_us)


def rerun(store: Store, run_id: str, *, from_failed: bool, site: Site) -> RunRecord:
    """Start a new run of the same document; with *from_failed*, completed tasks are taken over as they are.

    Raises:
        NotFoundError: no such run.
        IllegalStateError: *from_failed*, and the run is not over yet, or nothing of it is left to do.
    """
    old = existing_run(store, run_id)
    kept = {}
    if from_failed:
        if not old.status.final:
            raise IllegalStateError(f"run {run_id}", old.status, "rerun from its failed tasks before it is over")
        if old.status is RunState.COMPLETED:
            raise IllegalStateError(f"run {run_id}", old.status, "rerun from failed tasks: none failed")
        kept = {task.task_id: task for task in store.tasks(run_id) if task.status is TaskState.COMPLETED}
        if len(kept) == old.task_count:
            raise IllegalStateError(f"run {run_id}", old.status, "rerun from failed tasks: every task completed")
    request = SubmitRequest(spec=stored_spec(store, old.definition_id), rerun_of=run_id, kept=kept)
    return submit(store, request, site=site).run


def _change(store: Store, run: RunRecord, status: RunState, *, now_us: int) -> RunRecord:
    changed = store.change_run(run, RunChange(status=status))
    store.append_events([run_event(changed, at_us=now_us)])
    return changed
