"""What has to be true of a store when all is over, whatever was done to its disk meanwhile."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cis.store.sqlite.store import SqliteStore
from tests.chaos.powered_node import Acknowledged

_OVER = (
    "SELECT r.run_id, r.status, t.task_id, t.status, count(e.attempt) FROM dag_runs r JOIN run_tasks t USING (run_id)"
    " LEFT JOIN task_executions e ON e.run_id = t.run_id AND e.task_no = t.task_no AND e.status = 'completed'"
    " GROUP BY t.run_id, t.task_no HAVING count(e.attempt) != (t.status = 'completed')"
    " OR r.status NOT IN ('completed', 'failed', 'cancelled')"
    " UNION ALL SELECT run_id, status, task_id, 'attempt without an end', attempt FROM task_executions"
    " WHERE status = 'running'"
    " UNION ALL SELECT run_id, status, '', 'still in the queue', 0 FROM worker_queue"
)


@contextmanager
def memory_folder() -> Iterator[Path]:
    """Give a folder in memory where there is one: the disk is ours to cut, so the real one need not be waited for."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


def missing(store: SqliteStore, seen: Iterable[Acknowledged]) -> list[Acknowledged]:
    """Return what was acknowledged and is not there."""
    connection = store._db.connection
    runs = {row[0] for row in connection.execute("SELECT run_id FROM dag_runs")}
    attempts = set(connection.execute("SELECT run_id, task_id, attempt FROM task_executions"))
    return [what for what in seen if what not in (runs if isinstance(what, str) else attempts)]


def not_in_order(store: SqliteStore, *, started: Sequence[Acknowledged]) -> list[str]:
    """Return what is wrong when every run should be over: each task ended once, no attempt was *started* twice."""
    rows = store._db.connection.execute(_OVER).fetchall()
    twice = [what for what, count in Counter(started).items() if count > 1]
    return [
        *store.upkeep.faults(),
        *(f"started twice: {what}" for what in twice),
        *(f"not exactly once: {row}" for row in rows),
    ]
