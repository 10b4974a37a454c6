"""What a database knows of its own age, in SQLite: ``restores`` and ``restored_runs``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cis.store.sqlite.connection import Database

if TYPE_CHECKING:
    from cis.store.restore_port import RestoreRecord

_LAST = "SELECT restored_at_us, known_until_us FROM restores ORDER BY restored_at_us DESC LIMIT 1"
_PUT = "INSERT OR REPLACE INTO restores (restored_at_us, known_until_us) VALUES (?, ?)"
_NEWEST = (
    "SELECT max(coalesce((SELECT at_us FROM events ORDER BY seq DESC LIMIT 1), 0),"
    " coalesce((SELECT at_us FROM audit ORDER BY seq DESC LIMIT 1), 0))"
)
_COUNT = (
    "SELECT count(*) FROM restored_runs CROSS JOIN dag_runs USING (run_id)"
    " WHERE status IN ('pending', 'running', 'paused')"
)


class RestoreRows:
    """The restores' part of the store."""

    _db: Database

    def restore(self) -> RestoreRecord | None:
        """Return the last restore, or None."""
        row = self._db.row(_LAST)
        if row is None:
            return None
        from cis.store.restore_port import RestoreRecord  # noqa: PLC0415 - few databases have one

        return RestoreRecord(restored_at_us=row[0], known_until_us=row[1])

    def put_restore(self, record: RestoreRecord) -> None:
        """Note that this database was restored."""
        self._db.write(_PUT, (record.restored_at_us, record.known_until_us))

    def newest_record_us(self) -> int:
        """Return when the last event, or entry of the audit log, was written."""
        row = self._db.row(_NEWEST)
        return int(row[0]) if row else 0

    def put_restored_run(self, run_id: str) -> None:
        """Note that what is stored of a run may be out of date."""
        self._db.write("INSERT OR IGNORE INTO restored_runs (run_id) VALUES (?)", (run_id,))

    def is_restored_run(self, run_id: str) -> bool:
        """Return whether there is such a note."""
        return self._db.row("SELECT 1 FROM restored_runs WHERE run_id = ?", (run_id,)) is not None

    def settle_restored_run(self, run_id: str) -> bool:
        """Forget that note; return whether there was one."""
        return self._db.write("DELETE FROM restored_runs WHERE run_id = ?", (run_id,)) == 1

    def restored_runs(self) -> int:
        """Return how many runs with such a note are not over."""
        row = self._db.row(_COUNT)
        return int(row[0]) if row else 0
