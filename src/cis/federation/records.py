"""The records that cross between nodes: a run's row, its tasks, their attempts, pieces of logs.

Each has one form and one check, whoever sends it: a task looks the same in a report, which goes to its run's origin,
and in the *progress* of an execute message, which says what of a run was done before it is sent.

Nothing about them is trusted. They are read before anything is written; each number and text has a bound.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from cis.model.dag import Json
from cis.model.ids import MAX_ID_LENGTH
from cis.model.message import MAX_BLOB_BYTES, Fields
from cis.model.scope import parse_worker_id
from cis.model.states import AttemptState, Outcome, RunState, TaskState
from cis.store.port import Store
from cis.store.records import TAIL_BYTES, AttemptRecord, RunRecord, TaskRecord

MAX_ERROR = 2**16  # characters
MAX_ROW = 8 * 2**20  # characters of JSON: what CIS_OUTPUT may hold fits, even if each byte of it is escaped
MAX_STREAM_BYTES = 8 * 2**20  # of a copy, whatever is asked for
MAX_LOG_BYTES = 8 * 2**20  # of one report, unpacked
MAX_ATTEMPTS = 1_000_000
MAX_TASK_ID = 256  # of one that was added to a run, too
MAX_GIVEN = 2 * 2**20  # characters of JSON that such a task was given
_FEW_TASKS = 8
_EXIT_CODES = (-(2**31), 2**32)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedRun:
    """What the executing node says of a run: its own row."""

    version: int
    status: RunState
    worker_id: str
    started_at_us: int | None
    finished_at_us: int | None
    error: str | None
    cancel_requested: bool


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


def run_fields(run: RunRecord, *, final: bool) -> dict[str, Json]:
    """Return the row of a run; its end is in it only when *final* says that nothing is left out."""
    status, version, over = str(run.status), run.version, run.status.final
    if over and not final:  # as it was before its end: the same version must not say two things
        status, version = "pending" if run.started_at_us is None else "running", run.version - 1
    return {
        "version": version,
        "status": status,
        "worker_id": run.worker_id,
        "started_at_us": run.started_at_us,
        "finished_at_us": run.finished_at_us if final else None,
        "error": _clipped(run.error) if final or not over else None,
        "cancel_requested": run.cancel_requested,
    }


def read_run(fields: Fields) -> ReportedRun:
    """Read the row of a run. Raises MalformedMessageError."""
    worker_id = fields.text("worker_id", at_most=2 * MAX_ID_LENGTH)
    try:
        parse_worker_id(worker_id)
    except ValueError as error:
        raise fields.fault("worker_id", "must be the id of a worker") from error
    return ReportedRun(
        version=fields.number("version", lowest=1),
        status=fields.state("status", RunState),
        worker_id=worker_id,
        started_at_us=fields.maybe_number("started_at_us"),
        finished_at_us=fields.maybe_number("finished_at_us"),
        error=fields.maybe_text("error", at_most=MAX_ERROR),
        cancel_requested=fields.flag("cancel_requested"),
    )


def task_fields(task: TaskRecord) -> dict[str, Json]:
    """Return the row of a task, without its number."""
    return {
        "id": task.task_id,
        "status": str(task.status),
        "version": task.version,
        "attempts": task.attempts,
        "failures": task.failures,
        "exit_code": task.exit_code,
        "started_at_us": task.started_at_us,
        "finished_at_us": task.finished_at_us,
        **outputs_fields(task.outputs),
        "error": _clipped(task.error),
        "blocked_by": task.blocked_by,
        "retry_at_us": task.due_at_us,
        **({} if task.outcome is None else {"outcome": str(task.outcome)}),
        **({} if task.part_of is None else {"part_of": task.part_of}),
        **({} if task.given is None else {"given": task.given}),
    }


def outputs_fields(outputs: Mapping[str, Json]) -> dict[str, Json]:
    """Return outputs as texts, as nodes of before know them; which of them are JSON stands beside."""
    typed = {name: "json" for name, value in outputs.items() if not isinstance(value, str)}
    texts = {name: json.dumps(value) if name in typed else value for name, value in outputs.items()}
    return {"outputs": texts, **({"output_types": typed} if typed else {})}


def read_outputs(fields: Fields, *, at_most: int) -> dict[str, Json]:
    """Read outputs, each as what it was. Raises MalformedMessageError."""
    outputs: dict[str, Json] = dict(fields.texts("outputs", at_most=at_most))
    typed = fields.texts("output_types", at_most=at_most) if "output_types" in fields else {}
    for name in typed.keys() & outputs.keys():
        try:
            outputs[name] = json.loads(outputs[name])
        except (ValueError, RecursionError) as error:
            raise fields.fault(f"outputs.{name}", "is not JSON") from error
    return outputs


def read_task(fields: Fields, *, run_id: str, task_no: int, outputs_at_most: int = MAX_ROW) -> TaskRecord:
    """Read the row of a task. Raises MalformedMessageError."""
    return TaskRecord(
        run_id=run_id,
        task_no=task_no,
        task_id=fields.text("id", at_most=MAX_TASK_ID),
        status=fields.state("status", TaskState),
        version=fields.number("version", lowest=1),
        attempts=fields.number("attempts", highest=MAX_ATTEMPTS),
        failures=fields.number("failures", highest=MAX_ATTEMPTS),
        exit_code=fields.maybe_number("exit_code", lowest=_EXIT_CODES[0], highest=_EXIT_CODES[1]),
        started_at_us=fields.maybe_number("started_at_us"),
        finished_at_us=fields.maybe_number("finished_at_us"),
        outputs=read_outputs(fields, at_most=outputs_at_most) if "outputs" in fields else {},
        error=_clipped(fields.maybe_text("error", at_most=MAX_BLOB_BYTES)),  # a node of before did not clip all of them
        blocked_by=fields.maybe_text("blocked_by", at_most=MAX_TASK_ID),
        due_at_us=fields.maybe_number("retry_at_us"),
        outcome=fields.state("outcome", Outcome) if "outcome" in fields else None,
        part_of=fields.number("part_of") if "part_of" in fields else None,
        given=fields.text("given", at_most=MAX_GIVEN) if "given" in fields else None,
    )


def attempt_fields(attempt: AttemptRecord) -> dict[str, Json]:
    """Return the row of an attempt."""
    return {
        "no": attempt.task_no,
        "id": attempt.task_id,
        "attempt": attempt.attempt,
        "status": str(attempt.status),
        "epoch": attempt.epoch,
        "started_at_us": attempt.started_at_us,
        "finished_at_us": attempt.finished_at_us,
        "exit_code": attempt.exit_code,
        "error": _clipped(attempt.error),
        "stdout_tail": attempt.stdout_tail,
        "stderr_tail": attempt.stderr_tail,
        "stdout_bytes": attempt.stdout_bytes,
        "stderr_bytes": attempt.stderr_bytes,
    }


def read_attempt(fields: Fields, *, run_id: str, worker_id: str) -> AttemptRecord:
    """Read the row of an attempt. Raises MalformedMessageError."""
    return AttemptRecord(
        run_id=run_id,
        task_no=fields.number("no"),
        task_id=fields.text("id", at_most=MAX_TASK_ID),
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


def piece_fields(piece: Piece) -> dict[str, Json]:
    """Return a piece of a log, packed."""
    text = base64.b64encode(zlib.compress(piece.data)).decode()
    fields: dict[str, Json] = {
        "no": piece.task_no,
        "attempt": piece.attempt,
        "stream": str(piece.stream),
        "offset": piece.offset,
        "data": text,
    }
    return {**fields, "last": True} if piece.last else fields


def read_pieces(items: Sequence[Fields], *, task_count: int) -> list[Piece]:
    """Read the pieces of logs in one report, bounded together. Raises MalformedMessageError."""
    room = MAX_LOG_BYTES
    pieces = []
    for fields in items:
        offset = fields.number("offset", highest=MAX_STREAM_BYTES)
        data = _unpacked(fields, at_most=min(room, MAX_STREAM_BYTES - offset))
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


def named_tasks(store: Store, run: RunRecord, names: Collection[str] | None) -> Sequence[TaskRecord]:
    """Return the tasks of a run that are named (None: all), by number; names that it does not have are left out."""
    if names is not None and len(names) <= _FEW_TASKS < run.task_count:
        found = [store.tasks.get(run.run_id, name) for name in names]
        return sorted((task for task in found if task is not None), key=lambda task: task.task_no)
    if names is not None and not names:
        return ()
    tasks = store.tasks.of_run(run.run_id)
    return tasks if names is None else [task for task in tasks if task.task_id in names]


def _unpacked(fields: Fields, *, at_most: int) -> bytes:
    """Return what ``data``, a text in base64, holds; a small text may stand for more memory than there is."""
    unpacking = zlib.decompressobj()
    try:
        packed = base64.b64decode(fields.text("data", at_most=2 * MAX_LOG_BYTES), validate=True)
        data = unpacking.decompress(packed, at_most + 1)
    except (ValueError, zlib.error) as error:
        raise fields.fault("data", "is not zlib data in base64") from error
    if len(data) > at_most:
        raise fields.fault("data", f"unpacks to more than the {at_most:,} bytes that may stand there")
    if not unpacking.eof or unpacking.unused_data:
        raise fields.fault("data", "is cut short, or more than one piece of zlib data")
    return data


def _clipped(text: str | None) -> str | None:
    return text if text is None or len(text) <= MAX_ERROR else text[: MAX_ERROR - 1] + "…"
