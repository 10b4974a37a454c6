"""Reading a run's logs step by step, also while they grow.

A reader is driven by ``look``: each call returns what is new, a bounded amount, and an empty list when nothing is.
It learns of attempts from the event log, so one that starts and ends between two looks is seen, and it lists all
attempts again when the run is over, or when the event log has moved on too far.

However many attempts a run has, little of them is in memory: a list has ``PLACES_AT_ONCE`` of their places, the next
ones follow when these are told, and what the database keeps of an attempt is read when its turn has come.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cis.engine.logfiles import LogFiles
from cis.store.records import TAIL_BYTES, AttemptPlace, AttemptRecord

if TYPE_CHECKING:
    from cis.store.port import Store

LOOK_BYTES = 2**18
CHUNK_BYTES = 2**16
PLACES_AT_ONCE = 10_000
MOST_OPEN = 1000
_EVENTS_AT_ONCE = 1000
_FEW_TASKS = 1000
_MAX_HELD = 8192
_LEAST_COST = 2**8  # of an attempt that wrote nothing, in bytes: its row and its files are looked at


_Key = tuple[int, int]
"""An attempt of a run: the number of its task, and its own."""


class LogStream(StrEnum):
    """Where a piece of text comes from; a ``note`` is what CIS-DAG has to say about the attempt."""

    OUTPUT = "output"
    ERROR = "error"
    NOTE = "note"


class LogPiece(NamedTuple):
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
        self._listed_to: AttemptPlace | None = None
        self._listed_all = False
        self._due: dict[_Key, None] = {}
        self._open: dict[_Key, _OpenAttempt] = {}
        self._told: set[_Key] = set()  # of a follower, which lists more than once
        self._stopped = False

    @property
    def over(self) -> bool:
        """Whether everything was told and nothing more can come."""
        return self._run_over and self._listed_all and not self._due and not self._open

    @property
    def rests(self) -> bool:
        """Whether the last look came to the end, and more can come: wait a moment before the next one."""
        return not self.over and not self._stopped

    def look(self, store: Store) -> list[LogPiece]:
        """Return what is new, about ``LOOK_BYTES`` at most."""
        if not self._run_over:
            self._discover(store)
        pieces: list[LogPiece] = []
        budget = LOOK_BYTES
        for key in list(self._open):
            if budget > 0:
                budget -= self._read(store, key, pieces, at_most=budget)
        while budget > 0 and len(self._open) < MOST_OPEN:
            due = self._next_due(store)
            if due is None:
                break
            budget -= _LEAST_COST
            record = store.attempts.get(self._run_id, *due)
            if record is not None:
                self._open[due] = _OpenAttempt(record, self._logfiles)
                budget -= self._read(store, due, pieces, at_most=max(budget, 1))
        self._stopped = budget <= 0
        return pieces

    def _read(self, store: Store, key: _Key, pieces: list[LogPiece], *, at_most: int) -> int:
        """Append what is new of an open attempt, and close it when that is all; return what counts as read."""
        attempt = self._open[key]
        last = self._run_over or attempt.over
        count = attempt.read(pieces, at_most=at_most if last else min(CHUNK_BYTES, at_most), last=last)
        if not (last and attempt.drained):
            return count
        before = len(pieces)
        attempt.finish(pieces, store.attempts.get(self._run_id, *key))
        del self._open[key]
        if self._follow:
            self._told.add(key)
        return count + sum(len(piece.text) for piece in pieces[before:])

    def _discover(self, store: Store) -> None:
        run = store.runs.get(self._run_id)
        over = run is None or run.status.final or not self._follow
        if over or self._seq is None:
            self._seq = store.events.last_seq()
            self._run_over = over
            self._list_anew()
            return
        tasks = self._changed_tasks(store, self._seq)
        if tasks is None or len(tasks) > _FEW_TASKS or len(self._due) >= PLACES_AT_ONCE:
            self._list_anew()
            return
        for task_id in tasks:
            self._take(self._places(store, task=task_id, after=None))

    def _list_anew(self) -> None:
        self._due.clear()
        self._listed_to, self._listed_all = None, False

    def _next_due(self, store: Store) -> _Key | None:
        """Return the next attempt to open; None when there is none. The list is read on when all it had was opened."""
        while not self._due and not self._listed_all:
            places = self._places(store, task=self._task, after=self._listed_to)
            self._listed_all = len(places) < PLACES_AT_ONCE
            if places:
                self._listed_to = places[-1]
                self._take(places)
        if not self._due:
            return None
        key = next(iter(self._due))
        del self._due[key]
        return key

    def _places(self, store: Store, *, task: str | None, after: AttemptPlace | None) -> Sequence[AttemptPlace]:
        return store.attempts.places(
            self._run_id, task_id=task, attempt=self._attempt, after=after, limit=PLACES_AT_ONCE
        )

    def _changed_tasks(self, store: Store, seq: int) -> list[str] | None:
        """Return the tasks of which something happened since event *seq*; None when that cannot be told."""
        found: dict[str, None] = {}
        while True:
            events = store.events.after(seq, limit=_EVENTS_AT_ONCE)
            if events and events[0].seq > seq + 1:
                self._seq = store.events.last_seq()
                return None
            for event in events:
                if event.run_id == self._run_id and event.task_id is not None and self._task in (None, event.task_id):
                    found[event.task_id] = None
            if events:
                self._seq = seq = events[-1].seq
            if len(events) < _EVENTS_AT_ONCE:
                return list(found)

    def _take(self, places: Iterable[AttemptPlace]) -> None:
        for place in places:
            key = (place.task_no, place.attempt)
            if key in self._open:
                self._open[key].over |= place.over
            elif key not in self._told:
                self._due[key] = None


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
        self.over = attempt.status.final
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
        self.drained = last and all(text.finished for text in self._streams.values())
        return count

    def finish(self, pieces: list[LogPiece], record: AttemptRecord | None) -> None:
        """Append what there is to say at the end of an attempt, and the kept tails of files that are gone."""
        ended = record if record is not None and record.status.final else None
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
