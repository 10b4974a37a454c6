"""What the tasks of a run wrote: whole, as JSON objects, or piece by piece while it is being written.

The text comes from the attempts' files; where one was pruned, the tail that the database keeps takes its place.
A reader holds a bounded amount of text at a time, and decodes as it goes: a character whose bytes come in two
pieces stays one character, and bytes that are no UTF-8 become U+FFFD.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from cis.engine.logfiles import LogFiles
from cis.engine.lookup import look_up_run
from cis.engine.observe.logreader import CHUNK_BYTES, PLACES_AT_ONCE, LogChoice, LogReader, has_failed, kept_tail
from cis.engine.times import rfc3339
from cis.errors import NotFoundError
from cis.store.records import AttemptPlace, AttemptRecord

if TYPE_CHECKING:
    from cis.model.dag import Json
    from cis.model.scope_rules import Patterns
    from cis.store.port import Store

MAX_TEXT_BYTES = 8 * 2**20
ATTEMPTS_AT_ONCE = 64

_CONTINUATION = bytes(range(0x80, 0xC0))
_LONGEST_CHARACTER = 4
_new_decoder = partial(codecs.getincrementaldecoder("utf-8"), "replace")


def check_attempts(
    store: Store, run_id: str, *, task: str | None = None, attempt: int | None = None, scopes: Patterns | None = None
) -> None:
    """Raise NotFoundError when there is no such run that may be seen, no such task in it, or no such attempt."""
    check_choice(store, run_id, task=task, scopes=scopes)
    if attempt is not None and not store.attempts.places(run_id, task_id=task, attempt=attempt, limit=1):
        of = f"of task {task!r}" if task is not None else f"of run {run_id}"
        raise NotFoundError("attempt", str(attempt), hint=f"{of} there are fewer")


def check_choice(store: Store, run_id: str, *, task: str | None, scopes: Patterns | None = None) -> None:
    """Raise NotFoundError when there is no such run that may be seen, or no such task in it."""
    look_up_run(store.runs, run_id, scopes=scopes)
    if task is not None and store.tasks.get(run_id, task) is None:
        raise NotFoundError("task", task, hint=f"run {run_id} has none of that id")


def last_attempts(
    store: Store, run_id: str, *, task: str | None, scopes: Patterns | None, at_most: int
) -> Sequence[AttemptRecord]:
    """Return those attempts of a run, or of one task of it, that started last, by start.

    Raises:
        NotFoundError: no such run that may be seen, or no such task in it.
    """
    check_choice(store, run_id, task=task, scopes=scopes)
    last: deque[AttemptPlace] = deque(maxlen=at_most)
    more = True
    while more:
        after = last[-1] if last else None
        places = store.attempts.places(run_id, task_id=task, after=after, limit=PLACES_AT_ONCE)
        last.extend(places)
        more = len(places) == PLACES_AT_ONCE
    found = (store.attempts.get(run_id, place.task_no, place.attempt) for place in last)
    return [attempt for attempt in found if attempt is not None]


def last_lines_of_errors(store: Store, run_id: str, task_ids: Sequence[str]) -> dict[str, str]:
    """Return the last line that the last attempt at each task wrote to standard error, where there is one."""
    found = {}
    for task_id in task_ids:
        task = store.tasks.get(run_id, task_id)
        attempt = store.attempts.get(run_id, task.task_no, task.attempts) if task is not None else None
        lines = attempt.stderr_tail.split("\n") if attempt is not None else ()
        last = next((line.strip() for line in reversed(lines) if line.strip()), None)
        if last is not None:
            found[task_id] = last.rpartition("\r")[2]
    return found


class AttemptParts:
    """The attempts of a run that are asked for, by start, in parts: all of them may be more than fits into memory."""

    def __init__(self, run_id: str, *, task: str | None, attempt: int | None) -> None:
        self._run_id = run_id
        self._task = task
        self._attempt = attempt
        self._listed_to: AttemptPlace | None = None
        self._listed_all = False
        self._due: list[AttemptPlace] = []  # the next one is the last

    @property
    def over(self) -> bool:
        """Whether all parts were read."""
        return self._listed_all and not self._due

    def next(self, store: Store) -> Sequence[AttemptRecord]:
        """Return the next part, of ``ATTEMPTS_AT_ONCE`` attempts at most; it may be empty."""
        if not self._due and not self._listed_all:
            places = store.attempts.places(
                self._run_id, task_id=self._task, attempt=self._attempt, after=self._listed_to, limit=PLACES_AT_ONCE
            )
            self._listed_all = len(places) < PLACES_AT_ONCE
            self._listed_to = places[-1] if places else None
            self._due = list(reversed(places))
        part = [self._due.pop() for _ in range(min(ATTEMPTS_AT_ONCE, len(self._due)))]
        found = (store.attempts.get(self._run_id, place.task_no, place.attempt) for place in part)
        return [attempt for attempt in found if attempt is not None]


def attempt_logs(
    store: Store,
    logfiles: LogFiles,
    run_id: str,
    *,
    task: str | None = None,
    attempt: int | None = None,
    failed: bool = False,
) -> Iterator[dict[str, Json]]:
    """Return the log of each attempt that is asked for, by start, one at a time; with *failed*, of tasks that failed.

    Raises:
        NotFoundError: as for ``check_attempts``, at once.
    """
    check_attempts(store, run_id, task=task, attempt=attempt)
    parts = AttemptParts(run_id, task=task, attempt=attempt)
    wanted = (each for each in _each(parts, store) if not failed or has_failed(store, each))
    return (attempt_log_view(each, logfiles) for each in wanted)


def _each(parts: AttemptParts, store: Store) -> Iterator[AttemptRecord]:
    while not parts.over:
        yield from parts.next(store)


class AttemptLog(NamedTuple):
    """One attempt, and the text of its two streams in pieces of bounded size, each to be gone through once."""

    facts: dict[str, Json]
    output: Iterator[str]
    error: Iterator[str]


def attempt_log(attempt: AttemptRecord, logfiles: LogFiles) -> AttemptLog:
    """Return one attempt with what it wrote; its files are read as the pieces are asked for.

    A stream is cut in its middle, with a note, when it is longer than ``MAX_TEXT_BYTES``; ``reason`` says why the
    attempt did not complete.
    """
    files = logfiles.paths(attempt.run_id, attempt.task_no, attempt.attempt)
    return AttemptLog(
        facts={
            "run_id": attempt.run_id,
            "task_id": attempt.task_id,
            "attempt": attempt.attempt,
            "status": str(attempt.status),
            "exit_code": attempt.exit_code,
            "started_at": rfc3339(attempt.started_at_us),
            "finished_at": rfc3339(attempt.finished_at_us),
            "reason": attempt.error,
        },
        output=_text(Path(files.stdout), attempt.stdout_tail, attempt.stdout_bytes),
        error=_text(Path(files.stderr), attempt.stderr_tail, attempt.stderr_bytes),
    )


def attempt_log_view(attempt: AttemptRecord, logfiles: LogFiles) -> dict[str, Json]:
    """Return one attempt with what it wrote, whole: ``output`` and ``error`` are its two streams."""
    log = attempt_log(attempt, logfiles)
    return {**log.facts, "output": "".join(log.output), "error": "".join(log.error)}


def open_logs(
    store: Store, logfiles: LogFiles, run_id: str, choice: LogChoice, *, scopes: Patterns | None = None
) -> LogReader:
    """Return a reader of what was written so far, or, to follow it, of all that is written until the run is over.

    Raises:
        NotFoundError: as for ``check_attempts``; whoever follows may ask for an attempt that is still to come.
    """
    if choice.follow:
        check_choice(store, run_id, task=choice.task, scopes=scopes)
    else:
        check_attempts(store, run_id, task=choice.task, attempt=choice.attempt, scopes=scopes)
    return LogReader(logfiles, run_id, choice)


def _text(path: Path, tail: str, total_bytes: int) -> Iterator[str]:
    try:
        file = path.open("rb")
    except OSError:
        yield kept_tail(tail, total_bytes)
        return
    with file:
        size = file.seek(0, 2)
        if size <= MAX_TEXT_BYTES:
            file.seek(0)
            yield from _decoded(file, size, decoder=_new_decoder(), last=True)
            return
        half = MAX_TEXT_BYTES // 2
        file.seek(0)
        decoder = _new_decoder()
        yield from _decoded(file, half, decoder=decoder, last=False)
        cut, _ = decoder.getstate()  # of a character that is in the middle
        file.seek(size - half)
        first = file.read(min(half, _LONGEST_CHARACTER))
        end = first.lstrip(_CONTINUATION)
        left_out = size - 2 * half + len(cut) + len(first) - len(end)
        yield f"\n[{left_out} bytes left out here; the plain-text log has them]\n"
        decoder = _new_decoder()
        yield decoder.decode(end)
        yield from _decoded(file, half - len(first), decoder=decoder, last=True)


def _decoded(file: BinaryIO, length: int, *, decoder: codecs.IncrementalDecoder, last: bool) -> Iterator[str]:
    """Yield the text of the next *length* bytes; with *last*, also of a character that they do not complete."""
    while length > 0 and (data := file.read(min(CHUNK_BYTES, length))):
        length -= len(data)
        yield decoder.decode(data)
    if last:
        yield decoder.decode(b"", True)
