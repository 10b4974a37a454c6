"""Copies of the logs and attempts of a run that another node executes: how much is kept, and how files are written.

The other node has the originals, and could send without end, so what is kept here is bounded. It is counted in bytes as
it is written. A run may keep a fixed amount, and some more for each of its tasks. Beyond that, only states are taken,
with short errors, and the run says so when it is over. Outputs are bounded as those of a run that is executed here
(``cis.engine.outputs``). Pieces of log files are written at their offsets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from cis.engine.outputs import no_room, size_of
from cis.store.records import AttemptRecord, TaskRecord

if TYPE_CHECKING:
    from cis.store.port import Store
    from cis.store.run_port import Tasks

import os
from dataclasses import dataclass
from enum import StrEnum

from cis.engine.logfiles import LogFiles
from cis.errors import StoreError

MAX_TOLD_BYTES = 2**30
MAX_TOLD_WITHOUT_TASKS = 64 * 2**20
MAX_TOLD_OF_A_TASK = 2**20
MAX_AHEAD = 1000  # attempts of a task that may be told before its row is
SHORT_ERROR = 500
LEFT_OUT = "not all of its attempts and logs are kept here: they are more than a run of its size may have; {} has them"
_ROW_BYTES = 256
_FEW = 8

FILE_BYTES = 4096  # what a new file takes at least
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


def room_for(task_count: int, told_bytes: int) -> int:
    """Return how many bytes may still be told of a run; 0 or less when there is no room."""
    return min(MAX_TOLD_BYTES, MAX_TOLD_WITHOUT_TASKS + task_count * MAX_TOLD_OF_A_TASK) - told_bytes


def bytes_of(tasks: Iterable[TaskRecord], attempts: Iterable[AttemptRecord]) -> int:
    """Return what rows cost that were written."""
    size = sum(_ROW_BYTES + len(task.error or "") for task in tasks)
    return size + sum(
        _ROW_BYTES + len(one.error or "") + len(one.stdout_tail) + len(one.stderr_tail) for one in attempts
    )


def shortened(tasks: Sequence[TaskRecord]) -> list[TaskRecord]:
    """Return tasks with short errors."""
    return [task._replace(error=task.error and task.error[:SHORT_ERROR]) for task in tasks]


def with_outputs_that_fit(store: Store, run_id: str, tasks: Sequence[TaskRecord]) -> list[TaskRecord]:
    """Return tasks, without the outputs for which their run has no room; each of those says so."""
    new = sum(size_of(task.outputs) for task in tasks if task.outputs)
    if not new or no_room(new, store.tasks.outputs_size(run_id)) is None:
        return list(tasks)
    kept = sum(map(size_of, store.tasks.outputs(run_id)))  # as they are stored they take up to six times as much
    fitted = []
    for task in tasks:
        size = size_of(task.outputs)
        why = no_room(size, kept) if size else None
        kept += size if why is None else 0
        fitted.append(task if why is None else task._replace(outputs={}, error=task.error or why))
    return fitted


def most_attempts(tasks: Tasks, run_id: str, told: Sequence[TaskRecord], numbers: AbstractSet[int]) -> dict[int, int]:
    """Return how many attempts tasks can have had, by their rows and by what is told of them now.

    What is told of a task comes after its attempts, so one that is not over may have had more than its row says.
    """
    if len(numbers) <= _FEW:
        rows = [row for number in numbers for row in tasks.page(run_id, number - 1, limit=1, max_bytes=1)]
    else:
        rows = [row for row in tasks.of_run(run_id, outputs=False) if row.task_no in numbers]
    most: dict[int, int] = {}
    final: set[int] = set()
    for row in (*rows, *told):
        if row.status.final and row.task_no not in final:
            final.add(row.task_no)
            most[row.task_no] = row.attempts
        elif row.task_no not in final:
            most[row.task_no] = max(most.get(row.task_no, 0), row.attempts + MAX_AHEAD)
    return most


class Stream(StrEnum):
    """Which of the two a piece is of, as reports say it."""

    OUT = "out"
    ERR = "err"


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Bytes of one stream of an attempt, and whether it ends with them."""

    task_no: int
    attempt: int
    stream: Stream
    offset: int
    data: bytes
    last: bool


def write_logs(logfiles: LogFiles, run_id: str, pieces: Sequence[Piece]) -> int:
    """Write pieces to the files; return by how much these grew."""
    grown = 0
    if pieces:
        logfiles.prepare(run_id)
    for piece in pieces:
        files = logfiles.paths(run_id, piece.task_no, piece.attempt)
        path = {Stream.OUT: files.stdout, Stream.ERR: files.stderr}[piece.stream]
        try:
            grown += _write(path, piece)
        except OSError as error:
            raise StoreError(f"a log of run {run_id} cannot be written to {path}: {error.strerror}") from error
    return grown


def _write(path: str, piece: Piece) -> int:
    """Write one piece; return by how much its file grew, and with what a new one takes at least."""
    descriptor = os.open(path, _FLAGS, 0o600)
    try:
        before = os.fstat(descriptor).st_size
        left, offset = memoryview(piece.data), piece.offset
        while left:
            count = os.pwrite(descriptor, left, offset)
            left, offset = left[count:], offset + count
        if piece.last:
            os.ftruncate(descriptor, offset)
        return max(0, os.fstat(descriptor).st_size - before) + (FILE_BYTES if not before else 0)
    finally:
        os.close(descriptor)
