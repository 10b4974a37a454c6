"""Attempts at tasks: the table ``task_executions``. The hot path is here.

Beside it: processes that tasks were allowed to leave running (``left_processes``), and tasks that lost their worker
(``task_losses``). These two tables are empty as a rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cis.errors import StaleVersionError
from cis.model.states import AttemptState, check_attempt_arrow
from cis.store.records import AttemptPlace, AttemptRecord, LeftProcess, TaskLoss
from cis.store.sql.rows import ATTEMPT, attempt_of, places_of, read_all

if TYPE_CHECKING:
    from cis.store.sql.database import Database

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
_START = f"INSERT INTO task_executions ({ATTEMPT}) VALUES ({places_of(ATTEMPT)})"  # noqa: S608 - constants
_PID = (
    "UPDATE task_executions SET pid = ?, pid_started = ?"
    " WHERE run_id = ? AND task_no = ? AND attempt = ? AND status = 'running'"
)
_DROP = "DELETE FROM task_executions WHERE run_id = ? AND task_no = ? AND attempt = ? AND status = 'running'"
_FINISH = (
    "UPDATE task_executions SET status = ?, started_at_us = ?, finished_at_us = ?, exit_code = ?, pid = coalesce(?, pid),"
    " error = ?, stdout_tail = ?, stderr_tail = ?, stdout_bytes = ?, stderr_bytes = ?"
    " WHERE run_id = ? AND task_no = ? AND attempt = ? AND status = 'running'"
)
_RUNNING = (
    f"SELECT {ATTEMPT} FROM task_executions WHERE worker_id = ?1 AND status = 'running' AND run_id IN"  # noqa: S608
    " (SELECT run_id FROM dag_runs WHERE worker_id = ?1 AND status IN ('pending', 'running', 'paused'))"
)
_STRAY = (
    "SELECT 1 FROM task_executions AS e LEFT JOIN run_tasks AS t ON t.run_id = e.run_id AND t.task_no = e.task_no"
    " WHERE e.run_id = ? AND (t.task_id IS DISTINCT FROM e.task_id OR e.attempt > t.attempts) LIMIT 1"
)
_ATTEMPT_COLUMNS = ATTEMPT.split(", ")  # named as the record's fields are
_TOLD = _ATTEMPT_COLUMNS[4:]  # all but the key and the task's id, which its number says
_MIRROR_ATTEMPT = (
    f"INSERT INTO task_executions ({ATTEMPT}) VALUES ({places_of(ATTEMPT)})"  # noqa: S608 - constants
    " ON CONFLICT (run_id, task_no, attempt) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _TOLD)
    + " WHERE task_executions.status = 'running' AND ("
    + " OR ".join(f"task_executions.{name} IS DISTINCT FROM excluded.{name}" for name in _TOLD)
    + ")"
)
_ADD_LEFT = (
    "INSERT INTO left_processes (run_id, task_no, task_id, pid, pid_started) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (run_id, task_no, pid) DO UPDATE SET task_id = excluded.task_id, pid_started = excluded.pid_started"
)
_LEFT_OF_RUN = (
    "SELECT run_id, task_no, task_id, pid, pid_started FROM left_processes WHERE run_id = ? ORDER BY task_no, pid"
)
_ADD_LOSS = (
    "INSERT INTO task_losses (run_id, task_no, losses, alone_us) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (run_id, task_no) DO UPDATE SET losses = task_losses.losses + excluded.losses, alone_us = excluded.alone_us"
)
_LOSSES_OF_RUN = "SELECT run_id, task_no, losses, alone_us FROM task_losses WHERE run_id = ?"
_FORGET = "DELETE FROM task_losses WHERE run_id = ? AND task_no = ?"


class AttemptRows:
    """The attempts' part of the store."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def start(self, attempts: Iterable[AttemptRecord]) -> None:
        """Store attempts that are about to start."""
        self._db.write_many(_START, map(_values, attempts))

    def drop(self, attempts: Iterable[AttemptRecord]) -> None:
        """Delete running attempts that never became a process."""
        self._db.write_many(_DROP, [(one.run_id, one.task_no, one.attempt) for one in attempts])

    def set_pids(self, attempts: Iterable[AttemptRecord]) -> None:
        """Store the process of running attempts."""
        for one in attempts:
            self._db.write(_PID, (one.pid, one.pid_started, one.run_id, one.task_no, one.attempt))

    def finish(self, attempts: Iterable[AttemptRecord], *, left: Iterable[LeftProcess] = ()) -> None:
        """Store the ends of running attempts, and what they left running."""
        if left:
            self._db.write_many(_ADD_LEFT, left)
        ended = list(attempts)
        for one in ended:
            check_attempt_arrow(f"attempt {one.attempt} of {one.task_id}", AttemptState.RUNNING, one.status)
        if self._db.write_many(_FINISH, map(_ending_values, ended)) != len(ended):
            first = ended[0]
            what = f"attempt {first.attempt} of task {first.task_id}" if len(ended) == 1 else "an attempt"
            raise StaleVersionError(f"{what} of run {first.run_id}", 0)

    def get(self, run_id: str, task_no: int, attempt: int) -> AttemptRecord | None:
        """Return one attempt; None also when its row cannot be read, as in ``attempts``."""
        found = read_all("attempt", attempt_of, self._db.rows(_ATTEMPT, (run_id, task_no, attempt)))
        return found[0] if found else None

    def page(self, run_id: str, task_no: int, attempt: int, *, limit: int) -> Sequence[AttemptRecord]:
        """Return the attempts of a run that follow one by their task's number, then their own: at most *limit*."""
        return read_all("attempt", attempt_of, self._db.rows(_ATTEMPTS_AFTER, (run_id, task_no, attempt, limit)))

    def places(
        self,
        run_id: str,
        *,
        task_id: str | None = None,
        attempt: int | None = None,
        after: AttemptPlace | None = None,
        limit: int,
    ) -> Sequence[AttemptPlace]:
        """Return where a run's attempts come, by start time, then task number: those that follow one."""
        sql, values = _PLACE, [run_id]
        if task_id is not None:
            sql += _OF_TASK
            values += [run_id, task_id]
        numbers = [] if attempt is None else [attempt]
        if attempt is not None:
            sql += " AND attempt = ?"
        place = _BEFORE_ALL if after is None else after[:3]
        rows = self._db.rows(f"SELECT * FROM ({sql}) AS places{_PLACES_AFTER}", (*values, *numbers, *place, limit))  # noqa: S608
        return [AttemptPlace(row[0], row[1], row[2], bool(row[3])) for row in rows]

    def any_stray(self, run_id: str) -> bool:
        """Whether there is an attempt that none of the run's tasks has made."""
        return self._db.row(_STRAY, (run_id,)) is not None

    def running(self, worker_id: str) -> Sequence[AttemptRecord]:
        """Return the attempts of one worker id that have no end, in runs that are not over."""
        return read_all("attempt", attempt_of, self._db.rows(_RUNNING, (worker_id,)))

    def mirror(self, attempts: Iterable[AttemptRecord]) -> Sequence[AttemptRecord]:
        """Take over new attempts, and what changed of running ones; return those that changed anything."""
        return [one for one in attempts if self._db.write(_MIRROR_ATTEMPT, _values(one)) == 1]

    def add_losses(self, losses: Iterable[TaskLoss]) -> None:
        """Count losses to those that are stored of the same tasks."""
        self._db.write_many(_ADD_LOSS, [tuple(loss) for loss in losses])

    def losses(self, run_id: str) -> Sequence[TaskLoss]:
        """Return the losses of a run's tasks."""
        return read_all("loss of run", TaskLoss._make, self._db.rows(_LOSSES_OF_RUN, (run_id,)))

    def forget_losses(self, run_id: str, task_nos: Iterable[int]) -> None:
        """Forget the losses of tasks that have ended by themselves."""
        self._db.write_many(_FORGET, [(run_id, task_no) for task_no in task_nos])

    def left(self, run_id: str) -> Sequence[LeftProcess]:
        """Return what the tasks of a run left running, in their order."""
        return read_all("process left by run", LeftProcess._make, self._db.rows(_LEFT_OF_RUN, (run_id,)))


def _ending_values(one: AttemptRecord) -> tuple[object, ...]:
    """Return what the end of an attempt sets, and what it is found by."""
    return (
        one.status,
        one.started_at_us,
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


def _values(one: AttemptRecord) -> tuple[object, ...]:
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
