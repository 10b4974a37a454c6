"""The part of the store's port that is about restored backups; the rules are those of ``cis.store.port``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreRecord:
    """A backup was put in place of the database at one time, and knows nothing of what happened after another."""

    restored_at_us: int
    known_until_us: int


class RestoreStore(Protocol):
    """What a database knows of its own age."""

    def restore(self) -> RestoreRecord | None:
        """Return the last restore; None for a database that never was restored."""
        ...

    def put_restore(self, record: RestoreRecord) -> None: ...

    def newest_record_us(self) -> int:
        """Return when the last event, or entry of the audit log, was written; 0 when there is none."""
        ...

    def put_restored_run(self, run_id: str) -> None:
        """Note that what is stored of a run may be out of date."""
        ...

    def is_restored_run(self, run_id: str) -> bool: ...

    def settle_restored_run(self, run_id: str) -> bool:
        """Forget that note: it was found out how the run goes, or somebody decided. Return whether there was one."""
        ...

    def restored_runs(self) -> int:
        """Return how many runs with such a note are not over."""
        ...
