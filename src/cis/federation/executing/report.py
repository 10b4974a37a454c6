"""The report on a run from its executing node to its origin, made of the store and the log files.

    run       its row; the final state only in the report that leaves nothing out
    tasks     rows that changed since they were reported, by version
    attempts  of those tasks; once they are over, and then once
    logs      pieces of the attempts' files, each with its offset

A ``Cursor`` says how far a run was reported. It holds versions, so a hint that misses a task (it may have changed after
the hint was made) does no harm: before the end is reported, every version is compared. An empty cursor reports all
again.

A task is reported together with its attempts, and an attempt is over only when its files were reported to their end, so
whoever follows the log at the other end misses nothing. What is too much for one report comes in pages; in each
page something is reported.

A log file may shrink, since the worker cuts one that is over its cap (docs/adr/0007). Its stream then rests until the
attempt is over, and is reported again from its beginning; the last piece of a stream says so, and ends the copy there.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

from cis.engine.logfiles import LogFiles
from cis.engine.lookup import look_up_run
from cis.federation.records import (
    MAX_ROW,
    MAX_STREAM_BYTES,
    Piece,
    Stream,
    attempt_fields,
    named_tasks,
    piece_fields,
    run_fields,
    task_fields,
)
from cis.model.dag import Json
from cis.store.port import Store
from cis.store.records import AttemptRecord, TaskRecord

PAGE_ROWS = 4 * 2**20  # characters of JSON, reached by the last row that is reported
ATTEMPTS_AT_ONCE = 64

AttemptKey = tuple[int, int]
Offsets = tuple[int | None, int | None]
_START: Offsets = (0, 0)
_REPORTED = -1
_FIRST_VERSION = 1  # of a task to which nothing has happened: the other node has it as well


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """How far a run was reported; ``Cursor()`` is the start. An attempt is named by its task's number and its own.

    ``versions`` are those of the tasks as they were reported; ``offsets`` of the two streams of attempts that are not
    reported to their end (None: the file was cut, and rests; -1: this stream was), ``ended`` the attempts that are;
    ``waiting`` are ids of tasks that did not fit into the last report.
    """

    versions: Mapping[int, int] = field(default_factory=dict)
    offsets: Mapping[AttemptKey, Offsets] = field(default_factory=dict)
    ended: AbstractSet[AttemptKey] = frozenset()
    waiting: AbstractSet[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What is to be reported now, and the cursor to go on from once it was received.

    ``more``: something was left over, so make another one at once. ``final``: the run is over, and with this
    everything is reported.
    """

    content: dict[str, Json]
    cursor: Cursor
    more: bool
    final: bool


def build_report(
    store: Store,
    logfiles: LogFiles,
    run_id: str,
    *,
    tasks: Collection[str] | None,
    cursor: Cursor,
    max_bytes: int = 512 * 2**10,
    max_tasks: int = 2000,
    max_log_bytes: int = 4 * 2**20,
) -> Report:
    """Return what *cursor* has not reported yet of *tasks* (ids; None: of all), and of the logs that grow.

    At most *max_bytes* of log text and *max_tasks* tasks are in one report; of one stream, *max_log_bytes* are
    copied, then its end from the attempt's row.

    Raises:
        NotFoundError: no such run.
    """
    run = look_up_run(store.runs, run_id)  # first: when it is over, so is all that is read after it
    names = None if tasks is None or run.status.final else {*tasks, *cursor.waiting}
    changed = [
        task
        for task in named_tasks(store, run, names)
        if cursor.versions.get(task.task_no, 0 if task.is_added else _FIRST_VERSION) != task.version
    ]
    rows = _AttemptRows(store, run_id, at_once=min(ATTEMPTS_AT_ONCE, sum(task.attempts for task in changed)))
    page = _Page(rows, logfiles, run_id, cursor, log_room=max_bytes, tasks=max_tasks, log_cap=max_log_bytes)
    for task in changed:
        page.add_task(task)
    page.add_growth()
    final = run.status.final and not page.more
    return Report(
        content={
            "run": run_fields(run, final=final),
            "tasks": page.tasks,
            "attempts": page.attempts,
            "logs": page.logs,
        },
        cursor=page.cursor(),
        more=page.more,
        final=final,
    )


class _AttemptRows:
    """The attempts of a run in the order of its tasks, read a few at a time: all of them may be gigabytes."""

    def __init__(self, store: Store, run_id: str, *, at_once: int) -> None:
        self._store = store
        self._run_id = run_id
        self._at_once = at_once
        self._few: deque[AttemptRecord] = deque()

    def after(self, key: AttemptKey) -> AttemptRecord | None:
        """Return the attempt that follows one; what is asked for comes in order."""
        while self._few and (self._few[0].task_no, self._few[0].attempt) <= key:
            self._few.popleft()
        if not self._few:
            self._few.extend(self._store.attempts.page(self._run_id, *key, limit=self._at_once))
        return self._few[0] if self._few else None


class _Page:
    """One report while it is being filled, and the cursor after it."""

    def __init__(
        self,
        rows: _AttemptRows,
        logfiles: LogFiles,
        run_id: str,
        cursor: Cursor,
        *,
        log_room: int,
        tasks: int,
        log_cap: int,
    ) -> None:
        self.tasks: list[Json] = []
        self.attempts: list[Json] = []
        self.logs: list[Json] = []
        self._rows = rows
        self._logfiles = logfiles
        self._run_id = run_id
        self._log_room = log_room
        self._log_cap = min(log_cap, MAX_STREAM_BYTES // 2)
        self._most_tasks = tasks
        self._row_room = PAGE_ROWS
        self._versions = dict(cursor.versions)
        self._offsets = dict(cursor.offsets)
        self._ended = set(cursor.ended)
        self._waiting: set[str] = set()
        self._seen: set[AttemptKey] = set()
        self._starved = False

    @property
    def more(self) -> bool:
        """Whether something was left over."""
        return bool(self._waiting) or self._starved

    def cursor(self) -> Cursor:
        """Return how far the run is reported with this page."""
        return Cursor(
            versions=self._versions,
            offsets=self._offsets,
            ended=frozenset(self._ended),
            waiting=frozenset(self._waiting),
        )

    def add_task(self, task: TaskRecord) -> None:
        """Add a task with all of its attempts; it waits for the next page when not all of them could be reported.

        Its attempts are read only when there is room for them.
        """
        no_room = self._full or (self._log_room <= 0 and task.attempts > 0 and task.status.final)
        if no_room or not all(map(self._add_attempt, self._unreported(task))) or self._full:
            self._waiting.add(task.task_id)
            return
        self._add(self.tasks, {"no": task.task_no, **task_fields(_bounded(task))})
        self._versions[task.task_no] = task.version

    def _unreported(self, task: TaskRecord) -> Iterator[AttemptRecord]:
        """Return the attempts at a task that were not reported yet, in their order."""
        number = 0
        while (task.task_no, number + 1) in self._ended:
            number += 1
        while number < task.attempts:
            found = self._rows.after((task.task_no, number))
            if found is None or found.task_no != task.task_no:
                return
            yield found
            number = found.attempt

    def add_growth(self) -> None:
        """Add what was written since by attempts of which nothing else is new."""
        for key in list(self._offsets):
            if key not in self._seen and not self._add_logs(key, ended=None):
                self._starved = True

    @property
    def _full(self) -> bool:
        return self._row_room <= 0 or len(self.tasks) >= self._most_tasks

    def _add(self, rows: list[Json], row: dict[str, Json]) -> None:
        rows.append(row)
        self._row_room -= len(json.dumps(row))

    def _add_attempt(self, attempt: AttemptRecord) -> bool:
        key = (attempt.task_no, attempt.attempt)
        if key in self._ended:
            return True
        if self._full:
            return False
        over = attempt.status.final
        self._seen.add(key)
        complete = self._add_logs(key, ended=attempt if over else None)
        if not over:
            self._starved |= not complete
            self._add(self.attempts, attempt_fields(attempt))
            return True
        if complete:
            self._add(self.attempts, attempt_fields(attempt))
            self._ended.add(key)
            del self._offsets[key]
        return complete

    def _add_logs(self, key: AttemptKey, *, ended: AttemptRecord | None) -> bool:
        """Add what is new of both streams of an attempt; return whether that is all there is."""
        files = self._logfiles.paths(self._run_id, *key)
        out, err = self._offsets.get(key, _START)
        out_tail, err_tail = (ended.stdout_tail, ended.stderr_tail) if ended is not None else (None, None)
        out, out_done = self._add_stream(key, Stream.OUT, files.stdout, out, tail=out_tail)
        err, err_done = self._add_stream(key, Stream.ERR, files.stderr, err, tail=err_tail)
        self._offsets[key] = (out, err)
        return out_done and err_done

    def _add_stream(
        self, key: AttemptKey, stream: Stream, path: str, offset: int | None, *, tail: str | None
    ) -> tuple[int | None, bool]:
        """Add a piece of a stream (*tail*: its end, once it is over); return the next offset, and if that is all."""
        over = tail is not None
        if offset == _REPORTED or (offset is None and not over):
            return offset, True
        if self._log_room <= 0:
            return offset, False
        found = _read(path, offset or 0, at_most=self._log_room, cap=self._log_cap)
        if found is not None and offset is not None and found.size < offset:
            offset = None
            found = _read(path, 0, at_most=self._log_room, cap=self._log_cap) if over else None
        if found is None:
            return offset, True
        begin = offset or 0
        end = begin + len(found.data)
        done = end >= min(found.size, self._log_cap)
        last, data = over and done, found.data
        if last and found.size > self._log_cap:
            left_out = found.size - self._log_cap
            note = f"[cis: {left_out} bytes are left out here; the node that ran this has them, and this is their end]"
            data += f"\n{note}\n{tail}".encode()
        if data or (last and offset is None):
            self._add_log(key, stream, begin, data, last=last)
        return (_REPORTED if last else end), done

    def _add_log(self, key: AttemptKey, stream: Stream, offset: int, data: bytes, *, last: bool) -> None:
        self._log_room -= len(data)
        number, attempt = key
        piece = Piece(task_no=number, attempt=attempt, stream=stream, offset=offset, data=data, last=last)
        self.logs.append(piece_fields(piece))


@dataclass(frozen=True, slots=True)
class _Found:
    size: int
    data: bytes


def _read(path: str, offset: int, *, at_most: int, cap: int) -> _Found | None:
    """Return a file's size, and what it has from *offset* on, up to *cap*; None when there is no file to read."""
    try:
        with Path(path).open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            length = min(at_most, min(size, cap) - offset)
            return _Found(size, os.pread(file.fileno(), length, offset) if length > 0 else b"")
    except OSError:
        return None


def _bounded(task: TaskRecord) -> TaskRecord:
    """Return a task without outputs that are too large: those of a DAG as a task are those of all of its tasks."""
    if not task.outputs or len(json.dumps(dict(task.outputs))) <= MAX_ROW:
        return task
    return task._replace(outputs={}, error=task.error or "its outputs are too large to be told to another node")
