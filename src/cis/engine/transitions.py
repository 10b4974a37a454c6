"""The one place that moves a run or a task: its row, under its version, and the event that tells of it, together.

Whoever watches a run learns of it by its events alone (``--follow``, the streams, the origin of a run, the room), so a
row that changed without one would be a change that nobody saw. Every function here runs inside the caller's
transaction, and writes exactly one event for each version of a row. No other module calls the methods of the store that
are called here.

What is done to thousands of tasks at once (``cancel_unfinished``, ``set_aside``) the store does in one statement for
the rows and one for their events; none of them is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from cis.errors import PoisonRecordError
from cis.model.dag import Json
from cis.model.states import Outcome, RunState
from cis.store.port import Store
from cis.store.records import EventRecord, RunChange, RunRecord, TaskRecord
from cis.store.run_port import Tasks


def insert_run(
    store: Store,
    run: RunRecord,
    tasks: Iterable[TaskRecord],
    *,
    at_us: int,
    params: Mapping[str, Json] | None = None,
) -> None:
    """Store a new run with its tasks (none when they are stored already) and its parameters, and tell of it."""
    store.runs.add(run, tasks, params=params)
    store.events.append([_run_event(run, at_us=at_us)])


def move_run(store: Store, run: RunRecord, change: RunChange, *, at_us: int) -> RunRecord:
    """Change a run as it was read, and return it as it is now.

    Raises:
        StaleVersionError: it was changed since.
        IllegalStateError: no arrow leads there.
    """
    moved = store.runs.change(run, change)
    store.events.append([_run_event(moved, at_us=at_us)])
    return moved


def add_tasks(store: Store, run: RunRecord, tasks: Sequence[TaskRecord], *, at_us: int) -> None:
    """Store tasks that a run gets while it goes on, and tell of each."""
    store.tasks.add(tasks)
    store.events.append([_task_event(run, task, at_us=at_us) for task in tasks])


def move_tasks(store: Store, run: RunRecord, changes: Sequence[tuple[TaskRecord, TaskRecord]], *, at_us: int) -> None:
    """Replace tasks of a run, as they were read, by what they become. Raises as ``move_run`` does."""
    store.tasks.change(changes)
    store.events.append([_task_event(run, new, at_us=at_us) for _, new in changes])


def cancel_unfinished(tasks: Tasks, run_id: str, *, at_us: int) -> None:
    """Make every task of a run that is not over cancelled, and every attempt of it that has no end lost."""
    tasks.cancel_unfinished(run_id, now_us=at_us)


def set_aside(
    store: Store, run_id: str, *, error: str, at_us: int, worker_id: str | None, status: RunState = RunState.FAILED
) -> bool:
    """End a run whose rows perhaps cannot be read, as ``runs.set_aside`` does; return False if it was over already.

    *worker_id* is told of a run that cannot be read.
    """
    if not store.runs.set_aside(run_id, error=error, now_us=at_us, status=status):
        return False
    try:
        run = store.runs.get(run_id)
    except PoisonRecordError:
        run = None
    if run is None:
        event = EventRecord(kind="run", at_us=at_us, status=str(status), run_id=run_id, worker_id=worker_id)
    else:
        event = _run_event(run, at_us=at_us)
    store.events.append([event])
    return True


def mirror(
    store: Store,
    run: RunRecord,
    tasks: Iterable[TaskRecord],
    steps: Callable[[], Sequence[RunChange]],
    *,
    at_us: int,
) -> tuple[RunRecord, Sequence[TaskRecord]]:
    """Take over what another node tells of *tasks*, then of their run.

    Return the run as it is now, and the tasks that changed. *steps* is asked for the changes of the run once the tasks
    are stored. Listeners hear of its end last.
    """
    changed = store.tasks.mirror(tasks)
    before: list[EventRecord] = []
    after: list[EventRecord] = []
    for change in steps():
        run = store.runs.change(run, change)
        (after if run.status.final else before).append(_run_event(run, at_us=at_us))
    store.events.append([*before, *(_task_event(run, task, at_us=at_us) for task in changed), *after])
    return run, changed


def _run_event(run: RunRecord, *, at_us: int) -> EventRecord:
    """Return the event that tells of a run's present state, and of a cancel that it is still to follow."""
    data: dict[str, int | None] = {"version": run.version}
    if run.cancel_requested and not run.status.final:
        data["cancel_requested"] = 1
    return EventRecord(
        kind="run",
        at_us=at_us,
        status=str(run.status),
        run_id=run.run_id,
        dag_id=run.dag_id,
        worker_id=run.worker_id,
        data=data,
    )


def _task_event(run: RunRecord, task: TaskRecord, *, at_us: int) -> EventRecord:
    data = {"attempt": task.attempts, "exit_code": task.exit_code}
    return EventRecord(
        kind="task",
        at_us=at_us,
        status=str(task.status),
        run_id=run.run_id,
        dag_id=run.dag_id,
        task_id=task.task_id,
        worker_id=run.worker_id,
        data={**data, "allowed": 1} if task.outcome is Outcome.ALLOWED else data,
    )
