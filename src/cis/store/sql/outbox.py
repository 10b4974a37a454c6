"""What is to be sent: the table ``outbox``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from cis.store.sql.cluster_rows import FAULT_CHARS, OUTBOX, json_text, outbox_item_of
from cis.store.sql.rows import places_of, read_all

if TYPE_CHECKING:
    from cis.store.cluster import OutboxItem, Route, Schedule
    from cis.store.sql.database import Database

_POST = f"INSERT INTO outbox ({OUTBOX}) VALUES ({places_of(OUTBOX)})"  # noqa: S608 - constants
_DUE = (
    f"SELECT {OUTBOX} FROM outbox WHERE route = ? AND due_at_us <= ?"  # noqa: S608 - constants
    " ORDER BY priority DESC, message_id LIMIT ?"
)
_DUE_FOR_NODE = (
    f"SELECT {OUTBOX} FROM outbox WHERE node_id = ? AND route = ? AND due_at_us <= ?"  # noqa: S608 - constants
    " ORDER BY priority DESC, message_id LIMIT ?"
)
# By its own choice SQLite takes the index by node, and walks in it all that is not due.
_DUE_NODES = (
    "SELECT DISTINCT node_id FROM outbox INDEXED BY outbox_by_time"
    " WHERE due_at_us <= ? AND route = 'push' ORDER BY node_id"
)
_OF_RUN = f"SELECT {OUTBOX} FROM outbox WHERE run_id = ? ORDER BY message_id"  # noqa: S608 - constants
_BEGIN = "UPDATE outbox SET attempts = attempts + 1, uncertain = 1, due_at_us = ? WHERE message_id = ?"
_PUT_OFF = "UPDATE outbox SET due_at_us = ?, fault = ?, uncertain = ? WHERE message_id = ?"


class OutboxRows:
    """The outbox's part of the store."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, item: OutboxItem) -> None:
        """Put a message into the outbox."""
        self._db.write(
            _POST,
            (
                item.message_id,
                item.kind,
                item.run_id,
                item.node_id,
                str(item.route),
                int(item.priority),
                item.created_at_us,
                item.expires_at_us,
                item.due_at_us,
                json_text(item.fields),
                item.attempts,
                int(item.uncertain),
                item.fault,
            ),
        )

    def due(self, route: Route, *, now_us: int, limit: int, node_id: str | None = None) -> Sequence[OutboxItem]:
        """Return what is due, the most urgent first, then the oldest; None: for whichever node."""
        if node_id is None:
            rows = self._db.rows(_DUE, (str(route), now_us, limit))
        else:
            rows = self._db.rows(_DUE_FOR_NODE, (node_id, str(route), now_us, limit))
        return read_all("message", outbox_item_of, rows)

    def schedule(self, *, now_us: int) -> Schedule:
        """Return for which nodes something is due by push, and when the next item of all is due."""
        from cis.store.cluster import Schedule  # noqa: PLC0415 - see ``cluster_rows``

        nodes = tuple(node_id for (node_id,) in self._db.rows(_DUE_NODES, (now_us,)))
        row = self._db.row("SELECT min(due_at_us) FROM outbox")
        return Schedule(nodes, None if row is None else row[0])

    def of_run(self, run_id: str) -> Sequence[OutboxItem]:
        """Return what is to be sent about a run, the oldest first."""
        self._db.hold(_OF_RUN, (run_id,))
        return read_all("message", outbox_item_of, self._db.rows(_OF_RUN, (run_id,)))

    def begin_sending(self, message_ids: Iterable[str], *, due_at_us: int) -> Collection[str]:
        """Count an attempt of each, which from now on may arrive; return those that are still there."""
        return {message_id for message_id in message_ids if self._db.write(_BEGIN, (due_at_us, message_id)) == 1}

    def put_off(self, message_id: str, *, due_at_us: int, fault: str, uncertain: bool) -> None:
        """Record why an item was not accepted, and when to try again."""
        self._db.write(_PUT_OFF, (due_at_us, fault[:FAULT_CHARS], int(uncertain), message_id))

    def remove(self, message_id: str) -> bool:
        """Delete an item; return whether it was there."""
        return self._db.write("DELETE FROM outbox WHERE message_id = ?", (message_id,)) == 1

    def remove_of_run(self, run_id: str, kind: str) -> int:
        """Delete all items of a kind for a run; return how many there were."""
        return self._db.write("DELETE FROM outbox WHERE run_id = ? AND kind = ?", (run_id, kind))

    def count(self, *, at_most: int) -> int:
        """Return how many items wait, counting up to *at_most*."""
        row = self._db.row("SELECT count(*) FROM (SELECT 1 FROM outbox LIMIT ?) AS found", (at_most,))
        return int(row[0]) if row else 0

    def depths(self) -> Mapping[str, int]:
        """Return how many items wait for each node id (empty: for everyone)."""
        return dict(self._db.rows("SELECT node_id, count(*) FROM outbox GROUP BY node_id"))
