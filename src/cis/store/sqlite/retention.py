"""Forgetting what is old, in SQLite: runs with all that is theirs, and documents that nothing uses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from cis.store.retention_port import EndedRun, Pruned
from cis.store.sqlite.connection import Database

MAX_DEPTH = 64
_OVER = "('completed', 'failed', 'cancelled')"
_LIVE = (
    f"(r.status NOT IN {_OVER}"  # noqa: S608 - constants
    f" OR EXISTS (SELECT 1 FROM dag_runs p WHERE p.run_id = r.parent_run_id AND p.status NOT IN {_OVER})"
    " OR EXISTS (SELECT 1 FROM worker_queue q WHERE q.run_id = r.run_id)"
    " OR EXISTS (SELECT 1 FROM outbox o WHERE o.run_id = r.run_id)"
    " OR EXISTS (SELECT 1 FROM remote_runs m WHERE m.run_id = r.run_id AND m.open = 1))"
)
_ENDED = "finished_at_us IS NOT NULL AND parent_run_id IS NULL"
# From one name to the next by the index, past the runs between them: a DAG may have thousands.
_DAGS = (
    f"WITH RECURSIVE names (dag_id) AS (SELECT min(dag_id) FROM dag_runs WHERE dag_id > ? AND {_ENDED}"  # noqa: S608
    f" UNION ALL SELECT (SELECT min(r.dag_id) FROM dag_runs r WHERE r.dag_id > names.dag_id AND {_ENDED})"
    " FROM names WHERE names.dag_id IS NOT NULL) SELECT dag_id FROM names WHERE dag_id IS NOT NULL LIMIT ?"
)
_NEWEST_TO_GO = (
    "SELECT finished_at_us, run_id FROM dag_runs WHERE dag_id = ? AND parent_run_id IS NULL AND finished_at_us <= ?"
    " ORDER BY finished_at_us DESC, run_id DESC LIMIT 1 OFFSET ?"
)
_EXPIRED = (
    f"SELECT finished_at_us, run_id FROM dag_runs WHERE dag_id = ? AND {_ENDED}"  # noqa: S608 - constants
    " AND (finished_at_us, run_id) > (?, ?) AND (finished_at_us, run_id) <= (?, ?)"
    " ORDER BY finished_at_us, run_id LIMIT ?"
)
_FAMILY = (
    "WITH RECURSIVE family (run_id, depth) AS (SELECT run_id, 0 FROM dag_runs WHERE run_id = ? UNION ALL"  # noqa: S608
    " SELECT c.run_id, family.depth + 1 FROM family JOIN dag_runs c ON c.parent_run_id = family.run_id"
    f" WHERE family.depth < {MAX_DEPTH}) SELECT r.run_id, {_LIVE}"
    " FROM family CROSS JOIN dag_runs r ON r.run_id = family.run_id"  # in this order: SQLite would walk all runs
    " ORDER BY family.depth DESC"
)
_HELD = (
    f"SELECT {_LIVE} OR EXISTS (SELECT 1 FROM dag_runs c WHERE c.parent_run_id = r.run_id)"  # noqa: S608 - constants
    " FROM dag_runs r WHERE r.run_id = ?"
)
_LAST_OF_MANY = "SELECT task_no FROM task_executions WHERE run_id = ? ORDER BY task_no LIMIT 1 OFFSET ?"
_DROP_SOME = "DELETE FROM task_executions WHERE run_id = ? AND task_no <= ?"
_DROP_ALL = tuple(
    f"DELETE FROM {table} WHERE run_id = ?"  # noqa: S608 - constants
    for table in (
        "task_executions",
        "task_losses",
        "left_processes",
        "run_tasks",
        "remote_runs",
        "restored_runs",
        "chat_threads",
        "dag_runs",
    )
)
_ENDS = (
    f"SELECT r.run_id, CASE WHEN {_LIVE} THEN NULL ELSE r.finished_at_us END"  # noqa: S608 - constants
    " FROM json_each(?) j CROSS JOIN dag_runs r ON r.run_id = j.value"
)
_FIND_UNUSED = (
    "SELECT d.definition_id FROM dag_definitions d WHERE d.saved_at_us IS NULL AND NOT EXISTS"
    " (SELECT 1 FROM dag_runs r WHERE r.definition_id = d.definition_id) LIMIT ?"
)
_DROP_UNUSED = (
    "DELETE FROM dag_definitions WHERE definition_id = ? AND saved_at_us IS NULL AND NOT EXISTS"
    " (SELECT 1 FROM dag_runs r WHERE r.definition_id = dag_definitions.definition_id)"
)


class RetentionRows:
    """The pruner's part of the store."""

    _db: Database

    def ended_dags(self, *, after: str, limit: int) -> Sequence[str]:
        """Return ids of DAGs with runs that are over, by name."""
        return [dag_id for (dag_id,) in self._db.rows(_DAGS, (after, limit))]

    def expired_runs(
        self, dag_id: str, *, before_us: int | None, keep: int | None, until_us: int, after: EndedRun | None, limit: int
    ) -> Sequence[EndedRun]:
        """Return runs of a DAG that ended before a time, or are not its newest ones; oldest first."""
        bounds = [] if before_us is None else [EndedRun(before_us, "")]
        if keep is not None:
            bounds += [EndedRun(*row) for row in self._db.rows(_NEWEST_TO_GO, (dag_id, until_us, keep))]
        if not bounds:
            return []
        first, last = after or EndedRun(-1, ""), max(bounds)
        values = (dag_id, first.finished_at_us, first.run_id, last.finished_at_us, last.run_id, limit)
        return [EndedRun(*row) for row in self._db.rows(_EXPIRED, values)]

    def run_family(self, run_id: str) -> Sequence[str]:
        """Return a run and all that came of its tasks, deepest first; nothing if one of them is live."""
        rows = self._db.rows(_FAMILY, (run_id,))
        return [] if any(live for _, live in rows) else [member for member, _ in rows]

    def prune_run(self, run_id: str, *, at_most: int) -> Pruned:
        """Delete a part of a run's attempts, or the whole rest of it."""
        # The attempts go first: without them a run is what it was to whoever runs it again, since its tasks are whole.
        held = self._db.row(_HELD, (run_id,))
        if held is None:
            return Pruned.GONE
        if held[0]:
            return Pruned.HELD
        many = self._db.row(_LAST_OF_MANY, (run_id, at_most))
        if many is not None:
            self._db.write(_DROP_SOME, (run_id, many[0]))
            return Pruned.MORE
        for statement in _DROP_ALL:
            self._db.write(statement, (run_id,))
        return Pruned.GONE

    def run_ends(self, run_ids: Sequence[str]) -> Mapping[str, int | None]:
        """Return when each of these runs ended, None for one that is live."""
        return dict(self._db.rows(_ENDS, (json.dumps(list(run_ids)),)))

    def unused_definitions(self, *, limit: int) -> Sequence[int]:
        """Return ids of documents that are not stored by name, and that no run is of."""
        return [number for (number,) in self._db.rows(_FIND_UNUSED, (limit,))]

    def drop_definitions(self, definition_ids: Sequence[int]) -> int:
        """Delete those of them that are still unused; return how many went."""
        return sum(self._db.write(_DROP_UNUSED, (number,)) for number in definition_ids)
