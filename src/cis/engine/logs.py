"""What the tasks of a run wrote: whole, as JSON objects, or piece by piece while it is being written.

The text comes from the attempts' files; where one was pruned, the tail that the database keeps takes its place.
A reader holds a bounded amount of text at a time, and decodes as it goes: a character whose bytes come in two
pieces stays one character, and bytes that are no UTF-8 become U+FFFD.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cis.engine.existing import existing_run
from cis.engine.logfiles import LogFiles
from cis.engine.logreader import LogPiece, LogReader, kept_tail
from cis.engine.timestamps import rfc3339
from cis.errors import NotFoundError
from cis.store.records import AttemptRecord

if TYPE_CHECKING:
    from cis.model.dag import Json
    from cis.model.scope_patterns import Patterns
    from cis.store.port import Store

MAX_TEXT_BYTES = 8 * 2**20


def chosen_attempts(
    store: Store, run_id: str, *, task: str | None = None, attempt: int | None = None, scopes: Patterns | None = None
) -> Sequence[AttemptRecord]:
    """Return the attempts of a run that are asked for, by start.

    Raises:
        NotFoundError: no such run, no such task in it, or no such attempt.
    """
    check_choice(store, run_id, task=task, scopes=scopes)
    attempts = store.attempts(run_id, task_id=task, attempt=attempt)
    if attempt is not None and not attempts:
        of = f"of task {task!r}" if task is not None else f"of run {run_id}"
        raise NotFoundError("attempt", str(attempt), hint=f"{of} there are fewer")
    return attempts


def check_choice(store: Store, run_id: str, *, task: str | None, scopes: Patterns | None = None) -> None:
    """Raise NotFoundError when there is no such run that may be seen, or no such task in it."""
    existing_run(store, run_id, scopes=scopes)
    if task is not None and store.task(run_id, task) is None:
        raise NotFoundError("task", task, hint=f"run {run_id} has none of that id")


def attempt_logs(
    store: Store, logfiles: LogFiles, run_id: str, *, task: str | None = None, attempt: int | None = None
) -> Iterator[dict[str, Json]]:
    """Return the log of each attempt that is asked for, by start, one at a time.

    Raises:
        NotFoundError: as for ``chosen_attempts``, at once.
    """
    attempts = chosen_attempts(store, run_id, task=task, attempt=attempt)
    return (attempt_log_view(each, logfiles) for each in attempts)


def attempt_log_view(attempt: AttemptRecord, logfiles: LogFiles) -> dict[str, Json]:
    """Return one attempt with what it wrote: ``output`` and ``error`` are its two streams.

    Each is cut in its middle, with a note, when it is longer than ``MAX_TEXT_BYTES``; ``reason`` says why the
    attempt did not complete.
    """
    files = logfiles.paths(attempt.run_id, attempt.task_no, attempt.attempt)
    return {
        "run_id": attempt.run_id,
        "task_id": attempt.task_id,
        "attempt": attempt.attempt,
        "status": str(attempt.status),
        "exit_code": attempt.exit_code,
        "started_at": rfc3339(attempt.started_at_us),
        "finished_at": rfc3339(attempt.finished_at_us),
        "output": _text(Path(files.stdout), attempt.stdout_tail, attempt.stdout_bytes),
        "error": _text(Path(files.stderr), attempt.stderr_tail, attempt.stderr_bytes),
        "reason": attempt.error,
    }


def log_pieces(
    store: Store, logfiles: LogFiles, run_id: str, *, task: str | None = None, attempt: int | None = None
) -> Iterator[LogPiece]:
    """Return all that was written so far, complete, attempt after attempt, in pieces of bounded size.

    Raises:
        NotFoundError: as for ``chosen_attempts``, at once.
    """
    chosen_attempts(store, run_id, task=task, attempt=attempt)
    reader = LogReader(logfiles, run_id, task=task, attempt=attempt, follow=False)
    return (piece for piece in _looks(reader, store) if piece is not None)


def follow(
    store: Store, logfiles: LogFiles, run_id: str, *, task: str | None = None, attempt: int | None = None
) -> Iterator[LogPiece | None]:
    """Return what was written, and then what is being written, until the run is over and all of it was told.

    A None means that nothing is new: wait a moment before the next one. Where the steps are not taken in one
    thread, drive a ``LogReader`` instead.

    Raises:
        NotFoundError: no such run, or no such task in it, at once.
    """
    check_choice(store, run_id, task=task)
    return _looks(LogReader(logfiles, run_id, task=task, attempt=attempt, follow=True), store)


def _looks(reader: LogReader, store: Store) -> Iterator[LogPiece | None]:
    while not reader.over:
        pieces = reader.look(store)
        yield from pieces
        if not pieces and not reader.over:
            yield None


def _text(path: Path, tail: str, total_bytes: int) -> str:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            if size <= MAX_TEXT_BYTES:
                return file.read(MAX_TEXT_BYTES).decode(errors="replace")
            half = MAX_TEXT_BYTES // 2
            head = _whole_lead(file.read(half))
            file.seek(size - half)
            end = file.read(half).lstrip(_CONTINUATION)
    except OSError:
        return kept_tail(tail, total_bytes)
    left_out = size - len(head) - len(end)
    note = f"\n[{left_out} bytes left out here; the plain-text log has them]\n"
    return head.decode(errors="replace") + note + end.decode(errors="replace")


_CONTINUATION = bytes(range(0x80, 0xC0))


def _whole_lead(head: bytes) -> bytes:
    """Return *head* without a character that was cut at its end."""
    for back in range(1, 4):
        byte = head[-back]
        if byte < 0x80:
            break
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return head[:-back] if back < length else head
    return head
