"""Finds the run, DAG or worker that a caller names, or raises NotFoundError with a hint where to look instead.

Whoever may see only some *scopes* (None: all) is told that anything else does not exist.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cis.errors import NotFoundError
from cis.model.scope_rules import Patterns, allows
from cis.store.records import RunFilter

if TYPE_CHECKING:
    from cis.store.port import Store
    from cis.store.queue_port import Workers
    from cis.store.records import DefinitionRecord, RunRecord, WorkerRecord
    from cis.store.run_port import Definitions, Runs


def look_up_run(runs: Runs, run_id: str, *, scopes: Patterns | None = None) -> RunRecord:
    """Return a run. Raises NotFoundError when there is none."""
    run = runs.get(run_id)
    if run is None or not allows(scopes, run.scope):
        raise NotFoundError("run", run_id, hint="'cis dag list' shows the runs")
    return run


def is_stale(runs: Runs, run: RunRecord) -> bool:
    """Whether a run has changed since it was read, or is gone."""
    head = runs.heads([run.run_id]).get(run.run_id)
    return head is None or head.version != run.version


def run_of(store: Store, dag_id: str, *, run_id: str | None = None, scopes: Patterns | None = None) -> RunRecord:
    """Return the run of a DAG that is named, or its latest.

    Raises:
        NotFoundError: no such DAG, no such run of it, or no run at all.
    """
    if run_id is not None:
        run = store.runs.get(run_id)
        if run is None or run.dag_id != dag_id or not allows(scopes, run.scope):
            raise NotFoundError("run", run_id, hint=f"'cis dag status {dag_id}' shows the runs of {dag_id}")
        return run
    if scopes is None:
        run = store.runs.latest(dag_id)
    else:
        run = next(iter(store.runs.page(RunFilter(dag_id=dag_id, scopes=scopes), limit=1).items), None)
    if run is None:
        look_up_definition(store.definitions, dag_id, scopes=scopes)
        raise NotFoundError("run of DAG", dag_id, hint="it is stored, but was never run")
    return run


def look_up_definition(definitions: Definitions, dag_id: str, *, scopes: Patterns | None = None) -> DefinitionRecord:
    """Return the definition of a DAG. Raises NotFoundError when there is none."""
    definition = definitions.current(dag_id)
    if definition is None or not allows(scopes, definition.scope):
        raise NotFoundError("DAG", dag_id, hint="'cis dag list' shows the runs, 'cis dag definitions' what is stored")
    return definition


def look_up_worker(workers: Workers, node_id: str, worker_id: str, *, scopes: Patterns | None = None) -> WorkerRecord:
    """Return a worker of a node. Raises NotFoundError when there is none."""
    worker = workers.get(node_id, worker_id)
    if worker is None or not allows(scopes, worker.scope):
        raise NotFoundError("worker", worker_id, hint="'cis dag worker list' shows the workers")
    return worker
