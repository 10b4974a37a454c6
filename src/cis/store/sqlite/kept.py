"""The node's id, out of a database that is not opened: a command that starts no node changes nothing, and makes none."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import apsw

from cis.store.sql.upkeep import HOME
from cis.store.sqlite.connection import store_error, translated

# For homes that kept no id yet, which have several if their host was renamed: the one with the most work to be done,
# since that is stranded under any other; else the one that a worker served last; else the one that accepted last.
_FORMER = (
    "SELECT node_id FROM worker_queue GROUP BY node_id ORDER BY count(*) DESC, max(queue_id) DESC LIMIT 1",
    "SELECT node_id FROM workers ORDER BY heartbeat_at_us DESC LIMIT 1",
    "SELECT node_id FROM dag_runs WHERE run_id NOT IN (SELECT run_id FROM remote_runs WHERE role = 'received')"  # noqa: ISC004
    " ORDER BY run_id DESC LIMIT 1",
)
_BUSY_MS = 1000


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
        for question in (HOME, *_FORMER):
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
