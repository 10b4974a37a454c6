"""Reading a run's logs step by step, also while they grow: the one way to watch what a run does.

A reader is driven by ``look``: each call returns what is new, a bounded amount, and an empty list when nothing is.
It learns of attempts from the event log, so one that starts and ends between two looks is seen, and it lists all
attempts again when the run is over, or when the event log has moved on too far. Between two looks, wait for an event,
``pause_s`` at most: text grows without one.

With ``around`` it tells as well of what writes nothing: skipped tasks, and child runs, whose logs follow under names
like ``parent-task/task``.

However many attempts a run has, little of them is in memory: a list has ``PLACES_AT_ONCE`` of their places, the next
ones follow when these are told, and what the database keeps of an attempt is read when its turn has come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cis.engine.logfiles import LogFiles
from cis.engine.observe.growing import GrowingText, Written, read_times
from cis.engine.observe.logtext import LogPiece, LogStream
from cis.model.states import TaskState, skip_words
from cis.store.records import TAIL_BYTES, AttemptPlace, AttemptRecord, TaskRecord

if TYPE_CHECKING:
    from cis.store.port import Store

LOOK_BYTES = 2**18
CHUNK_BYTES = 2**16
PLACES_AT_ONCE = 10_000
MOST_OPEN = 1000
MOST_RUNS = 1000  # of a tree that are followed at once
GROWS_S = 0.1
POLL_S = 1.0  # for what no event tells: a worker without a supervisor, an event log that moved on
_EVENTS_AT_ONCE = 1000
_FEW_TASKS = 1000
_LEAST_COST = 2**8  # of an attempt that wrote nothing, in bytes: its row and its files are looked at


_Key = tuple[int, int]
"""An attempt of a run: the number of its task, and its own."""


def kept_tail(tail: str, total_bytes: int) -> str:
    """Return a tail that stands for a pruned file, with a note when it is not all of it."""
    if total_bytes <= TAIL_BYTES:
        return tail
    return f"[the log file is gone; of its {total_bytes} bytes these were kept]\n{tail}"


class LogChoice(NamedTuple):
    """Which logs of a run are read: all, or those of one task, of one attempt, of the tasks that failed.

    With ``follow`` until the run is over. ``around``: see above.
    """

    task: str | None = None
    attempt: int | None = None
    failed: bool = False
    follow: bool = False
    around: bool = False


class LogReader:
    """Reads the logs of one run, and of its child runs if asked; stores may differ from look to look."""

    def __init__(self, logfiles: LogFiles, run_id: str, choice: LogChoice) -> None:
        self._logfiles = logfiles
        self._runs = {run_id: _RunReader(logfiles, run_id, choice)}
        self._choice = choice
        self._seq: int | None = None
        self._stopped = False

    @property
    def over(self) -> bool:
        """Whether everything was told and nothing more can come."""
        return not self._runs

    @property
    def rests(self) -> bool:
        """Whether the last look came to the end, and more can come: wait for an event before the next one."""
        return not self.over and not self._stopped

    @property
    def pause_s(self) -> float:
        """How long to wait for an event at most."""
        return GROWS_S if any(run.grows for run in self._runs.values()) else POLL_S

    def concerned(self, run_id: str | None) -> bool:
        """Whether an event of that run is a reason to look."""
        return run_id in self._runs

    def look(self, store: Store) -> list[LogPiece]:
        """Return what is new, about ``LOOK_BYTES`` at most."""
        changed = self._changed_tasks(store)
        pieces: list[LogPiece] = []
        budget = LOOK_BYTES
        for run_id, run in list(self._runs.items()):
            if budget <= 0:
                break
            budget = run.look(store, changed if changed is None else changed.get(run_id, {}), pieces, budget)
            for child_id, within in run.children():
                if len(self._runs) < MOST_RUNS:
                    below = self._choice._replace(task=None)
                    self._runs[child_id] = _RunReader(self._logfiles, child_id, below, within=within)
            if run.over:
                del self._runs[run_id]
        self._stopped = budget <= 0
        return pieces

    def _changed_tasks(self, store: Store) -> dict[str, dict[str, None]] | None:
        """Return the tasks of each run of which something happened since the last look; None when nobody can tell."""
        if self._seq is None or not self._choice.follow:
            self._seq = store.events.last_seq()
            return None
        found: dict[str, dict[str, None]] = {}
        while True:
            events = store.events.after(self._seq, limit=_EVENTS_AT_ONCE)
            if events and events[0].seq > self._seq + 1:
                self._seq = store.events.last_seq()
                return None
            for event in events:
                if event.run_id in self._runs and event.task_id is not None:
                    found.setdefault(event.run_id, {})[event.task_id] = None
            if events:
                self._seq = events[-1].seq
            if len(events) < _EVENTS_AT_ONCE:
                return found


class _RunReader:
    """Reads the logs of one run; *within* comes before the names of its tasks."""

    def __init__(self, logfiles: LogFiles, run_id: str, choice: LogChoice, *, within: str = "") -> None:
        self._logfiles = logfiles
        self._run_id = run_id
        self._choice = choice
        self._within = within
        self._begun = False
        self._run_over = False
        self._listed_to: AttemptPlace | None = None
        self._listed_all = False
        self._due: dict[_Key, None] = {}
        self._open: dict[_Key, _OpenAttempt] = {}
        self._told: set[_Key] = set()  # of a follower, which lists more than once
        self._several: set[int] = set()
        self._noted: set[str] = set()  # skipped tasks and child runs
        self._children: list[tuple[str, str]] = []

    @property
    def over(self) -> bool:
        """Whether everything was told and nothing more can come."""
        return self._run_over and self._listed_all and not self._due and not self._open

    @property
    def grows(self) -> bool:
        """Whether a log may grow without an event."""
        return bool(self._open)

    def children(self) -> list[tuple[str, str]]:
        """Return the child runs that were found since the last time, and what comes before their tasks' names."""
        found, self._children = self._children, []
        return found

    def look(self, store: Store, changed: Iterable[str] | None, pieces: list[LogPiece], budget: int) -> int:
        """Append what is new, about *budget* bytes at most, and return what is left of these.

        *changed* are the tasks of which something happened; None: any may be.
        """
        notes: list[LogPiece] = []
        if not self._run_over:
            self._discover(store, changed, notes)
        for key in list(self._open):
            if budget > 0:
                budget -= self._read(store, key, pieces, at_most=budget)
        while budget > 0 and len(self._open) < MOST_OPEN:
            due = self._next_due(store)
            if due is None:
                break
            budget -= _LEAST_COST
            record = store.attempts.get(self._run_id, *due)
            if record is not None and self._is_wanted(store, record):
                self._open[due] = _OpenAttempt(record, self._logfiles, within=self._within)
                budget -= self._read(store, due, pieces, at_most=max(budget, 1))
        pieces += notes
        return budget

    def _is_wanted(self, store: Store, record: AttemptRecord) -> bool:
        return not self._choice.failed or has_failed(store, record)

    def _read(self, store: Store, key: _Key, pieces: list[LogPiece], *, at_most: int) -> int:
        """Append what is new of an open attempt, and close it when that is all; return what counts as read."""
        attempt = self._open[key]
        attempt.several = self._choice.attempt is None and (key[1] > 1 or key[0] in self._several)
        last = self._run_over or attempt.over
        count = attempt.read(pieces, at_most=at_most if last else min(CHUNK_BYTES, at_most), last=last)
        if not (last and attempt.drained):
            return count
        before = len(pieces)
        attempt.finish(pieces, store.attempts.get(self._run_id, *key))
        del self._open[key]
        if self._choice.follow:
            self._told.add(key)
        return count + sum(len(piece.text) for piece in pieces[before:])

    def _discover(self, store: Store, changed: Iterable[str] | None, notes: list[LogPiece]) -> None:
        run = store.runs.get(self._run_id)
        over = run is None or run.status.final or not self._choice.follow
        mine = None if changed is None else [each for each in changed if self._choice.task in (None, each)]
        if over or mine is None or not self._begun or len(mine) > _FEW_TASKS or len(self._due) >= PLACES_AT_ONCE:
            self._begun, self._run_over = True, over
            self._due.clear()
            self._listed_to, self._listed_all = None, False
            self._note(store.tasks.of_run(self._run_id, outputs=False) if self._choice.around else (), notes)
            return
        for task_id in mine:
            task = store.tasks.get(self._run_id, task_id) if self._choice.around else None
            self._note(() if task is None else (task,), notes)
            self._take(self._places(store, task=task_id, after=None))

    def _note(self, tasks: Iterable[TaskRecord], notes: list[LogPiece]) -> None:
        """Tell of tasks that were skipped, or failed before they began, and of runs that are tasks, once each."""
        for task in tasks:
            if self._choice.task not in (None, task.task_id):
                continue
            name, child_id = self._within + task.task_id, task.child_run_id
            said = _said_of(task, failed=self._choice.failed)
            if said is not None and task.task_id not in self._noted:
                self._noted.add(task.task_id)
                notes.append(LogPiece(name, 0, LogStream.NOTE, f"{said}\n", task.finished_at_us or 0))
            if child_id is not None and child_id not in self._noted:
                self._noted.add(child_id)
                self._children.append((child_id, f"{name}/"))
                if not self._choice.failed:
                    notes.append(_note_of(task, name, f"is run {child_id}\n"))

    def _next_due(self, store: Store) -> _Key | None:
        """Return the next attempt to open; None when there is none. The list is read on when all it had was opened."""
        while not self._due and not self._listed_all:
            places = self._places(store, task=self._choice.task, after=self._listed_to)
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
            self._run_id, task_id=task, attempt=self._choice.attempt, after=after, limit=PLACES_AT_ONCE
        )

    def _take(self, places: Iterable[AttemptPlace]) -> None:
        for place in places:
            key = (place.task_no, place.attempt)
            if place.attempt > 1:
                self._several.add(place.task_no)
            if key in self._open:
                self._open[key].over |= place.over
            elif key not in self._told:
                self._due[key] = None


def has_failed(store: Store, attempt: AttemptRecord) -> bool:
    """Whether an attempt is one of a task that failed, and was not allowed to."""
    task = store.tasks.get(attempt.run_id, attempt.task_id)
    return task is not None and task.is_failure


def _said_of(task: TaskRecord, *, failed: bool) -> str | None:
    """Return what is told of a task that has no attempt to show: it was skipped, or, also of the *failed*, could not begin."""
    if task.status is TaskState.SKIPPED and not failed:
        return skip_words(task.skip_reason, task.blocked_by)
    return task.error if task.is_failure and task.started_at_us is None else None


def _note_of(task: TaskRecord, name: str, text: str) -> LogPiece:
    return LogPiece(name, task.attempts, LogStream.NOTE, text, task.started_at_us or 0, task.attempts > 1)


class _OpenAttempt:
    """An attempt of which not everything was told yet."""

    def __init__(self, attempt: AttemptRecord, logfiles: LogFiles, *, within: str) -> None:
        files = logfiles.paths(attempt.run_id, attempt.task_no, attempt.attempt)
        self._name = within + attempt.task_id
        self._attempt = attempt.attempt
        self._streams = {
            LogStream.OUTPUT: GrowingText(Path(files.stdout)),
            LogStream.ERROR: GrowingText(Path(files.stderr)),
        }
        self._times_path = Path(files.times)
        self._times: deque[Written] | None = None
        self.several = False
        self.over = attempt.status.final
        self.drained = False

    def read(self, pieces: list[LogPiece], *, at_most: int, last: bool) -> int:
        """Append what is new of both streams, the one first that was written to first, as far as their files tell.

        Return how many bytes were read. With *last*, nothing more will come.
        """
        count = self._read_in_order(pieces, at_most=at_most) if last else 0
        if self._times:
            return count
        for stream, text in sorted(self._streams.items(), key=lambda each: each[1].look()):
            enough = at_most if last else count + at_most // 2
            while count < enough:
                size, new = text.read(min(CHUNK_BYTES, enough - count), last=last)
                count += size
                if new:
                    pieces.append(self._piece(stream, new, text.written_us))
                if not size:
                    break
        self.drained = last and all(text.finished for text in self._streams.values())
        return count

    def _read_in_order(self, pieces: list[LogPiece], *, at_most: int) -> int:
        """Append what is known to have been written when, in that order; return how many bytes were read."""
        if self._times is None:
            self._times = deque(read_times(self._times_path))
        count = 0
        while self._times and count < at_most:
            stream, at_us, end = self._times[0]
            text = self._streams[stream]
            if end <= text.offset:
                self._times.popleft()
                continue
            size, new = text.read(min(CHUNK_BYTES, at_most - count, end - text.offset), last=False)
            count += size
            if new:
                pieces.append(self._piece(stream, new, at_us))
            if not size:  # the file is shorter than that, or gone
                self._times.popleft()
        return count

    def finish(self, pieces: list[LogPiece], record: AttemptRecord | None) -> None:
        """Append what there is to say at the end of an attempt, and the kept tails of files that are gone."""
        ended = record if record is not None and record.status.final else None
        at_us = (ended.finished_at_us if ended is not None else None) or 0
        for stream, text in self._streams.items():
            if text.removed:
                note = f"{stream}: the log was removed while it was read, so this is not all of it\n"
                pieces.append(self._piece(LogStream.NOTE, note, text.written_us))
            if not text.found and ended is not None:
                tail, size = (
                    (ended.stdout_tail, ended.stdout_bytes)
                    if stream is LogStream.OUTPUT
                    else (ended.stderr_tail, ended.stderr_bytes)
                )
                if tail:
                    pieces.append(self._piece(stream, kept_tail(tail, size), at_us))
        if ended is not None and ended.error:
            note = f"attempt {ended.attempt} {ended.status}: {ended.error}\n"
            pieces.append(self._piece(LogStream.NOTE, note, at_us))

    def _piece(self, stream: LogStream, text: str, at_us: int) -> LogPiece:
        return LogPiece(self._name, self._attempt, stream, text, at_us, self.several)
