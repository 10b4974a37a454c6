"""The files of attempts that another node executes: copies, written piece by piece at their offsets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from cis.engine.logfiles import LogFiles
from cis.errors import StoreError

FILE_BYTES = 4096  # what a new file takes at least
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


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
