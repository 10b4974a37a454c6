"""From rows of the outbox to messages: what an execute message says is read from the run when it is sent."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from cis.engine.ancestry import names_above
from cis.engine.lease_messages import OfferTerms, Standing
from cis.errors import NotFoundError, PoisonRecordError
from cis.model.dag import DagSpec, Json
from cis.model.message import INLINE_BYTES, Message, MessageKind
from cis.model.states import TaskState
from cis.model.wire import ABOVE, ROOT, SCOPES, wire_fields
from cis.store.cluster import OutboxItem
from cis.store.port import Store, read_spec
from cis.store.records import RunRecord, TaskRecord

DAG_REF = "dag_ref"
REPORT_REF = "report_ref"


def message_of(store: Store, item: OutboxItem, *, sender: str, lease_s: float) -> Message:
    """Return the message that an item stands for; an offer says how long a lease would be.

    Raises:
        NotFoundError: its run is gone.
        PoisonRecordError: the run, or the item, cannot be read.
    """
    if item.kind not in set(MessageKind):
        raise PoisonRecordError(f"message {item.message_id}", f"{item.kind!r:.80} is no kind of message")
    fields: Mapping[str, Json] = item.fields
    blob_name = blob = None
    if item.kind == MessageKind.EXECUTE:
        run = store.run(item.run_id)
        if run is None:
            raise NotFoundError("run", item.run_id)
        remote = store.remote_run(item.run_id)
        fields = {**_head(run), **_place_of(store, run), **item.fields, "epoch": remote.epoch if remote else 0}
        document = store.document(run.definition_id)
        spec = read_spec(document)  # what is no DAG any more is not sent
        if not item.node_id:
            fields = {**fields, **offer_terms(spec, epoch=fields["epoch"], lease_s=lease_s).fields()}
        inline, blob = _document(document, progress_of(store.tasks(run.run_id)))
        if blob is None:
            fields = {**fields, **inline}
        else:
            blob_name = DAG_REF
    return Message(
        kind=MessageKind(item.kind),
        message_id=item.message_id,
        sender=sender,
        created_at_us=item.created_at_us,
        expires_at_us=item.expires_at_us,
        run_id=item.run_id,
        target=item.node_id or None,
        fields=fields,
        blob_name=blob_name,
        blob=blob,
    )


def offer_terms(spec: DagSpec, *, epoch: int, lease_s: float) -> OfferTerms:
    """Return whom a DAG that is on offer here wants, and for how long it is granted."""
    return OfferTerms(epoch=epoch, labels=spec.labels, lease_ms=round(lease_s * 1000), nonces=True)


def report_message(
    run_id: str,
    report: Mapping[str, Json],
    *,
    sender: str,
    origin: str,
    message_id: str,
    now_us: int,
    standing: Standing,
) -> Message:
    """Return the status message that tells a report; ``state`` says the run's, for who reads along in the room."""
    run = report["run"]
    fields: dict[str, Json] = {"state": run["status"], "seq": run["version"], **standing.fields()}
    inline, blob = report_parts(report)
    return Message(
        kind=MessageKind.STATUS,
        message_id=message_id,
        sender=sender,
        created_at_us=now_us,
        expires_at_us=now_us + 7 * 86_400_000_000,
        run_id=run_id,
        target=origin,
        fields={**fields, **inline},
        blob_name=None if blob is None else REPORT_REF,
        blob=blob,
    )


def report_parts(report: Mapping[str, Json]) -> tuple[dict[str, Json], str | None]:
    """Return the field that holds a small report, or the blob that is a large one."""
    text = json.dumps(report, ensure_ascii=False, separators=(",", ":"))
    return ({"report": report}, None) if len(text.encode()) <= INLINE_BYTES else ({}, text)


def progress_of(tasks: Sequence[TaskRecord]) -> list[Json]:
    """Return what is known of a run that does not begin from nothing: which tasks are over, and which were begun.

    A task that runs, as far as is known, was lost: what happens next is its ``on_lost``.
    """
    return [
        {
            "id": task.task_id,
            "status": str(task.status),
            "version": task.version + 1,
            "attempts": task.attempts,
            "failures": task.failures,
            "exit_code": task.exit_code,
            "started_at_us": task.started_at_us,
            "finished_at_us": task.finished_at_us,
            "outputs": dict(task.outputs),
            "error": task.error,
            "blocked_by": task.blocked_by,
            "retry_at_us": task.retry_at_us,
        }
        for task in tasks
        if task.status is not TaskState.PENDING or task.version > 1
    ]


def _place_of(store: Store, run: RunRecord) -> dict[str, Json]:
    """Return where in a tree of runs a run stands, if it is a task of another."""
    if run.tree is None:
        return {}
    return {ROOT: run.tree.rpartition(":")[2], ABOVE: list(names_above(store, run))}


def _head(run: RunRecord) -> dict[str, Json]:
    limits = {} if run.scopes is None else {SCOPES: list(run.scopes)}
    return {
        **limits,
        "dag_id": run.dag_id,
        "scope": run.scope.to_dict(),
        "scope_source": str(run.scope_source),
        "priority": str(run.priority),
        "depth": run.depth,
    }


def _document(text: str, progress: Sequence[Json]) -> tuple[dict[str, Json], str | None]:
    """Return the fields of a small document, or the blob of a large one."""
    if len(text) <= INLINE_BYTES:
        inline = wire_fields(json.loads(text))
        if inline is not None:
            if progress:
                inline["progress"] = list(progress)
            if len(json.dumps(inline, ensure_ascii=False).encode()) <= INLINE_BYTES:
                return inline, None
    done = json.dumps(progress, ensure_ascii=False, separators=(",", ":"))
    return {}, f'{{"document":{text},"progress":{done}}}'
