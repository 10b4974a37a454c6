"""Rows to records: the one place that knows the order of columns and what their values mean.

A row that cannot be read raises PoisonRecordError; lists leave it out and say so in the log.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from cis.errors import PoisonRecordError
from cis.model.ids import id_fault
from cis.model.scope import Scope, ScopeSource, ScopeType, parse_worker_id
from cis.model.scope_rules import read_patterns
from cis.model.states import AttemptState, Outcome, Priority, RunState, TaskState, Trigger, TriggerKind
from cis.model.tree import clipped, holds_text
from cis.store.records import (
    AttemptRecord,
    DefinitionRecord,
    Delivery,
    EventRecord,
    QueueItem,
    QueueState,
    RunRecord,
    TaskRecord,
    WorkerRecord,
    WorkerState,
)

if TYPE_CHECKING:
    from cis.store.sql.database import Row

T = TypeVar("T")
MAX_NUMBER = 2**53  # times until the year 2255, and all that is counted; one more still fits where SQLite keeps it
MOST_CHANGES = 2**20  # that a row may still have to come; what counts them is not so near to MAX_NUMBER

DEFINITION = (
    "definition_id, dag_id, sha256, scope_type, scope_id, target_node, priority, description, task_count,"
    " created_at_us, saved_at_us"
)
RUN = (
    "run_id, dag_id, definition_id, status, version, scope_type, scope_id, scope_source, worker_id, node_id,"
    " owner_node, target_node, priority, delivery, task_count, created_at_us, started_at_us, finished_at_us,"
    " cancel_requested, error, idempotency_key, rerun_of, parent_run_id, parent_task_id, depth, scopes,"
    " tree, above, errexit, begun_by, handled"
)
TASK = (
    "run_id, task_no, task_id, status, version, attempts, failures, exit_code, started_at_us, finished_at_us,"
    " outputs, error, blocked_by, retry_at_us, child_run_id, outcome, part_of, given, cancel_requested"
)
ATTEMPT = (
    "run_id, task_no, task_id, attempt, status, worker_id, epoch, started_at_us, finished_at_us, exit_code, pid,"
    " pid_started, error, stdout_tail, stderr_tail, stdout_bytes, stderr_bytes"
)
QUEUE = "run_id, worker_id, dag_json, status, priority, created_at_us, epoch"
WORKER = (
    "worker_id, node_id, scope_type, scope_id, status, pid, pid_started, epoch, slots, started_at_us,"
    " heartbeat_at_us, lease_until_us, runs_done, current_run, short_of"
)
EVENT = "seq, at_us, kind, status, run_id, dag_id, task_id, worker_id, data"


def places_of(columns: str) -> str:
    """Return a ``?`` for each of the columns, as a statement takes their values."""
    return ", ".join("?" * (columns.count(",") + 1))


def definition_of(row: Row) -> DefinitionRecord:
    """Return the record of a row of DEFINITION."""
    return DefinitionRecord(
        definition_id=row[0],
        dag_id=row[1],
        sha256=row[2],
        scope=Scope(ScopeType(row[3]), row[4]),
        target_node=row[5],
        priority=Priority(row[6]),
        description=row[7],
        task_count=row[8],
        created_at_us=row[9],
        saved_at_us=row[10],
    )


def run_of(row: Row) -> RunRecord:
    """Return the record of a row of RUN."""
    fault = id_fault(row[0])  # it becomes part of paths, as the worker's does
    if fault:
        raise ValueError(f"its id {fault}")
    parse_worker_id(row[8])
    status = RunState(row[3])
    _check_counts(status, row[4])
    return RunRecord(
        run_id=row[0],
        dag_id=row[1],
        definition_id=row[2],
        status=status,
        version=row[4],
        scope=Scope(ScopeType(row[5]), row[6]),
        scope_source=ScopeSource(row[7]),
        worker_id=row[8],
        node_id=row[9],
        owner_node=row[10],
        target_node=row[11],
        priority=Priority(row[12]),
        delivery=Delivery(row[13]),
        task_count=row[14],
        created_at_us=row[15],
        started_at_us=row[16],
        finished_at_us=row[17],
        cancel_requested=bool(row[18]),
        error=row[19],
        idempotency_key=row[20],
        rerun_of=row[21],
        parent_run_id=row[22],
        parent_task_id=row[23],
        depth=row[24],
        scopes=read_patterns(row[25]),
        tree=row[26],
        above=tuple(row[27].split(",")) if row[27] else (),
        errexit=bool(row[28]),
        trigger=_trigger_of(row[29]) if row[29] else None,
        handled=bool(row[30]),
        cancelled_again=row[18] > 1,
    )


def _trigger_of(text: str) -> Trigger:
    plain = json.loads(text)
    return Trigger(TriggerKind(plain["kind"]), plain.get("id"), plain.get("by"))


def task_of(row: Row) -> TaskRecord:
    """Return the record of a row of TASK."""
    status = TaskState(row[3])
    _check_counts(status, *row[4:7])
    return TaskRecord(
        run_id=row[0],
        task_no=row[1],
        task_id=row[2],
        status=status,
        version=row[4],
        attempts=row[5],
        failures=row[6],
        exit_code=row[7],
        started_at_us=row[8],
        finished_at_us=row[9],
        outputs=mapping(row[10]) if row[10] else {},
        error=row[11],
        blocked_by=row[12],
        due_at_us=row[13],
        child_run_id=row[14],
        outcome=Outcome(row[15]) if row[15] else None,
        part_of=row[16],
        given=row[17],
        cancel_requested=bool(row[18]),
    )


def outputs_of(row: Row) -> dict[str, str]:
    """Return the outputs of a task out of a row of its run's id and these."""
    return mapping(row[1])


def params_of(row: Row) -> dict[str, Any]:
    """Return the parameters of a run out of a row of its id and these. Raises ValueError."""
    params = json.loads(row[1])
    if not isinstance(params, dict):
        raise ValueError("they are not a JSON object")
    return params


def attempt_of(row: Row) -> AttemptRecord:
    """Return the record of a row of ATTEMPT."""
    return AttemptRecord(
        run_id=row[0],
        task_no=row[1],
        task_id=row[2],
        attempt=row[3],
        status=AttemptState(row[4]),
        worker_id=row[5],
        epoch=row[6],
        started_at_us=row[7],
        finished_at_us=row[8],
        exit_code=row[9],
        pid=row[10],
        pid_started=row[11],
        error=row[12],
        stdout_tail=row[13],
        stderr_tail=row[14],
        stdout_bytes=row[15],
        stderr_bytes=row[16],
    )


def queue_item_of(row: Row) -> QueueItem:
    """Return the record of a row of QUEUE."""
    return QueueItem(
        run_id=row[0],
        worker_id=row[1],
        dag_json=row[2],
        status=QueueState(row[3]),
        priority=Priority(row[4]),
        created_at_us=row[5],
        epoch=row[6],
    )


def worker_of(row: Row) -> WorkerRecord:
    """Return the record of a row of WORKER."""
    parse_worker_id(row[0])  # it becomes part of paths
    return WorkerRecord(
        worker_id=row[0],
        node_id=row[1],
        scope=Scope(ScopeType(row[2]), row[3]),
        status=WorkerState(row[4]),
        pid=row[5],
        pid_started=row[6],
        epoch=row[7],
        slots=row[8],
        started_at_us=row[9],
        heartbeat_at_us=row[10],
        lease_until_us=row[11],
        runs_done=row[12],
        current_run=row[13],
        short_of=row[14],
    )


def event_of(row: Row) -> EventRecord:
    """Return the record of a row of EVENT."""
    return EventRecord(
        seq=row[0],
        at_us=row[1],
        kind=row[2],
        status=row[3],
        run_id=row[4],
        dag_id=row[5],
        task_id=row[6],
        worker_id=row[7],
        data=mapping(row[8]) if row[8] else {},
    )


def mapping(text: str) -> dict[str, Any]:
    """Return the JSON object that a column holds. Raises ValueError when it holds none, or what is no text."""
    try:
        plain = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{text[:80]!r} is nested too deeply") from error
    if not isinstance(plain, dict):
        raise ValueError(f"{text[:80]!r} is not a JSON object")
    if "\\u" in text and not holds_text(plain):
        raise ValueError(f"{text[:80]!r} holds half of a surrogate pair, which is not valid text")
    return plain


def _check_counts(status: RunState | TaskState, *counts: int) -> None:
    """Raise ValueError if one could not be counted on: the change that passes MAX_NUMBER would be read by nobody."""
    if not status.final and max(counts) > MAX_NUMBER - MOST_CHANGES:
        raise ValueError(f"{max(counts)} leaves no room to count what is still to come")


def _check_numbers(row: Row) -> None:
    for value in row:
        if type(value) is int and not -MAX_NUMBER <= value <= MAX_NUMBER:
            raise ValueError(f"{value} is not a number that it can hold")


def read(what: str, make: Callable[[Row], T], row: Row) -> T:
    """Return *row* as a record. Raises PoisonRecordError when it cannot be one."""
    try:
        _check_numbers(row)
        return make(row)
    except (ValueError, TypeError, KeyError) as error:
        raise PoisonRecordError(f"{what} {row[0]!r:.140}", clipped(str(error), limit=500)) from error


def read_all(what: str, make: Callable[[Row], T], rows: Iterable[Row]) -> list[T]:
    """Return *rows* as records, without those that cannot be read."""
    records = []
    for row in rows:
        try:
            records.append(read(what, make, row))
        except PoisonRecordError as error:
            tell_left_out(error)
    return records


def tell_left_out(error: PoisonRecordError | UnicodeDecodeError) -> None:
    """Say in the log that a row is missing in an answer."""
    _warn("a row was left out", {"error": str(error)})


def tell_queued(run_id: str, error: PoisonRecordError) -> None:
    """Say in the log that a run's place in the queue cannot be read."""
    _warn("a queued run cannot be read", {"run_id": run_id, "error": str(error)})


def _warn(message: str, facts: dict[str, str]) -> None:
    import logging  # noqa: PLC0415 - most commands want no log

    logging.getLogger(__name__).warning(message, extra=facts)
