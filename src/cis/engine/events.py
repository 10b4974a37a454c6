"""The events that tell of changes of state, to whoever listens."""

from __future__ import annotations

from collections.abc import Iterable

from cis.store.records import EventRecord, RunRecord, TaskRecord


def run_event(run: RunRecord, *, at_us: int) -> EventRecord:
    """Return the event that tells of a run's present state."""
    return EventRecord(
        kind="run",
        at_us=at_us,
        status=str(run.status),
        run_id=run.run_id,
        dag_id=run.dag_id,
        worker_id=run.worker_id,
        data={"version": run.version},
    )


def task_events(run: RunRecord, changes: Iterable[tuple[TaskRecord, TaskRecord]], *, at_us: int) -> list[EventRecord]:
    """Return an event for each change of a task of *run*."""
    return [
        EventRecord(
            kind="task",
            at_us=at_us,
            status=str(new.status),
            run_id=run.run_id,
            dag_id=run.dag_id,
            task_id=new.task_id,
            worker_id=run.worker_id,
            data={"attempt": new.attempts, "exit_code": new.exit_code},
        )
        for _, new in changes
    ]
