"""What ``cis dag run --quiet`` says of a run that did not complete: why, and the last lines of the tasks that failed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cis.cli.context import say

if TYPE_CHECKING:
    from cis.store.port import Store
    from cis.store.records import RunRecord, TaskRecord

MAX_TASKS = 10
MAX_LINES = 20


def tell_failure(store: Store, run: RunRecord) -> None:
    """Say why a run did not complete, and what its failed tasks wrote last: short enough for a mail."""
    say(f"{run.dag_id} {run.status}" + (f": {run.error}" if run.error else ""))
    failed = [task for task in store.tasks.of_run(run.run_id, outputs=False) if task.is_failure]
    for task in failed[:MAX_TASKS]:
        say(f"==> {task.task_id}: {task.error or 'failed'} <==")
        for line in _last_lines(store, task):
            say(line)
    if len(failed) > MAX_TASKS:
        say(f"and {len(failed) - MAX_TASKS} more tasks failed")
    say(f"look: cis dag logs {run.dag_id} --run {run.run_id}")


def _last_lines(store: Store, task: TaskRecord) -> Iterator[str]:
    last = store.attempts.get(task.run_id, task.task_no, task.attempts)
    if last is not None:
        for tail in (last.stdout_tail, last.stderr_tail):
            yield from tail.splitlines()[-MAX_LINES:]
