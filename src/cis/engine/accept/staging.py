"""Storing a large DAG in pieces before it is accepted, so that accepting it writes no more than a small one does.

    piece by piece    the rows of its tasks, under the id that its run will have; then its document
    at last           one short transaction (``cis.engine.accept.submit``): the run, its place in the queue, its event

Nothing is accepted before that last transaction, and nobody sees the rows: all that is shown begins with the run. Once
it has committed, all of it is there. Whoever breaks off before leaves tasks without a run; they are removed when the
run is refused, or by the pruner once they are too old to be taken up (``FORGET_S``). Rows are never added to a run that
is there, and a run whose rows are not all there is refused.
"""

from __future__ import annotations

from dataclasses import replace

from cis.engine.accept.dispatch import choose
from cis.engine.accept.submit import SubmitRequest, check_place, first_count, first_tasks, prepare, record_definition
from cis.engine.this_node import ThisNode
from cis.model.dag import DagSpec
from cis.store.port import Store

SMALL_TASKS = 500
SMALL_BYTES = 128 * 2**10
ROWS_AT_ONCE = 2_000
FORGET_S = 3600.0


def is_large(spec: DagSpec, *, document_bytes: int = 0) -> bool:
    """Whether a DAG is worth to be staged, so far as can be told without writing its document anew."""
    return len(spec.tasks) > SMALL_TASKS or document_bytes > SMALL_BYTES


def stage(store: Store, request: SubmitRequest, *, this_node: ThisNode) -> SubmitRequest:
    """Return *request* as ``submit`` wants it: with all that takes long done; call this outside of a transaction.

    Raises:
        AmbiguousScopeError: tasks name different projects or users.
        ScopeForbiddenError: whoever asks may not act in the scope.
        OverloadedError: there is no room for one more run, so nothing was stored.
    """
    prepared = request.prepared or prepare(request.spec, skills=this_node.skills)
    request = replace(request, prepared=prepared)
    request.asker.check(prepared.scope)
    known = request.idempotency_key is not None and store.runs.by_key(request.idempotency_key) is not None
    if known or not is_large(request.spec, document_bytes=len(prepared.document)):
        return request
    here = choose(store.peers, request.spec, this_node=this_node, nested=request.parent is not None).here
    check_place(store, request, prepared.scope, this_node=this_node, here=here)
    run_id = this_node.new_id()
    request = replace(request, staged=run_id)
    try:
        for first in range(0, first_count(request.spec, request.kept), ROWS_AT_ONCE):
            tasks = first_tasks(run_id, request.spec, request.kept or {}, first=first, limit=ROWS_AT_ONCE)
            store.staged.add(tasks)
        with store.transaction():
            record_definition(store.definitions, request.spec, prepared=prepared, now_us=this_node.clock_us())
    except BaseException:
        unstage(store, request)
        raise
    return request


def unstage(store: Store, request: SubmitRequest) -> None:
    """Remove what was stored for a request that made no run. Harmless when it made one."""
    if request.staged is not None:
        forget_staged(store, request.staged)


def forget_staged(store: Store, run_id: str) -> None:
    """Remove the tasks of a run that is not there, in pieces."""
    gone = True
    while gone:
        with store.transaction():
            gone = store.staged.drop(run_id, at_most=ROWS_AT_ONCE)
