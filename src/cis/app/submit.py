"""Handing DAGs in: a document, a DAG that is stored here, a run once more; and storing one to be run by name.

Whoever has a store for itself calls ``submit``. A running node has a thread for each part: it stages what is large in
one (``stage``), calls ``accept`` in the one that writes, and removes what was staged for nothing (``unstage``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cis.app.actor import Actor, append_audit
from cis.engine.accept.admission import OWNER, Asker
from cis.engine.accept.control import rerun_of
from cis.engine.accept.dispatch import mark_sending
from cis.engine.accept.staging import is_large, stage, unstage
from cis.engine.accept.submit import SubmitRequest, anchored, check_secrets, check_skills, save
from cis.engine.accept.submit import submit as record_run
from cis.engine.accept.warnings import document_warnings, node_warnings, run_warnings, travel_warnings
from cis.engine.lookup import look_up_definition
from cis.engine.this_node import ThisNode
from cis.errors import UsageError
from cis.store.port import Store, stored_spec
from cis.store.records import DefinitionRecord, RunRecord
from cis.store.run_port import Definitions

__all__ = [
    "OWNER",
    "Accepted",
    "Asker",
    "SubmitRequest",
    "accept",
    "anchored",
    "check_secrets",
    "check_skills",
    "document_warnings",
    "forget",
    "is_large",
    "node_warnings",
    "rerun_of",
    "run_warnings",
    "save",
    "stage",
    "stored_dag",
    "submit",
    "travel_warnings",
    "unstage",
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


def forget(definitions: Definitions, definition: DefinitionRecord) -> None:
    """Store a DAG under its id no longer; its runs stay, and their documents for as long as they do."""
    definitions.unsave(definition.definition_id)
