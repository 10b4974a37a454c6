"""Tasks that lost their worker, in SQLite: the table ``task_losses``, which is empty as long as no worker dies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cis.store.records import TaskLoss
from cis.store.sqlite.connection import Database
from cis.store.sqlite.rows import Row, read_all

_ADD = (
    "INSERT INTO task_losses (run_id, task_no, losses, alone_us) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (run_id, task_no) DO UPDATE SET losses = losses + excluded.losses, alone_us = excluded.alone_us"
)
_OF_RUN = "SELECT run_id, task_no, losses, alone_us FROM task_losses WHERE run_id = ?"
_FORGET = "DELETE FROM task_losses WHERE run_id = ? AND task_no = ?"


class LossRows:
    """The losses' part of the store."""

    _db: Database

    def add_losses(self, losses: Iterable[TaskLoss]) -> None:
        """Count losses to those that are stored of the same tasks."""
        self._db.write_many(_ADD, [tuple(loss) for loss in losses])

    def losses(self, run_id: str) -> Sequence[TaskLoss]:
        """Return the losses of a run's tasks."""
        return read_all("loss of run", _loss_of, self._db.rows(_OF_RUN, (run_id,)))

    def forget_losses(self, run_id: str, task_nos: Iterable[int]) -> None:
        """Forget the losses of tasks that have ended by themselves."""
        self._db.write_many(_FORGET, [(run_id, task_no) for task_no in task_nos])


def _loss_of(row: Row) -> TaskLoss:
    return TaskLoss(*row)
