"""Tasks and attempts in SQLite: the tables ``run_tasks`` and ``task_executions``. The hot path is here.

Beside them: tasks that are stored before their run is (``cis.engine.accept.staging``), processes that tasks were
allowed to leave running (``left_processes``), and tasks that lost their worker (``task_losses``). The last two tables
are empty as a rule.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from cis.errors import StaleVersionError, StoreRefusedError
from cis.model.states import AttemptState, check_attempt_arrow, check_task_arrow
from cis.store.records import AttemptPlace, AttemptRecord, LeftProcess, TaskLoss, TaskRecord
from cis.store.sqlite.connection import Database
from cis.store.sqlite.rows import ATTEMPT, TASK, Row, attempt_of, outputs_of, read, read_all, task_of

INSERT_TASK = f"INSERT INTO run_tasks ({TASK}) VALUES ({', '.join('?' * 15)})"  # noqa: S608 - constants
_TASKS = f"SELECT {TASK} FROM run_tasks WHERE run_id = ? ORDER BY task_no"  # noqa: S608 - constants
_BARE_TASKS = _TASKS.replace(" outputs,", " NULL,")
_TASKS_AFTER = (
    f"SELECT {TASK} FROM run_tasks WHERE run_id = ?1 AND task_no > ?2 AND task_no <= (SELECT max(task_no) FROM"  # noqa: S608
    " (SELECT task_no, sum(size) OVER (ORDER BY task_no ROWS UNBOUNDED PRECEDING) - size AS before FROM"
    " (SELECT task_no, coalesce(octet_length(outputs), 0) + coalesce(octet_length(error), 0) AS size"
    " FROM run_tasks WHERE run_id = ?1 AND task_no > ?2 ORDER BY task_no LIMIT ?3)) WHERE before < ?4) ORDER BY task_no"
)
_TASK = f"SELECT {TASK} FROM run_tasks WHERE run_id = ? AND task_id = ?"  # noqa: S608 - constants
_ANY_RUNNING = "SELECT 1 FROM run_tasks WHERE run_id = ? AND status = 'running' LIMIT 1"
_BY_START = " ORDER BY max(started_at_us) OVER (PARTITION BY task_no ORDER BY attempt), task_no, attempt"
_ATTEMPT = f"SELECT {ATTEMPT} FROM task_executions WHERE run_id = ? AND task_no = ? AND attempt = ?"  # noqa: S608
_ATTEMPTS_AFTER = (
    f"SELECT {ATTEMPT} FROM task_executions WHERE run_id = ? AND (task_no, attempt) > (?, ?)"  # noqa: S608 - constants
    " ORDER BY task_no, attempt LIMIT ?"
)
_PLACE = (
    "SELECT max(started_at_us) OVER (PARTITION BY task_no ORDER BY attempt) AS begun_us, task_no, attempt,"
    " status != 'running' AS over FROM task_executions WHERE run_id = ?"
)
_OF_TASK = " AND task_no = (SELECT task_no FROM run_tasks WHERE run_id = ? AND task_id = ?)"
_PLACES_AFTER = " WHERE (begun_us, task_no, attempt) > (?, ?, ?) ORDER BY begun_us, task_no, attempt LIMIT ?"
_BEFORE_ALL = (-(2**63), 0, 0)
_OUTPUTS = "SELECT run_id, outputs FROM run_tasks WHERE run_id = ? AND outputs IS NOT NULL ORDER BY task_no"
_OUTPUTS_SIZE = "SELECT sum(octet_length(outputs)) FROM run_tasks WHERE run_id = ?"
_CHANGE = (
    "UPDATE run_tasks SET version = version + 1, status = ?, attempts = ?, failures = ?, exit_code = ?,"
    " started_at_us = ?, finished_at_us = ?, outputs = ?, error = ?, blocked_by = ?, retry_at_us = ?,"
    " child_run_id = ? WHERE run_id = ? AND task_no = ? AND version = ?"
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
_LOSE = (
    "UPDATE task_executions SET status = 'lost', finished_at_us = max(?, started_at_us)"
    " WHERE run_id = ? AND status = 'running'"
)
_START = f"INSERT INTO task_executions ({ATTEMPT}) VALUES ({', '.join('?' * 17)})"  # noqa: S608 - constants
_PID = (
    "UPDATE task_executions SET pid = ?, pid_started = ?"
    " WHERE run_id = ? AND task_no = ? AND attempt = ? AND status = 'running'"
)
_DROP = "DELETE FROM task_executions WHERE run_id = ? AND task_no = ? AND attempt = ? AND status = 'running'"
_FINISH = (
    "UPDATE task_executions SET status = ?, finished_at_us = ?, exit_code = ?, pid = coalesce(?, pid), error = ?,"
    " stdout_tail = ?, stderr_tail = ?, stdout_bytes = ?, stderr_bytes = ?"
    " WHERE run_id = ? AND task_no = ? AND attempt = ? AND status = 'running'"
)
_RUNNING = (
    f"SELECT {ATTEMPT} FROM task_executions WHERE worker_id = ?1 AND status = 'running' AND run_id IN"  # noqa: S608
    " (SELECT run_id FROM dag_runs WHERE worker_id = ?1 AND status IN ('pending', 'running', 'paused'))"
)
_STRAY = (
    "SELECT 1 FROM task_executions AS e LEFT JOIN run_tasks AS t ON t.run_id = e.run_id AND t.task_no = e.task_no"
    " WHERE e.run_id = ? AND (t.task_id IS NOT e.task_id OR e.attempt > t.attempts) LIMIT 1"
)


class TaskRows:
    """The tasks' and attempts' part of the store."""

    _db: Database

    def tasks(self, run_id: str, *, outputs: bool = True) -> Sequence[TaskRecord]:
        """Return a run's tasks in the order of the document; without *outputs* these are left out."""
        rows = self._db.all_rows(f"a task of run {run_id}", _TASKS if outputs else _BARE_TASKS, (run_id,))
        return [read("task of run", task_of, row) for row in rows]

    def tasks_after(self, run_id: str, task_no: int, *, limit: int, max_bytes: int) -> Sequence[TaskRecord]:
        """Return the tasks that follow one by number: at most *limit*, and none after *max_bytes* of outputs and errors."""
        rows = self._db.all_rows(f"a task of run {run_id}", _TASKS_AFTER, (run_id, task_no, limit, max_bytes))
        return [read("task of run", task_of, row) for row in rows]

    def task(self, run_id: str, task_id: str) -> TaskRecord | None:
        """Return one task of a run."""
        row = self._db.row(_TASK, (run_id, task_id))
        return None if row is None else read("task", task_of, row)

    def has_running_tasks(self, run_id: str) -> bool:
        """Whether a task of a run has started and not ended."""
        return self._db.row(_ANY_RUNNING, (run_id,)) is not None

    def outputs(self, run_id: str) -> Sequence[Mapping[str, str]]:
        """Return the outputs of a run's tasks, of those that have some, in the order of the document."""
        rows = self._db.all_rows(f"a task of run {run_id}", _OUTPUTS, (run_id,))
        return [read("outputs of a task of run", outputs_of, row) for row in rows]

    def outputs_size(self, run_id: str) -> int:
        """Return how many bytes the outputs of a run's tasks take in the database; never fewer than they have."""
        row = self._db.row(_OUTPUTS_SIZE, (run_id,))
        return int(row[0] or 0) if row else 0

    def cancel_unfinished(self, run_id: str, *, now_us: int) -> None:
        """Make every task of a run that is not over cancelled, with its event, and every attempt that has no end lost."""
        self._db.write(TELL_CANCELLED, (now_us, run_id))
        self._db.write(_CANCEL, (now_us, run_id))
        self._db.write(_LOSE, (now_us, run_id))

    def change_tasks(self, old_and_new: Iterable[tuple[TaskRecord, TaskRecord]]) -> None:
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

    def start_attempts(self, attempts: Iterable[AttemptRecord]) -> None:
        """Store attempts that are about to start."""
        self._db.write_many(_START, map(attempt_values, attempts))

    def drop_attempts(self, attempts: Iterable[AttemptRecord]) -> None:
        """Delete running attempts that never became a process."""
        self._db.write_many(_DROP, [(one.run_id, one.task_no, one.attempt) for one in attempts])

    def set_pids(self, attempts: Iterable[AttemptRecord]) -> None:
        """Store the process of running attempts."""
        for one in attempts:
            self._db.write(_PID, (one.pid, one.pid_started, one.run_id, one.task_no, one.attempt))

    def finish_attempts(self, attempts: Iterable[AttemptRecord]) -> None:
        """Store the ends of running attempts."""
        ended = list(attempts)
        for one in ended:
            check_attempt_arrow(f"attempt {one.attempt} of {one.task_id}", AttemptState.RUNNING, one.status)
        if self._db.write_many(_FINISH, map(_ending_values, ended)) != len(ended):
            first = ended[0]
            what = f"attempt {first.attempt} of task {first.task_id}" if len(ended) == 1 else "an attempt"
            raise StaleVersionError(f"{what} of run {first.run_id}", 0)

    def attempts(
        self, run_id: str, *, task_id: str | None = None, attempt: int | None = None
    ) -> Sequence[AttemptRecord]:
        """Return a run's attempts by start time, then task number; those of a task in their order, whatever the clock said."""
        sql = f"SELECT {ATTEMPT} FROM task_executions WHERE run_id = ?"  # noqa: S608 - values are bound
        values: list[str | int] = [run_id]
        if task_id is not None:
            # The task's number makes this a search by the whole key.
            sql += _OF_TASK
            values += [run_id, task_id]
        if attempt is not None:
            sql += " AND attempt = ?"
            values.append(attempt)
        rows = self._db.rows(sql + _BY_START, values)
        return read_all("attempt", attempt_of, rows)

    def attempt(self, run_id: str, task_no: int, attempt: int) -> AttemptRecord | None:
        """Return one attempt; None also when its row cannot be read, as in ``attempts``."""
        found = read_all("attempt", attempt_of, self._db.rows(_ATTEMPT, (run_id, task_no, attempt)))
        return found[0] if found else None

    def attempts_after(self, run_id: str, task_no: int, attempt: int, *, limit: int) -> Sequence[AttemptRecord]:
        """Return the attempts of a run that follow one by their task's number, then their own: at most *limit*."""
        return read_all("attempt", attempt_of, self._db.rows(_ATTEMPTS_AFTER, (run_id, task_no, attempt, limit)))

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
        sql, values = _PLACE, [run_id]
        if task_id is not None:
            sql += _OF_TASK
            values += [run_id, task_id]
        numbers = [] if attempt is None else [attempt]
        if attempt is not None:
            sql += " AND attempt = ?"
        place = _BEFORE_ALL if after is None else after[:3]
        rows = self._db.rows(f"SELECT * FROM ({sql}){_PLACES_AFTER}", (*values, *numbers, *place, limit))  # noqa: S608
        return [AttemptPlace(row[0], row[1], row[2], bool(row[3])) for row in rows]

    def has_stray_attempts(self, run_id: str) -> bool:
        """Whether there is an attempt that none of the run's tasks has made."""
        return self._db.row(_STRAY, (run_id,)) is not None

    def running_attempts(self, worker_id: str) -> Sequence[AttemptRecord]:
        """Return the attempts of one worker id that have no end, in runs that are not over."""
        return read_all("attempt", attempt_of, self._db.rows(_RUNNING, (worker_id,)))


def _ending_values(one: AttemptRecord) -> tuple[object, ...]:
    """Return what the end of an attempt sets, and what it is found by."""
    return (
        one.status,
        one.finished_at_us,
        one.exit_code,
        one.pid,
        one.error,
        one.stdout_tail,
        one.stderr_tail,
        one.stdout_bytes,
        one.stderr_bytes,
        one.run_id,
        one.task_no,
        one.attempt,
    )


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
        task.retry_at_us,
        task.child_run_id,
    )


def task_values(task: TaskRecord) -> tuple[object, ...]:
    """Return a task's values in the order of TASK."""
    status, *rest = changing_values(task)
    return (task.run_id, task.task_no, task.task_id, status, task.version, *rest)


def attempt_values(one: AttemptRecord) -> tuple[object, ...]:
    """Return an attempt's values in the order of ATTEMPT."""
    return (
        one.run_id,
        one.task_no,
        one.task_id,
        one.attempt,
        one.status,
        one.worker_id,
        one.epoch,
        one.started_at_us,
        one.finished_at_us,
        one.exit_code,
        one.pid,
        one.pid_started,
        one.error,
        one.stdout_tail,
        one.stderr_tail,
        one.stdout_bytes,
        one.stderr_bytes,
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

    _db: Database

    @contextmanager
    def staging(self) -> Iterator[None]:
        """A transaction in which tasks may be stored before their run is."""
        with self._db.without_foreign_keys(), self._db.transaction():
            yield

    def stage_tasks(self, tasks: Sequence[TaskRecord]) -> None:
        """Store tasks of one run that is not there yet. Raises StoreRefusedError when it is."""
        run_id = tasks[0].run_id
        if self._db.row(_IS_RUN, (run_id,)) is not None:
            raise StoreRefusedError(str(self._db.path), f"run {run_id} is there already")
        self._db.write_many(INSERT_TASK, map(task_values, tasks))

    def is_staged(self, run_id: str, *, tasks: int) -> bool:
        """Whether the first and the last task of so many are stored, and so all of them."""
        ends = self._db.row(_ENDS, (run_id, tasks - 1))
        return ends is not None and ends[0] == min(tasks, 2)

    def staged_runs(self, *, after: str, before: str, limit: int) -> Sequence[str]:
        """Return ids under which tasks are stored, but no run, between two ids."""
        return [run_id for (run_id,) in self._db.rows(_STAGED, (after, before, limit))]

    def drop_staged(self, run_id: str, *, at_most: int) -> bool:
        """Delete some tasks that have no run; return whether there were any."""
        return self._db.write(_DROP_STAGED, (run_id, at_most)) > 0


_ADD_LEFT = "INSERT OR REPLACE INTO left_processes (run_id, task_no, task_id, pid, pid_started) VALUES (?, ?, ?, ?, ?)"
_LEFT_OF_RUN = (
    "SELECT run_id, task_no, task_id, pid, pid_started FROM left_processes WHERE run_id = ? ORDER BY task_no, pid"
)


class LeftRows:
    """What tasks left running: its part of the store."""

    _db: Database

    def add_left(self, left: Iterable[LeftProcess]) -> None:
        """Note what attempts left running."""
        self._db.write_many(_ADD_LEFT, [tuple(one) for one in left])

    def left_processes(self, run_id: str) -> Sequence[LeftProcess]:
        """Return what the tasks of a run left running, in their order."""
        return read_all("process left by run", _left_of, self._db.rows(_LEFT_OF_RUN, (run_id,)))


def _left_of(row: Row) -> LeftProcess:
    return LeftProcess(*row)


_ADD_LOSS = (
    "INSERT INTO task_losses (run_id, task_no, losses, alone_us) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (run_id, task_no) DO UPDATE SET losses = losses + excluded.losses, alone_us = excluded.alone_us"
)
_LOSSES_OF_RUN = "SELECT run_id, task_no, losses, alone_us FROM task_losses WHERE run_id = ?"
_FORGET = "DELETE FROM task_losses WHERE run_id = ? AND task_no = ?"


class LossRows:
    """The losses' part of the store."""

    _db: Database

    def add_losses(self, losses: Iterable[TaskLoss]) -> None:
        """Count losses to those that are stored of the same tasks."""
        self._db.write_many(_ADD_LOSS, [tuple(loss) for loss in losses])

    def losses(self, run_id: str) -> Sequence[TaskLoss]:
        """Return the losses of a run's tasks."""
        return read_all("loss of run", _loss_of, self._db.rows(_LOSSES_OF_RUN, (run_id,)))

    def forget_losses(self, run_id: str, task_nos: Iterable[int]) -> None:
        """Forget the losses of tasks that have ended by themselves."""
        self._db.write_many(_FORGET, [(run_id, task_no) for task_no in task_nos])


def _loss_of(row: Row) -> TaskLoss:
    return TaskLoss(*row)
