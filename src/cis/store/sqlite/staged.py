"""Tasks that are stored before their run is, in SQLite (``cis.engine.staging``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cis.errors import StoreRefusedError
from cis.store.records import TaskRecord
from cis.store.sqlite.connection import Database
from cis.store.sqlite.tasks import INSERT_TASK, task_values

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
