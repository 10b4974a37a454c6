"""What a node makes of the reports on a run that it accepted and another node executes (``cis.federation.report``).

Reports come doubled, late or not at all, and everything is told again after a restart, so each row is taken by itself:
tasks and the run when their version is higher than the one that is here, attempts when they are new or are over at
last, log bytes at their offset. A run ends here when its executor says so and the end of each of its tasks has been
heard; so a report that was lost cannot leave a run that is over with tasks that are not.

A run that is over gets no other tasks and no other state. What is still missing of its attempts and files is taken,
unless the run ended here by itself (it was given up, or taken back) and its executor knows nothing of that.

Nothing about a report is trusted. All of it is read before anything is written; unknown fields are passed over, since
the other node may run a newer program.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from cis.engine.logfiles import LogFiles
from cis.engine.lookup import look_up_run
from cis.engine.transitions import mirror
from cis.errors import MalformedMessageError
from cis.federation.mirrored import (
    LEFT_OUT,
    Piece,
    Stream,
    bytes_of,
    most_attempts,
    room_for,
    shortened,
    with_outputs_that_fit,
    write_logs,
)
from cis.federation.report import MAX_ERROR, MAX_ROW, MAX_STREAM_BYTES, named_tasks
from cis.model.dag import Json
from cis.model.ids import MAX_ID_LENGTH
from cis.model.scope import parse_worker_id
from cis.model.states import AttemptState, RunState, TaskState
from cis.store.cluster import RemoteRun
from cis.store.port import Store
from cis.store.records import TAIL_BYTES, AttemptRecord, RunChange, RunRecord, TaskRecord
from cis.store.run_port import Tasks

MAX_LOG_BYTES = 8 * 2**20  # of one report, unpacked
MAX_ITEMS = 100_000
MAX_NUMBER = 2**53 - 1
MAX_ATTEMPTS = 1_000_000
_EXIT_CODES = (-(2**31), 2**32)

S = TypeVar("S", bound=StrEnum)


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What came of a report: the run as it is now, and whether any row changed.

    ``parent_run_id`` is set when the report ended a run that is the task of another: its worker is to be rung.
    ``incomplete``: it tells the end of the run, but not all that led to it has come; ask for everything.
    """

    run: RunRecord
    changed: bool
    parent_run_id: str | None
    incomplete: bool = False


def apply_report(store: Store, logfiles: LogFiles, remote: RemoteRun, content: Json, *, now_us: int) -> Applied:
    """Take over what a report says that is not known here yet, inside the caller's transaction.

    *remote* says which run the sender executes; that it does was checked.

    Raises:
        MalformedMessageError: the report is none, or of another run. Nothing was changed.
        NotFoundError: the run is gone.
        StoreError: the log files cannot be written.
    """
    run = look_up_run(store.runs, remote.run_id)
    told = _read(store, run, content, peer=remote.peer)
    if run.status.final and not _is_of_heard_end(told.run, remote.heard_version):
        if told.run.status.final and remote.open:
            store.remotes.put(replace(remote, open=False))
        return Applied(run=run, changed=False, parent_run_id=None)
    told = _within_bounds(store, run, told, peer=remote.peer, room=room_for(run.task_count, remote.told_bytes))
    written = write_logs(logfiles, run.run_id, told.pieces)
    is_news = told.run.version > remote.heard_version

    def steps() -> Sequence[RunChange]:
        return _steps(run, told.run, now_us=now_us) if is_news and not _lacks_ends(store.tasks, run, told.run) else ()

    latest, tasks = mirror(store, run, () if run.status.final else told.tasks, steps, at_us=now_us)
    attempts = store.attempts.mirror(told.attempts)
    told_of = replace(remote, told_bytes=remote.told_bytes + written + bytes_of(tasks, attempts))
    incomplete = _lacks_ends(store.tasks, latest, told.run)
    if is_news and not incomplete:
        told_of = replace(told_of, heard_version=told.run.version, open=remote.open and not told.run.status.final)
    if told_of != remote:
        store.remotes.put(told_of)
    ended = latest.status.final and not run.status.final
    return Applied(
        run=latest,
        changed=bool(latest.version != run.version or tasks or attempts),
        parent_run_id=run.parent_run_id if ended else None,
        incomplete=incomplete,
    )


def _within_bounds(store: Store, run: RunRecord, told: _Told, *, peer: str, room: int) -> _Told:
    """Return what of a report is kept: at most what its run has room for. Raises MalformedMessageError."""
    both: list[AttemptRecord | Piece] = [*told.attempts, *told.pieces]
    numbers = {one.task_no for one in both}
    most = most_attempts(store.tasks, run.run_id, told.tasks, numbers) if numbers else {}
    for one in both:
        if one.attempt > most.get(one.task_no, 0):
            raise MalformedMessageError(f"report tells of attempt {one.attempt} of a task that had fewer")
    tasks = with_outputs_that_fit(store, run.run_id, told.tasks)
    if room > 0:
        return replace(told, tasks=tasks)
    ended = replace(told.run, error=told.run.error or LEFT_OUT.format(peer)) if told.run.status.final else told.run
    return replace(told, run=ended, tasks=shortened(tasks), attempts=(), pieces=())


def _is_of_heard_end(told: _ToldRun, heard_version: int) -> bool:
    """Whether a report on a run that is over here can be one of those that led to that end."""
    return told.version == heard_version if told.status.final else told.version < heard_version


def _lacks_ends(tasks: Tasks, run: RunRecord, told: _ToldRun) -> bool:
    if not told.status.final or run.status.final:
        return False
    return not all(task.status.final for task in tasks.of_run(run.run_id))


def _steps(run: RunRecord, told: _ToldRun, *, now_us: int) -> list[RunChange]:
    """Return what brings the run to where its executor has it, arrow by arrow."""
    steps = []
    for status in _way(run.status, told):
        there = status is told.status
        started_at_us = None if status is RunState.PENDING else told.started_at_us
        change = RunChange(
            status=status,
            started_at_us=started_at_us if started_at_us != run.started_at_us else None,
            finished_at_us=(told.finished_at_us or now_us) if status.final else None,
            cancel_requested=True if told.cancel_requested and not run.cancel_requested else None,
            error=told.error if there and told.error != run.error else None,
        )
        if change != RunChange(status=run.status):
            steps.append(change)
            run = run._replace(
                status=status,
                started_at_us=started_at_us or run.started_at_us,
                cancel_requested=run.cancel_requested or told.cancel_requested,
            )
    return steps


def _way(status: RunState, told: _ToldRun) -> Sequence[RunState]:
    begun = told.started_at_us is not None or told.status is RunState.COMPLETED
    if status is RunState.PENDING and begun and told.status not in (RunState.PENDING, RunState.RUNNING):
        return RunState.RUNNING, told.status
    if status is RunState.RUNNING and told.status is RunState.PENDING:
        return RunState.PAUSED, told.status
    return (told.status,)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ToldRun:
    version: int
    status: RunState
    worker_id: str
    started_at_us: int | None
    finished_at_us: int | None
    error: str | None
    cancel_requested: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    run: _ToldRun
    tasks: Sequence[TaskRecord]
    attempts: Sequence[AttemptRecord]
    pieces: Sequence[Piece]


def _read(store: Store, run: RunRecord, content: Json, *, peer: str) -> _Told:
    report = _Fields(content, "report")
    told = _read_run(report.object("run"))
    tasks, attempts = report.objects("tasks"), report.objects("attempts")
    ids = [fields.text("id", at_most=MAX_ID_LENGTH) for fields in (*tasks, *attempts)]
    causes = [fields.maybe_text("blocked_by", at_most=MAX_ID_LENGTH) for fields in tasks]
    names = {name for name in (*ids, *causes) if name is not None}
    numbers = {task.task_id: task.task_no for task in named_tasks(store, run, names)}
    for fields, task_id in zip((*tasks, *attempts), ids, strict=True):
        if numbers.get(task_id) != fields.number("no"):
            raise fields.fault("id", f"and its number are of no task of run {run.run_id}")
    for fields, cause in zip(tasks, causes, strict=True):
        if cause is not None and cause not in numbers:
            raise fields.fault("blocked_by", f"is no task of run {run.run_id}")
    return _Told(
        run=told,
        tasks=[_read_task(fields, run.run_id) for fields in tasks],
        attempts=[_read_attempt(fields, run.run_id, worker_id=f"{peer}/{told.worker_id}") for fields in attempts],
        pieces=_read_pieces(report.objects("logs"), task_count=run.task_count),
    )


def _read_run(fields: _Fields) -> _ToldRun:
    return _ToldRun(
        version=fields.number("version", lowest=1),
        status=fields.state("status", RunState),
        worker_id=fields.worker_id("worker_id"),
        started_at_us=fields.maybe_number("started_at_us"),
        finished_at_us=fields.maybe_number("finished_at_us"),
        error=fields.maybe_text("error", at_most=MAX_ERROR),
        cancel_requested=fields.flag("cancel_requested"),
    )


def _read_task(fields: _Fields, run_id: str) -> TaskRecord:
    return TaskRecord(
        run_id=run_id,
        task_no=fields.number("no"),
        task_id=fields.text("id", at_most=MAX_ID_LENGTH),
        status=fields.state("status", TaskState),
        version=fields.number("version", lowest=1),
        attempts=fields.number("attempts", highest=MAX_ATTEMPTS),
        failures=fields.number("failures", highest=MAX_ATTEMPTS),
        exit_code=fields.maybe_number("exit_code", lowest=_EXIT_CODES[0], highest=_EXIT_CODES[1]),
        started_at_us=fields.maybe_number("started_at_us"),
        finished_at_us=fields.maybe_number("finished_at_us"),
        outputs=fields.texts("outputs", at_most=MAX_ROW),
        error=fields.maybe_text("error", at_most=MAX_ERROR),
        blocked_by=fields.maybe_text("blocked_by", at_most=MAX_ID_LENGTH),
        due_at_us=fields.maybe_number("retry_at_us"),
    )


def _read_attempt(fields: _Fields, run_id: str, *, worker_id: str) -> AttemptRecord:
    return AttemptRecord(
        run_id=run_id,
        task_no=fields.number("no"),
        task_id=fields.text("id", at_most=MAX_ID_LENGTH),
        attempt=fields.number("attempt", lowest=1, highest=MAX_ATTEMPTS),
        status=fields.state("status", AttemptState),
        worker_id=worker_id,
        epoch=fields.number("epoch"),
        started_at_us=fields.number("started_at_us"),
        finished_at_us=fields.maybe_number("finished_at_us"),
        exit_code=fields.maybe_number("exit_code", lowest=_EXIT_CODES[0], highest=_EXIT_CODES[1]),
        error=fields.maybe_text("error", at_most=MAX_ERROR),
        stdout_tail=fields.text("stdout_tail", at_most=2 * TAIL_BYTES),
        stderr_tail=fields.text("stderr_tail", at_most=2 * TAIL_BYTES),
        stdout_bytes=fields.number("stdout_bytes"),
        stderr_bytes=fields.number("stderr_bytes"),
    )


def _read_pieces(items: Sequence[_Fields], *, task_count: int) -> list[Piece]:
    room = MAX_LOG_BYTES
    pieces = []
    for fields in items:
        offset = fields.number("offset", highest=MAX_STREAM_BYTES)
        data = fields.packed("data", at_most=min(room, MAX_STREAM_BYTES - offset))
        room -= len(data)
        piece = Piece(
            task_no=fields.number("no", highest=task_count - 1),
            attempt=fields.number("attempt", lowest=1, highest=MAX_ATTEMPTS),
            stream=fields.state("stream", Stream),
            offset=offset,
            data=data,
            last=fields.flag("last", absent=False),
        )
        pieces.append(piece)
    return pieces


class _Fields:
    """An object of a report, read field by field; a fault names the place, and never repeats what is there."""

    def __init__(self, plain: Json, place: str) -> None:
        if not isinstance(plain, Mapping):
            raise MalformedMessageError(f"{place} must be an object")
        self._plain = plain
        self._place = place

    def fault(self, name: str, what: str) -> MalformedMessageError:
        return MalformedMessageError(f"{self._place}.{name} {what}")

    def object(self, name: str) -> _Fields:
        return _Fields(self._plain.get(name), f"{self._place}.{name}")

    def objects(self, name: str) -> list[_Fields]:
        plain = self._plain.get(name)
        if not isinstance(plain, list) or len(plain) > MAX_ITEMS:
            raise self.fault(name, f"must be a list of at most {MAX_ITEMS:,} objects")
        return [_Fields(item, f"{self._place}.{name}[{number}]") for number, item in enumerate(plain)]

    def number(self, name: str, *, lowest: int = 0, highest: int = MAX_NUMBER) -> int:
        value = self._plain.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise self.fault(name, f"must be a whole number from {lowest} to {highest}")
        return value

    def maybe_number(self, name: str, *, lowest: int = 0, highest: int = MAX_NUMBER) -> int | None:
        return None if self._plain.get(name) is None else self.number(name, lowest=lowest, highest=highest)

    def text(self, name: str, *, at_most: int) -> str:
        value = self._plain.get(name)
        if not isinstance(value, str) or len(value) > at_most or not _is_text(value):
            raise self.fault(name, f"must be a text of at most {at_most:,} characters")
        return value

    def maybe_text(self, name: str, *, at_most: int) -> str | None:
        return None if self._plain.get(name) is None else self.text(name, at_most=at_most)

    def texts(self, name: str, *, at_most: int) -> dict[str, str]:
        value = self._plain.get(name)
        if not isinstance(value, Mapping):
            raise self.fault(name, "must be an object")
        parts = [part for pair in value.items() for part in pair]
        if not all(isinstance(part, str) and _is_text(part) for part in parts) or sum(map(len, parts)) > at_most:
            raise self.fault(name, f"must hold texts, of at most {at_most:,} characters together")
        return dict(value)

    def worker_id(self, name: str) -> str:
        text = self.text(name, at_most=2 * MAX_ID_LENGTH)
        try:
            return parse_worker_id(text).worker_id
        except ValueError as error:
            raise self.fault(name, "must be the id of a worker") from error

    def flag(self, name: str, *, absent: bool | None = None) -> bool:
        value = self._plain.get(name, absent)
        if not isinstance(value, bool):
            raise self.fault(name, "must be true or false")
        return value

    def state(self, name: str, kind: type[S]) -> S:
        value = self._plain.get(name)
        if not isinstance(value, str) or value not in set(kind):
            raise self.fault(name, f"must be one of {', '.join(kind)}")
        return kind(value)

    def packed(self, name: str, *, at_most: int) -> bytes:
        """Return what a text in base64 holds, unpacked; a small text may stand for more memory than there is."""
        unpacking = zlib.decompressobj()
        try:
            packed = base64.b64decode(self.text(name, at_most=2 * MAX_LOG_BYTES), validate=True)
            data = unpacking.decompress(packed, at_most + 1)
        except (ValueError, zlib.error) as error:
            raise self.fault(name, "is no zlib data in base64") from error
        if len(data) > at_most:
            raise self.fault(name, f"unpacks to more than the {at_most:,} bytes that may stand there")
        if not unpacking.eof or unpacking.unused_data:
            raise self.fault(name, "is cut short, or more than one piece of zlib data")
        return data


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell and no database keeps
        return False
    return True
