"""Merges reports on a run into its rows and logs at the origin (``cis.federation.executing.report`` makes them).

Reports come doubled, late or not at all, and everything is reported again after a restart, so each row is applied by
itself: tasks and the run when their version is higher than the one that is here, attempts when they are new or are over
at last, log bytes at their offset. A run ends here when its executing node says so and the end of each of its tasks was
applied; so a report that was lost cannot leave a run that is over with tasks that are not.

A run that is over gets no other tasks and no other state. What is still missing of its attempts and files is applied,
unless the run ended here by itself (it was given up, or taken back) and its executing node knows nothing of that.

Nothing about a report is trusted (``cis.federation.records``): all of it is read before anything is written. The other
node has the originals, and could send without end, so what is kept here is bounded, and counted in bytes as it is
written. A run may keep a fixed amount, and some more for each of its tasks. Beyond that, only states are taken, with
short errors, and the run says so when it is over. Outputs are bounded as those of a run that is executed here
(``cis.engine.outputs``).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from cis.engine.logfiles import LogFiles
from cis.engine.lookup import look_up_run
from cis.engine.outputs import no_room, size_of
from cis.engine.transitions import add_tasks, mirror
from cis.errors import MalformedMessageError, StoreError
from cis.federation.records import (
    MAX_TASK_ID,
    Piece,
    ReportedRun,
    Stream,
    named_tasks,
    read_attempt,
    read_pieces,
    read_run,
    read_task,
)
from cis.model.added import added_task
from cis.model.dag import Json
from cis.model.message import Fields
from cis.model.states import RunState
from cis.store.cluster import RemoteRun
from cis.store.port import Store, stored_spec
from cis.store.records import AttemptRecord, RunChange, RunRecord, TaskRecord
from cis.store.run_port import Tasks

MAX_REPORTED_BYTES = 2**30
MAX_REPORTED_OF_A_RUN = 64 * 2**20
MAX_REPORTED_OF_A_TASK = 2**20
MAX_AHEAD = 1000  # attempts of a task that may be reported before its row is
SHORT_ERROR = 500
_LEFT_OUT = "not all of its attempts and logs are kept here: they are more than a run of its size may have; {} has them"
_ROW_BYTES = 256
_FEW = 8

_FILE_BYTES = 4096  # what a new file takes at least
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


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
    reported = _read(store, run, content, peer_id=remote.peer_id)
    if run.status.final and not _is_of_applied_end(reported.run, remote.applied_version):
        if reported.run.status.final and remote.open:
            store.remotes.put(replace(remote, open=False))
        return Applied(run=run, changed=False, parent_run_id=None)
    reported = _within_bounds(
        store, run, reported, peer_id=remote.peer_id, room=_room_for(run.task_count, remote.reported_bytes)
    )
    written = _write_logs(logfiles, run.run_id, reported.pieces)
    is_news = reported.run.version > remote.applied_version

    def steps() -> Sequence[RunChange]:
        if not is_news or _lacks_ends(store.tasks, run, reported.run):
            return ()
        return _steps(run, reported.run, now_us=now_us)

    if reported.added and not run.status.final:
        add_tasks(store, run, reported.added, at_us=now_us)
    latest, tasks = mirror(store, run, () if run.status.final else reported.tasks, steps, at_us=now_us)
    attempts = store.attempts.mirror(reported.attempts)
    told_of = replace(remote, reported_bytes=remote.reported_bytes + written + _bytes_of(tasks, attempts))
    incomplete = _lacks_ends(store.tasks, latest, reported.run)
    if is_news and not incomplete:
        told_of = replace(
            told_of, applied_version=reported.run.version, open=remote.open and not reported.run.status.final
        )
    if told_of != remote:
        store.remotes.put(told_of)
    ended = latest.status.final and not run.status.final
    return Applied(
        run=latest,
        changed=bool(latest.version != run.version or tasks or attempts),
        parent_run_id=run.parent_run_id if ended else None,
        incomplete=incomplete,
    )


def _within_bounds(store: Store, run: RunRecord, reported: _Report, *, peer_id: str, room: int) -> _Report:
    """Return what of a report is kept: at most what its run has room for. Raises MalformedMessageError."""
    both: list[AttemptRecord | Piece] = [*reported.attempts, *reported.pieces]
    numbers = {one.task_no for one in both}
    most = _most_attempts(store.tasks, run.run_id, reported.tasks, numbers) if numbers else {}
    for one in both:
        if one.attempt > most.get(one.task_no, 0):
            raise MalformedMessageError(f"report tells of attempt {one.attempt} of a task that had fewer")
    tasks = _with_outputs_that_fit(store, run.run_id, reported.tasks)
    if room > 0:
        return replace(reported, tasks=tasks)
    ended = reported.run
    if ended.status.final:
        ended = replace(ended, error=ended.error or _LEFT_OUT.format(peer_id))
    return replace(reported, run=ended, tasks=_shortened(tasks), attempts=(), pieces=())


def _is_of_applied_end(reported: ReportedRun, applied_version: int) -> bool:
    """Whether a report on a run that is over here can be one of those that led to that end."""
    return reported.version == applied_version if reported.status.final else reported.version < applied_version


def _lacks_ends(tasks: Tasks, run: RunRecord, reported: ReportedRun) -> bool:
    if not reported.status.final or run.status.final:
        return False
    return not all(task.status.final for task in tasks.of_run(run.run_id))


def _steps(run: RunRecord, reported: ReportedRun, *, now_us: int) -> list[RunChange]:
    """Return what brings the run to where its executing node has it, arrow by arrow."""
    steps = []
    for status in _way(run.status, reported):
        there = status is reported.status
        started_at_us = None if status is RunState.PENDING else reported.started_at_us
        change = RunChange(
            status=status,
            started_at_us=started_at_us if started_at_us != run.started_at_us else None,
            finished_at_us=(reported.finished_at_us or now_us) if status.final else None,
            cancel_requested=True if reported.cancel_requested and not run.cancel_requested else None,
            error=reported.error if there and reported.error != run.error else None,
        )
        if change != RunChange(status=run.status):
            steps.append(change)
            run = run._replace(
                status=status,
                started_at_us=started_at_us or run.started_at_us,
                cancel_requested=run.cancel_requested or reported.cancel_requested,
            )
    return steps


def _way(status: RunState, reported: ReportedRun) -> Sequence[RunState]:
    begun = reported.started_at_us is not None or reported.status is RunState.COMPLETED
    if status is RunState.PENDING and begun and reported.status not in (RunState.PENDING, RunState.RUNNING):
        return RunState.RUNNING, reported.status
    if status is RunState.RUNNING and reported.status is RunState.PENDING:
        return RunState.PAUSED, reported.status
    return (reported.status,)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Report:
    run: ReportedRun
    tasks: Sequence[TaskRecord]
    added: Sequence[TaskRecord]
    attempts: Sequence[AttemptRecord]
    pieces: Sequence[Piece]


def _read(store: Store, run: RunRecord, content: Json, *, peer_id: str) -> _Report:
    report = Fields(content, "report")
    reported = read_run(report.object("run"))
    tasks, attempts = report.objects("tasks"), report.objects("attempts")
    ids = [fields.text("id", at_most=MAX_TASK_ID) for fields in (*tasks, *attempts)]
    causes = [fields.maybe_text("blocked_by", at_most=MAX_TASK_ID) for fields in tasks]
    names = {name for name in (*ids, *causes) if name is not None}
    numbers = {task.task_id: task.task_no for task in named_tasks(store, run, names)}
    rows = [read_task(fields, run_id=run.run_id, task_no=fields.number("no")) for fields in tasks]
    added = _added(store, run, [row for row in rows if row.is_added and row.task_id not in numbers])
    numbers |= {row.task_id: row.task_no for row in added}
    for fields, task_id in zip((*tasks, *attempts), ids, strict=True):
        if numbers.get(task_id) != fields.number("no"):
            raise fields.fault("id", f"and its number belong to no task of run {run.run_id}")
    for fields, cause in zip(tasks, causes, strict=True):
        if cause is not None and cause not in numbers:
            raise fields.fault("blocked_by", f"is not a task of run {run.run_id}")
    return _Report(
        run=reported,
        tasks=rows,
        added=added,
        attempts=[
            read_attempt(fields, run_id=run.run_id, worker_id=f"{peer_id}/{reported.worker_id}") for fields in attempts
        ],
        pieces=read_pieces(
            report.objects("logs"), task_count=max([run.task_count, *(row.task_no + 1 for row in added)])
        ),
    )


def _added(store: Store, run: RunRecord, rows: Sequence[TaskRecord]) -> Sequence[TaskRecord]:
    """Return tasks that the run got where it is executed, and that are not here yet. Raises MalformedMessageError."""
    if not rows:
        return ()
    spec = stored_spec(store.definitions, run.definition_id)
    taken = {task.task_no for task in store.tasks.of_run(run.run_id, outputs=False)}
    for row in rows:
        if added_task(spec, row.task_id, row.part_of) is None or row.task_no in taken:
            raise MalformedMessageError(f"report names {row.task_id!r:.80}, which is not a task of run {run.run_id}")
        taken.add(row.task_no)
    return rows


def _room_for(task_count: int, reported_bytes: int) -> int:
    """Return how many bytes may still be reported of a run; 0 or less when there is no room."""
    return min(MAX_REPORTED_BYTES, MAX_REPORTED_OF_A_RUN + task_count * MAX_REPORTED_OF_A_TASK) - reported_bytes


def _bytes_of(tasks: Iterable[TaskRecord], attempts: Iterable[AttemptRecord]) -> int:
    """Return what rows cost that were written."""
    size = sum(_ROW_BYTES + len(task.error or "") for task in tasks)
    return size + sum(
        _ROW_BYTES + len(one.error or "") + len(one.stdout_tail) + len(one.stderr_tail) for one in attempts
    )


def _shortened(tasks: Sequence[TaskRecord]) -> list[TaskRecord]:
    """Return tasks with short errors."""
    return [task._replace(error=task.error and task.error[:SHORT_ERROR]) for task in tasks]


def _with_outputs_that_fit(store: Store, run_id: str, tasks: Sequence[TaskRecord]) -> list[TaskRecord]:
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


def _most_attempts(
    tasks: Tasks, run_id: str, reported: Sequence[TaskRecord], numbers: AbstractSet[int]
) -> dict[int, int]:
    """Return how many attempts tasks can have had, by their rows and by what is reported of them now.

    What is reported of a task comes after its attempts, so one that is not over may have had more than its row says.
    """
    if len(numbers) <= _FEW:
        rows = [row for number in numbers for row in tasks.page(run_id, number - 1, limit=1, max_bytes=1)]
    else:
        rows = [row for row in tasks.of_run(run_id, outputs=False) if row.task_no in numbers]
    most: dict[int, int] = {}
    final: set[int] = set()
    for row in (*rows, *reported):
        if row.status.final and row.task_no not in final:
            final.add(row.task_no)
            most[row.task_no] = row.attempts
        elif row.task_no not in final:
            most[row.task_no] = max(most.get(row.task_no, 0), row.attempts + MAX_AHEAD)
    return most


def _write_logs(logfiles: LogFiles, run_id: str, pieces: Sequence[Piece]) -> int:
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
        return max(0, os.fstat(descriptor).st_size - before) + (_FILE_BYTES if not before else 0)
    finally:
        os.close(descriptor)
