"""Handing DAGs in: a document, a DAG that is stored here, a run once more; and storing one to be run by name.

Whoever has a store for itself calls ``submit``. A running node has a thread for each part: it stages what is large in
one (``stage``), calls ``accept`` in the one that writes, and removes what was staged for nothing (``unstage``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cis.app.actor import Actor, append_audit
from cis.engine.accept.admission import OWNER, Asker
from cis.engine.accept.checks import check_secrets, check_skills, values_of
from cis.engine.accept.dispatch import mark_sending
from cis.engine.accept.reruns import Repeat, only, rerun_of
from cis.engine.accept.staging import is_large, stage, unstage
from cis.engine.accept.submit import SubmitRequest, anchored, prepare
from cis.engine.accept.submit import save as save_definition
from cis.engine.accept.submit import submit as record_run
from cis.engine.accept.warnings import (
    document_warnings,
    node_warnings,
    peer_warnings,
    run_warnings,
    travel_warnings,
)
from cis.engine.lookup import look_up_definition
from cis.engine.this_node import ThisNode
from cis.errors import ConflictError, NotFoundError, UsageError
from cis.model.dag import DagSpec
from cis.model.scope_rules import allows
from cis.store.port import Store, stored_spec
from cis.store.records import DefinitionRecord, RunRecord
from cis.store.run_port import Definitions

MAX_STORED_DAGS = 10_000

__all__ = [
    "OWNER",
    "Accepted",
    "Asker",
    "Repeat",
    "Saved",
    "SubmitRequest",
    "accept",
    "anchored",
    "check_secrets",
    "check_skills",
    "document_warnings",
    "forget",
    "is_large",
    "node_warnings",
    "only",
    "peer_warnings",
    "rerun_of",
    "run_warnings",
    "save",
    "stage",
    "stored_dag",
    "submit",
    "travel_warnings",
    "unstage",
    "values_of",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The run, whether this request made it (False: its key was known), and the workers to wake."""

    run: RunRecord
    created: bool

    @property
    def wake(self) -> frozenset[str]:
        """The ids of the workers that have something to do now."""
        return frozenset((self.run.worker_id,) if self.created else ())


def accept(store: Store, request: SubmitRequest, *, this_node: ThisNode, by: Actor, sends: bool = False) -> Accepted:
    """Record a run of the DAG, in the caller's transaction; the caller itself *sends* it if it is for another node.

    Raises:
        CisError: as ``cis.engine.accept.submit.submit`` does.
    """
    submission = record_run(store, request, this_node=this_node)
    run = submission.run
    if submission.created:
        action = "dag.execute" if request.rerun_of is None else "run.rerun"
        append_audit(store.audit, by, action=action, subject=run.run_id, now_us=this_node.clock_us())
        if sends:
            mark_sending(store, run, now_us=this_node.clock_us())
    return Accepted(run=run, created=submission.created)


def submit(store: Store, request: SubmitRequest, *, this_node: ThisNode, by: Actor) -> Accepted:
    """Record a run of the DAG in a transaction of its own; what takes long for a large DAG is done before it.

    Raises:
        CisError: as ``accept`` does.
    """
    staged = stage(store, request, this_node=this_node)
    try:
        with store.transaction():
            return accept(store, staged, this_node=this_node, by=by)
    finally:
        unstage(store, staged)


def stored_dag(
    definitions: Definitions, dag_id: str, *, key: str | None, asker: Asker, target: str | None = None
) -> SubmitRequest:
    """Return the request to run a DAG that was stored under its id, on the node *target* if one is named.

    Raises:
        NotFoundError: no such DAG, or none that *asker* may see.
        UsageError: it was run here, but never stored.
    """
    definition = look_up_definition(definitions, dag_id, scopes=asker.scopes)
    if definition.saved_at_us is None:
        raise UsageError(f"{dag_id} is not stored here; 'cis dag save' stores a DAG, to be run by name")
    spec = stored_spec(definitions, definition.definition_id)
    spec = spec if target is None else replace(spec, target_node=target)
    return SubmitRequest(spec=spec, idempotency_key=key, asker=asker)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A DAG that is stored, and whether none was stored under its id before."""

    definition: DefinitionRecord
    created: bool


def save(store: Store, spec: DagSpec, *, this_node: ThisNode, by: Actor, asker: Asker = OWNER) -> Saved:
    """Store a DAG under its id, in place of the one stored before, in a transaction of its own.

    The same document again changes no more than when it was stored.

    Raises:
        DocumentError, AmbiguousScopeError: the document has faults.
        ScopeForbiddenError: *asker* may not act in its scope.
        ConflictError: the id is that of a stored DAG in a scope that *asker* may not use, or so many are stored that
            only the node's owner may store one more.
    """
    prepared = prepare(spec, skills=this_node.skills)  # of a large one this takes long: nobody waits for it
    asker.check(prepared.scope)
    with store.transaction():
        before = _stored(store.definitions, spec.dag_id)
        if before is not None and not allows(asker.scopes, before.scope):
            raise ConflictError(f"{spec.dag_id} is the id of a stored DAG in a scope that {asker.name} may not use")
        if before is None and asker.shares and _many_are_stored(store.definitions):
            raise ConflictError(f"{MAX_STORED_DAGS} DAGs are stored here: delete one, or have the owner store this one")
        definition = save_definition(store.definitions, spec, prepared=prepared, this_node=this_node)
        if before is not None:
            store.definitions.drop([before.definition_id])  # stays where a run is of it, or where it is the same
        append_audit(store.audit, by, action="dag.save", subject=spec.dag_id, now_us=this_node.clock_us())
    return Saved(definition=definition, created=before is None)


def forget(store: Store, dag_id: str, *, by: Actor, now_us: int, asker: Asker = OWNER) -> DefinitionRecord:
    """Store a DAG under its id no longer, in the caller's transaction; its runs stay, and what they ran with them.

    Raises:
        NotFoundError: none is stored under that id, or none that *asker* may see.
    """
    definition = _stored(store.definitions, dag_id)
    if definition is None or not allows(asker.scopes, definition.scope):
        raise NotFoundError("stored DAG", dag_id, hint="'cis dag definitions' shows what is stored")
    store.definitions.save(definition.definition_id, at_us=None)
    store.definitions.drop([definition.definition_id])
    append_audit(store.audit, by, action="dag.delete", subject=dag_id, now_us=now_us)
    return definition


def _many_are_stored(definitions: Definitions) -> bool:
    return definitions.saved_count(at_most=MAX_STORED_DAGS) == MAX_STORED_DAGS


def _stored(definitions: Definitions, dag_id: str) -> DefinitionRecord | None:
    definition = definitions.current(dag_id)
    return None if definition is None or definition.saved_at_us is None else definition
