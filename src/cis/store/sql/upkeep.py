"""Upkeep: forgetting what is old, noting a restored backup, and what a home knows of itself.

Old runs go with all that is theirs, and documents when nothing uses them. The tables of the others are ``restores``,
``restored_runs`` and ``home``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cis.store.upkeep_port import EndedRun, HomeRecord, Pruned

if TYPE_CHECKING:
    from cis.store.sql.database import Database
    from cis.store.upkeep_port import RestoreRecord

MAX_DEPTH = 64
_OVER = "('completed', 'failed', 'cancelled')"
# The parent's state is one value of one row: asked whether there is such a row, PostgreSQL may gather all of them first.
_LIVE = (
    f"(r.status NOT IN {_OVER}"  # noqa: S608 - constants
    f" OR coalesce((SELECT p.status FROM dag_runs p WHERE p.run_id = r.parent_run_id), 'completed') NOT IN {_OVER}"
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
    " FROM family CROSS JOIN dag_runs r WHERE r.run_id = family.run_id"  # in this order: SQLite would walk all runs
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
        "run_params",
        "run_tasks",
        "remote_runs",
        "restored_runs",
        "chat_threads",
        "dag_runs",
    )
)
_ENDS = (
    f"SELECT r.run_id, CASE WHEN {_LIVE} THEN NULL ELSE r.finished_at_us END"  # noqa: S608 - constants
    " FROM json_each(?) j CROSS JOIN dag_runs r WHERE r.run_id = j.value"
)

_PRUNE_NOTES = {
    "offers": "DELETE FROM offers WHERE expires_at_us < ?",
    "farewells": "DELETE FROM farewells WHERE until_us < ?",
    "withdrawals": "DELETE FROM withdrawals WHERE expires_at_us < ?",
    "lease_asks": "DELETE FROM lease_asks WHERE asked_at_us < ?",
}


class PruningRows:
    """The pruner's part of the store."""

    def __init__(self, db: Database) -> None:
        self._db = db

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

    def family(self, run_id: str) -> Sequence[str]:
        """Return a run and all that came of its tasks, deepest first; nothing if one of them is live."""
        rows = self._db.rows(_FAMILY, (run_id,))
        return [] if any(live for _, live in rows) else [member for member, _ in rows]

    def prune(self, run_id: str, *, at_most: int) -> Pruned:
        """Delete a part of a run's attempts, or the whole rest of it."""
        # The attempts go first: without them a run is what it was to whoever runs it again, since its tasks are whole.
        self._db.hold("SELECT 1 FROM dag_runs WHERE run_id = ?", (run_id,))
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

    def prune_notes(self, *, expired_us: int, withdrawn_us: int, asked_us: int) -> int:
        """Forget what is kept of other nodes for a time; return how much went."""
        before = {"offers": expired_us, "farewells": expired_us, "withdrawals": withdrawn_us, "lease_asks": asked_us}
        return sum(self._db.write(_PRUNE_NOTES[table], (time_us,)) for table, time_us in before.items())

    def ends(self, run_ids: Sequence[str]) -> Mapping[str, int | None]:
        """Return when each of these runs ended, None for one that is live."""
        return dict(self._db.rows(_ENDS, (json.dumps(list(run_ids)),)))


_LAST = "SELECT restored_at_us, known_until_us FROM restores ORDER BY restored_at_us DESC LIMIT 1"
_PUT = (
    "INSERT INTO restores (restored_at_us, known_until_us) VALUES (?, ?)"
    " ON CONFLICT (restored_at_us) DO UPDATE SET known_until_us = excluded.known_until_us"
)
_NEWEST = (
    "SELECT max(coalesce((SELECT at_us FROM events ORDER BY seq DESC LIMIT 1), 0),"
    " coalesce((SELECT at_us FROM audit ORDER BY seq DESC LIMIT 1), 0))"
)
_COUNT = (
    "SELECT count(*) FROM restored_runs d CROSS JOIN dag_runs r WHERE r.run_id = d.run_id"
    " AND r.status IN ('pending', 'running', 'paused')"
)


_FORGET = (
    "DELETE FROM worker_queue",
    "DELETE FROM outbox",
    "DELETE FROM offers",
    "UPDATE remote_runs SET open = 0 WHERE open = 1",
    "UPDATE room_events SET state = 'done' WHERE state = 'new'",
    "UPDATE workers SET status = 'dead', current_run = NULL WHERE status NOT IN ('stopped', 'dead')",
)


class RestoreRows:
    """The restores' part of the store."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def last(self) -> RestoreRecord | None:
        """Return the last restore, or None."""
        row = self._db.row(_LAST)
        if row is None:
            return None
        from cis.store.upkeep_port import RestoreRecord  # noqa: PLC0415 - few databases have one

        return RestoreRecord(restored_at_us=row[0], known_until_us=row[1])

    def begin(self, *, now_us: int) -> RestoreRecord:
        """Note that this database was put in place of another one, and return until when it knows what happened."""
        from cis.store.upkeep_port import RestoreRecord  # noqa: PLC0415 - as above

        row = self._db.row(_NEWEST)
        record = RestoreRecord(restored_at_us=now_us, known_until_us=int(row[0]) if row else 0)
        self._db.write(_PUT, (record.restored_at_us, record.known_until_us))
        self._db.write("DELETE FROM lease_asks")
        return record

    def doubt(self, run_id: str) -> None:
        """Note that what is stored of a run may be out of date."""
        self._db.write("INSERT INTO restored_runs (run_id) VALUES (?) ON CONFLICT (run_id) DO NOTHING", (run_id,))

    def doubts(self, run_id: str) -> bool:
        """Return whether there is such a note."""
        return self._db.row("SELECT 1 FROM restored_runs WHERE run_id = ?", (run_id,)) is not None

    def settle(self, run_id: str) -> bool:
        """Forget that note; return whether there was one."""
        return self._db.write("DELETE FROM restored_runs WHERE run_id = ?", (run_id,)) == 1

    def doubted(self) -> int:
        """Return how many runs with such a note are not over."""
        row = self._db.row(_COUNT)
        return int(row[0]) if row else 0

    def forget_queue(self) -> None:
        """Forget all that waits to be done, sent or granted."""
        for statement in _FORGET:
            self._db.write(statement)


HOME = "SELECT node_id, machine, path FROM home WHERE number = 1"
_PUT_HOME = (
    "INSERT INTO home (number, node_id, machine, path) VALUES (1, ?, ?, ?)"
    " ON CONFLICT (number) DO UPDATE SET node_id = excluded.node_id, machine = excluded.machine, path = excluded.path"
)


class HomeRows:
    """The home's part of the store."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def get(self) -> HomeRecord | None:
        """Return what was kept."""
        row = self._db.row(HOME)
        return None if row is None else HomeRecord(node_id=row[0], machine=row[1], path=row[2])

    def put(self, home: HomeRecord) -> None:
        """Keep it, in place of what was kept before."""
        self._db.write(_PUT_HOME, (home.node_id, home.machine, home.path))
