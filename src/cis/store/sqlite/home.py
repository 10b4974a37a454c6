"""What a home knows of itself, in SQLite: the table ``home``."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import apsw

from cis.store.home_port import HomeRecord
from cis.store.sqlite.connection import Database, store_error, translated

_GET = "SELECT node_id, machine, path FROM home WHERE number = 1"
_PUT = (
    "INSERT INTO home (number, node_id, machine, path) VALUES (1, ?, ?, ?)"
    " ON CONFLICT (number) DO UPDATE SET node_id = excluded.node_id, machine = excluded.machine, path = excluded.path"
)
_OTHERS = "SELECT node_id, count(*) FROM worker_queue WHERE node_id != ? GROUP BY node_id ORDER BY node_id"
# For homes that kept no id yet, which have several if their host was renamed: the one with the most work to be done,
# since that is stranded under any other; else the one that a worker served last; else the one that accepted last.
_FORMER = (
    "SELECT node_id FROM worker_queue GROUP BY node_id ORDER BY count(*) DESC, max(queue_id) DESC LIMIT 1",
    "SELECT node_id FROM workers ORDER BY heartbeat_at_us DESC LIMIT 1",
    "SELECT node_id FROM dag_runs WHERE run_id NOT IN (SELECT run_id FROM remote_runs WHERE role = 'received')"  # noqa: ISC004
    " ORDER BY run_id DESC LIMIT 1",
)
_FORGET = (
    "DELETE FROM worker_queue",
    "DELETE FROM outbox",
    "DELETE FROM offers",
    "UPDATE remote_runs SET open = 0 WHERE open = 1",
    "UPDATE room_events SET state = 'done' WHERE state = 'new'",
    "UPDATE workers SET status = 'dead', current_run = NULL WHERE status NOT IN ('stopped', 'dead')",
)
_BUSY_MS = 1000


class HomeRows:
    """The home's part of the store."""

    _db: Database

    def home(self) -> HomeRecord | None:
        """Return what was kept."""
        row = self._db.row(_GET)
        return None if row is None else HomeRecord(node_id=row[0], machine=row[1], path=row[2])

    def put_home(self, home: HomeRecord) -> None:
        """Keep it, in place of what was kept before."""
        self._db.write(_PUT, (home.node_id, home.machine, home.path))

    def forget_queue(self) -> None:
        """Forget all that waits to be done, sent or granted."""
        for statement in _FORGET:
            self._db.write(statement)

    def runs_of_other_ids(self, node_id: str) -> dict[str, int]:
        """Return how many runs wait in the queues of other node ids, by id."""
        return {str(row[0]): int(row[1]) for row in self._db.rows(_OTHERS, (node_id,))}


def kept_node_id(path: Path) -> str | None:
    """Return the node's id as the database at *path* has it, changing nothing; None where there is none, or it is damaged.

    An older database has kept none; then it is that of its rows.

    Raises:
        StoreError: it cannot be read now.
    """
    if not path.exists():
        return None
    try:
        return _kept(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    except (apsw.CorruptError, apsw.NotADBError, UnicodeDecodeError):
        return None  # whoever uses it says so
    except apsw.Error as error:
        if path.with_name(f"{path.name}-wal").exists():
            raise store_error(error, path) from error
    # Without a log beside it the file is all that there is, and can be read where SQLite has no room for its own, on a full
    # disk.
    with translated(path):
        uri = f"file:{quote(str(path))}?immutable=1"
        return _kept(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)


def _kept(name: str, *, flags: int) -> str | None:
    connection = apsw.Connection(name, flags=flags)
    try:
        connection.set_busy_timeout(_BUSY_MS)
        for question in (_GET, *_FORMER):
            row = _first(connection, question)
            if row is not None and isinstance(row[0], str):
                return row[0]
    finally:
        connection.close()
    return None


def _first(connection: apsw.Connection, question: str) -> tuple[object, ...] | None:
    try:
        row: tuple[object, ...] | None = connection.execute(question).fetchone()
    except apsw.SQLError:  # no such table in a database of an earlier schema
        return None
    return row
