"""Reading a run's logs step by step, also while they grow.

A reader is driven by ``look``: each call returns what is new, a bounded amount, and an empty list when nothing is.
It learns of attempts from the event log, so one that starts and ends between two looks is seen, and it reads
the whole list of attempts again when the run is over, or when the event log has moved on too far.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from cis.engine.logfiles import LogFiles
from cis.store.records import TAIL_BYTES, AttemptRecord

if TYPE_CHECKING:
    from cis.store.port import Store

LOOK_BYTES = 2**18
CHUNK_BYTES = 2**16
_EVENTS_AT_ONCE = 1000
_FEW_TASKS = 16
_MAX_HELD = 8192


class LogStream(StrEnum):
    """Where a piece of text comes from; a ``note`` is what CIS-DAG has to say about the attempt."""

    OUTPUT = "output"
    ERROR = "error"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class LogPiece:
    """Some text of one attempt. It ends with a line where it can; a line may still come in several pieces."""

    task_id: str
    attempt: int
    stream: LogStream
    text: str


def kept_tail(tail: str, total_bytes: int) -> str:
    """Return a tail that stands for a pruned file, with a note when it is not all of it."""
    if total_bytes <= TAIL_BYTES:
        return tail
    return f"[the log file is gone; of its {total_bytes} bytes these were kept]\n{tail}"


class LogReader:
    """Reads the logs of one run, or of one task or attempt of it; stores may differ from look to look."""

    def __init__(self, logfiles: LogFiles, run_id: str, *, task: str | None, attempt: int | None, follow: bool) -> None:
        self._logfiles = logfiles
        self._run_id = run_id
        self._task = task
        self._attempt = attempt
        self._follow = follow
        self._seq: int | None = None
        self._run_over = False
        self._open: dict[tuple[int, int], _OpenAttempt] = {}
        self._told: set[tuple[int, int]] = set()

    @property
    def over(self) -> bool:
        """Whether everything was told and nothing more can come."""
        return self._run_over and not self._open

    def look(self, store: Store) -> list[LogPiece]:
        """Return what is new, about ``LOOK_BYTES`` at most."""
        if not self._run_over:
            self._discover(store)
        pieces: list[LogPiece] = []
        budget = LOOK_BYTES
        for key, attempt in list(self._open.items()):
            last = self._run_over or attempt.ended is not None
            share = budget if last else CHUNK_BYTES
            budget -= attempt.read(pieces, at_most=min(share, budget), last=last)
            if last and attempt.drained:
                del self._open[key]
                self._told.add(key)
            if budget <= 0:
                break
        return pieces

    def _discover(self, store: Store) -> None:
        run = store.run(self._run_id)
        over = run is None or run.status.final or not self._follow
        if over or self._seq is None:
            self._seq = store.last_event_seq()
            self._take(store.attempts(self._run_id, task_id=self._task, attempt=self._attempt))
            self._run_over = over
            return
        tasks = self._changed_tasks(store, self._seq)
        if tasks is None or len(tasks) > _FEW_TASKS:
            self._take(store.attempts(self._run_id, task_id=self._task, attempt=self._attempt))
        else:
            for task_id in tasks:
                self._take(store.attempts(self._run_id, task_id=task_id, attempt=self._attempt))

    def _changed_tasks(self, store: Store, seq: int) -> list[str] | None:
        """Return the tasks of which something happened since event *seq*; None when that cannot be told."""
        found: dict[str, None] = {}
        while True:
            events = store.events_after(seq, limit=_EVENTS_AT_ONCE)
            if events and events[0].seq > seq + 1:
                self._seq = store.last_event_seq()
                return None
            for event in events:
                if event.run_id == self._run_id and event.task_id is not None and self._task in (None, event.task_id):
                    found[event.task_id] = None
            if events:
                self._seq = seq = events[-1].seq
            if len(events) < _EVENTS_AT_ONCE:
                return list(found)

    def _take(self, attempts: Iterable[AttemptRecord]) -> None:
        for attempt in attempts:
            key = (attempt.task_no, attempt.attempt)
            if key in self._told:
                continue
            if key not in self._open:
                self._open[key] = _OpenAttempt(attempt, self._logfiles)
            if attempt.status.final:
                self._open[key].ended = attempt


class _OpenAttempt:
    """An attempt of which not everything was told yet."""

    def __init__(self, attempt: AttemptRecord, logfiles: LogFiles) -> None:
        files = logfiles.paths(attempt.run_id, attempt.task_no, attempt.attempt)
        self._task_id = attempt.task_id
        self._attempt = attempt.attempt
        self._streams = {
            LogStream.OUTPUT: _GrowingText(Path(files.stdout)),
            LogStream.ERROR: _GrowingText(Path(files.stderr)),
        }
        self.ended: AttemptRecord | None = None
        self.drained = False

    def read(self, pieces: list[LogPiece], *, at_most: int, last: bool) -> int:
        """Append what is new of both streams; return how many bytes were read. With *last*, nothing more will come."""
        count = 0
        for stream, text in self._streams.items():
            enough = at_most if last else count + at_most // 2
            while count < enough:
                size, new = text.read(min(CHUNK_BYTES, enough - count), last=last)
                count += size
                if new:
                    pieces.append(LogPiece(self._task_id, self._attempt, stream, new))
                if not size:
                    break
        if last and all(text.finished for text in self._streams.values()):
            self._finish(pieces)
        return count

    def _finish(self, pieces: list[LogPiece]) -> None:
        self.drained = True
        ended = self.ended
        for stream, text in self._streams.items():
            if text.removed:
                note = f"{stream}: the log was removed while it was read, so this is not all of it\n"
                pieces.append(LogPiece(self._task_id, self._attempt, LogStream.NOTE, note))
            if not text.found and ended is not None:
                tail, size = (
                    (ended.stdout_tail, ended.stdout_bytes)
                    if stream is LogStream.OUTPUT
                    else (ended.stderr_tail, ended.stderr_bytes)
                )
                if tail:
                    pieces.append(LogPiece(self._task_id, self._attempt, stream, kept_tail(tail, size)))
        if ended is not None and ended.error:
            note = f"attempt {ended.attempt} {ended.status}: {ended.error}\n"
            pieces.append(LogPiece(self._task_id, self._attempt, LogStream.NOTE, note))


class _GrowingText:
    """A file that is read as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.found = False
        self.removed = False
        self.finished = False

    def read(self, at_most: int, *, last: bool) -> tuple[int, str]:
        """Return how many bytes were read, and the text to tell: whole lines, until one gets too long or rests."""
        data = self._bytes(at_most)
        text = self._held + self._decoder.decode(data, last and not data)
        self._held = ""
        if last and not data:
            self.finished = True
        if data:
            cut = text.rfind("\n") + 1
            if len(text) - cut <= _MAX_HELD:
                text, self._held = text[:cut], text[cut:]
        return len(data), text

    def _bytes(self, at_most: int) -> bytes:
        try:
            with self._path.open("rb", buffering=0) as file:
                size = file.seek(0, 2)
                self.found |= size > 0
                file.seek(self._offset)
                data = file.read(at_most)
        except OSError:
            self.removed = self.found
            return b""
        self._offset += len(data)
        return data
