"""Tasks and attempts: the tables ``run_tasks`` and ``task_executions``. The hot path is here.

Beside them: tasks that are stored before their run is (``cis.engine.accept.staging``), processes that tasks were
allowed to leave running (``left_processes``), and tasks that lost their worker (``task_losses``). The last two tables
are empty as a rule.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from cis.errors import StaleVersionError, StoreRefusedError
from cis.model.states import check_task_arrow
from cis.store.records import TaskRecord
from cis.store.sql.rows import TASK, outputs_of, places_of, read, task_of

if TYPE_CHECKING:
    from cis.model.dag import Json
    from cis.store.sql.database import Database

INSERT_TASK = f"INSERT INTO run_tasks ({TASK}) VALUES ({places_of(TASK)})"  # noqa: S608 - constants
_TASKS = f"SELECT {TASK} FROM run_tasks WHERE run_id = ? ORDER BY task_no"  # noqa: S608 - constants
_BARE_TASKS = _TASKS.replace(" outputs,", " NULL,")
_TASKS_AFTER = (
    f"SELECT {TASK} FROM run_tasks WHERE run_id = ?1 AND task_no > ?2 AND task_no <= (SELECT max(task_no) FROM"  # noqa: S608
    " (SELECT task_no, sum(size) OVER (ORDER BY task_no ROWS UNBOUNDED PRECEDING) - size AS before FROM"
    " (SELECT task_no, coalesce(octet_length(outputs), 0) + coalesce(octet_length(error), 0) AS size"
    " FROM run_tasks WHERE run_id = ?1 AND task_no > ?2 ORDER BY task_no LIMIT ?3) AS sizes) AS sums WHERE before < ?4)"
    " ORDER BY task_no"
)
_TASK = f"SELECT {TASK} FROM run_tasks WHERE run_id = ? AND task_id = ?"  # noqa: S608 - constants
_ANY_RUNNING = "SELECT 1 FROM run_tasks WHERE run_id = ? AND status = 'running' LIMIT 1"
_OUTPUTS = (
    "SELECT run_id, outputs FROM run_tasks WHERE run_id = ? AND outputs IS NOT NULL ORDER BY finished_at_us, task_no"
)
_OUTPUTS_SIZE = "SELECT sum(octet_length(outputs)) FROM run_tasks WHERE run_id = ?"
_CHANGE = (
    "UPDATE run_tasks SET version = version + 1, status = ?, attempts = ?, failures = ?, exit_code = ?,"
    " started_at_us = ?, finished_at_us = ?, outputs = ?, error = ?, blocked_by = ?, retry_at_us = ?,"
    " child_run_id = ?, outcome = ? WHERE run_id = ? AND task_no = ? AND version = ?"
)
_CANCEL = (
    "UPDATE run_tasks SET version = version + 1, status = 'cancelled',"
    " finished_at_us = max(?, coalesce(started_at_us, 0)), retry_at_us = NULL"
    " WHERE run_id = ? AND status NOT IN ('completed', 'failed', 'skipped', 'cancelled')"
)
# What cannot be read is told by the event of the run alone.
TELL_CANCELLED = (
    "INSERT INTO events (at_us, kind, status, run_id, dag_id, task_id, worker_id, data)"
    " SELECT ?1, 'task', 'cancelled', t.run_id, r.dag_id, t.task_id, r.worker_id,"
    " json_object('attempt', t.attempts, 'exit_code', t.exit_code)"
    " FROM dag_runs AS r JOIN run_tasks AS t ON t.run_id = r.run_id WHERE r.run_id = ?2"
    " AND t.status NOT IN ('completed', 'failed', 'skipped', 'cancelled')"
    " AND t.task_id || r.dag_id || r.worker_id NOT GLOB '*[^ -~]*' ORDER BY t.task_no"
)
_FINAL = "('completed', 'failed', 'skipped', 'cancelled')"
_ASK_TO_CANCEL = (
    f"UPDATE run_tasks SET cancel_requested = 1 WHERE run_id = ? AND task_no = ? AND status NOT IN {_FINAL}"  # noqa: S608
)
_ASKED_TO_CANCEL = f"SELECT task_no FROM run_tasks WHERE run_id = ? AND cancel_requested = 1 AND status NOT IN {_FINAL} ORDER BY task_no"  # noqa: S608
_GROW = "UPDATE dag_runs SET task_count = task_count + ? WHERE run_id = ?"
_LOSE = (
    "UPDATE task_executions SET status = 'lost', finished_at_us = max(?, started_at_us)"
    " WHERE run_id = ? AND status = 'running'"
)
_MIRROR_TASK = (
    "UPDATE run_tasks SET version = ?1, status = ?, attempts = ?, failures = ?, exit_code = ?, started_at_us = ?,"
    " finished_at_us = ?, outputs = ?, error = ?, blocked_by = ?, retry_at_us = ?, child_run_id = ?, outcome = ?"
    " WHERE run_id = ? AND task_no = ? AND version < ?1"
    " AND status NOT IN ('completed', 'failed', 'skipped', 'cancelled')"
)


class TaskRows:
    """The tasks' and attempts' part of the store."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def of_run(self, run_id: str, *, outputs: bool = True) -> Sequence[TaskRecord]:
        """Return a run's tasks in the order of the document; without *outputs* these are left out."""
        rows = self._db.all_rows(f"a task of run {run_id}", _TASKS if outputs else _BARE_TASKS, (run_id,))
        return [read("task of run", task_of, row) for row in rows]

    def page(self, run_id: str, task_no: int, *, limit: int, max_bytes: int) -> Sequence[TaskRecord]:
        """Return the tasks that follow one: at most *limit*, and none after *max_bytes* of outputs and errors."""
        rows = self._db.all_rows(f"a task of run {run_id}", _TASKS_AFTER, (run_id, task_no, limit, max_bytes))
        return [read("task of run", task_of, row) for row in rows]

    def get(self, run_id: str, task_id: str) -> TaskRecord | None:
        """Return one task of a run."""
        row = self._db.row(_TASK, (run_id, task_id))
        return None if row is None else read("task", task_of, row)

    def any_running(self, run_id: str) -> bool:
        """Whether a task of a run has started and not ended."""
        return self._db.row(_ANY_RUNNING, (run_id,)) is not None

    def outputs(self, run_id: str) -> Sequence[Mapping[str, Json]]:
        """Return the outputs of a run's tasks, of those that have some, in the order in which they ended."""
        rows = self._db.all_rows(f"a task of run {run_id}", _OUTPUTS, (run_id,))
        return [read("outputs of a task of run", outputs_of, row) for row in rows]

    def outputs_size(self, run_id: str) -> int:
        """Return how many bytes the outputs of a run's tasks take in the database; never fewer than they have."""
        row = self._db.row(_OUTPUTS_SIZE, (run_id,))
        return int(row[0] or 0) if row else 0

    def cancel_unfinished(self, run_id: str, *, now_us: int) -> None:
        """Make every unfinished task of a run cancelled, with its event, and every attempt without an end lost."""
        self._db.write(TELL_CANCELLED, (now_us, run_id))
        self._db.write(_CANCEL, (now_us, run_id))
        self._db.write(_LOSE, (now_us, run_id))

    def add(self, tasks: Sequence[TaskRecord]) -> None:
        """Store tasks that a run gets while it goes on, and count them."""
        self._db.write_many(INSERT_TASK, map(task_values, tasks))
        self._db.write(_GROW, (len(tasks), tasks[0].run_id))

    def ask_to_cancel(self, run_id: str, task_no: int) -> bool:
        """Note that a task is to be cancelled; return False if it is over."""
        return self._db.write(_ASK_TO_CANCEL, (run_id, task_no)) == 1

    def asked_to_cancel(self, run_id: str) -> Sequence[int]:
        """Return the numbers of the tasks that are to be cancelled and are not over."""
        return [number for (number,) in self._db.rows(_ASKED_TO_CANCEL, (run_id,))]

    def change(self, old_and_new: Iterable[tuple[TaskRecord, TaskRecord]]) -> None:
        """Replace tasks as they were read by what they become."""
        changes = list(old_and_new)
        for old, new in changes:
            if new.status is not old.status:
                check_task_arrow(old.task_id, old.status, new.status)
        rows = [(*changing_values(new), old.run_id, old.task_no, old.version) for old, new in changes]
        if self._db.write_many(_CHANGE, rows) != len(changes):
            first = changes[0][0]
            what = f"task {first.task_id}" if len(changes) == 1 else "a task"
            raise StaleVersionError(f"{what} of run {first.run_id}", first.version)

    def mirror(self, tasks: Iterable[TaskRecord]) -> Sequence[TaskRecord]:
        """Take over tasks whose version is above the stored one; return those."""
        return [
            task
            for task in tasks
            if self._db.write(_MIRROR_TASK, (task.version, *changing_values(task), task.run_id, task.task_no)) == 1
        ]


def changing_values(task: TaskRecord) -> tuple[object, ...]:
    """Return what of a task changes while its run goes on, in the order in which updates set it."""
    return (
        task.status,
        task.attempts,
        task.failures,
        task.exit_code,
        task.started_at_us,
        task.finished_at_us,
        json.dumps(dict(task.outputs)) if task.outputs else None,
        task.error,
        task.blocked_by,
        task.due_at_us,
        task.child_run_id,
        task.outcome,
    )


def task_values(task: TaskRecord) -> tuple[object, ...]:
    """Return a task's values in the order of TASK."""
    status, *rest = changing_values(task)
    return (
        task.run_id,
        task.task_no,
        task.task_id,
        status,
        task.version,
        *rest,
        task.part_of,
        task.given,
        int(task.cancel_requested),
    )


_IS_RUN = "SELECT 1 FROM dag_runs WHERE run_id = ?"
# From one id to the next by the key, past the tasks between them.
_STAGED = (
    "WITH RECURSIVE ids (run_id) AS (SELECT min(run_id) FROM run_tasks WHERE run_id > ?1 AND run_id < ?2 UNION ALL"
    " SELECT (SELECT min(t.run_id) FROM run_tasks t WHERE t.run_id > ids.run_id AND t.run_id < ?2) FROM ids"
    " WHERE ids.run_id IS NOT NULL) SELECT run_id FROM ids WHERE run_id IS NOT NULL"
    " AND NOT EXISTS (SELECT 1 FROM dag_runs r WHERE r.run_id = ids.run_id) LIMIT ?3"
)
_ENDS = "SELECT count(*) FROM run_tasks WHERE run_id = ?1 AND task_no IN (0, ?2)"
_DROP_STAGED = (
    "DELETE FROM run_tasks WHERE run_id = ?1 AND NOT EXISTS (SELECT 1 FROM dag_runs WHERE run_id = ?1)"
    " AND task_no IN (SELECT task_no FROM run_tasks WHERE run_id = ?1 ORDER BY task_no LIMIT ?2)"
)


class StagedRows:
    """The part of the store for runs that are yet to come."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, tasks: Sequence[TaskRecord]) -> None:
        """Store tasks of one run that is not there yet, in a transaction of their own."""
        run_id = tasks[0].run_id
        with self._db.without_foreign_keys(), self._db.transaction():
            if self._db.row(_IS_RUN, (run_id,)) is not None:
                raise StoreRefusedError(str(self._db.path), f"run {run_id} is there already")
            self._db.write_many(INSERT_TASK, map(task_values, tasks))

    def complete(self, run_id: str, *, tasks: int) -> bool:
        """Whether the first and the last task of so many are stored, and so all of them."""
        ends = self._db.row(_ENDS, (run_id, tasks - 1))
        return ends is not None and ends[0] == min(tasks, 2)

    def runs(self, *, after: str, before: str, limit: int) -> Sequence[str]:
        """Return ids under which tasks are stored, but no run, between two ids."""
        return [run_id for (run_id,) in self._db.rows(_STAGED, (after, before, limit))]

    def drop(self, run_id: str, *, at_most: int) -> bool:
        """Delete some tasks that have no run; return whether there were any."""
        return self._db.write(_DROP_STAGED, (run_id, at_most)) > 0
