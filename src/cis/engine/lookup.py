"""Finds the run, DAG or worker that a caller names, or raises NotFoundError with a hint where to look instead.

Whoever may see only some *scopes* (None: all) is told that anything else does not exist.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cis.errors import NotFoundError, UsageError
from cis.model.scope_rules import Patterns, allows
from cis.store.records import RunFilter

if TYPE_CHECKING:
    from cis.store.port import Store
    from cis.store.queue_port import Workers
    from cis.store.records import DefinitionRecord, RunRecord, WorkerRecord
    from cis.store.run_port import Definitions, Runs

FEWEST_LETTERS = 6  # of the beginning of a run's id
SHORT_LETTERS = 8
MOST_ALIKE = 100


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
    """Return the run of a DAG that is named, or its latest; or, in place of a DAG, the run that is named by its id.

    Where a run is named, the beginning of its id is enough.

    Raises:
        NotFoundError: no such DAG, no such run of it, or no run at all.
        UsageError: several runs begin so.
    """
    if run_id is not None:
        return _run_of_dag(store, dag_id, run_id, scopes=scopes)
    if scopes is None:
        run = store.runs.latest(dag_id)
    else:
        run = next(iter(store.runs.page(RunFilter(dag_id=dag_id, scopes=scopes), limit=1).items), None)
    if run is None:
        definition, run = dag_or_run(store, dag_id, scopes=scopes)
        if run is None:
            raise NotFoundError("run of DAG", definition.dag_id, hint="it is stored, but was never run")
    return run


def _run_of_dag(store: Store, dag_id: str, run_id: str, *, scopes: Patterns | None) -> RunRecord:
    run = find_run(store.runs, run_id, scopes=scopes)
    if run is None:
        raise NotFoundError("run", run_id, hint=f"'cis dag status {dag_id}' shows the runs of {dag_id}")
    if run.dag_id != dag_id and not _is_beside(store, dag_id, run, scopes=scopes):
        raise NotFoundError(f"run of {dag_id}", run_id, hint=f"run {run.run_id} is one of {run.dag_id}")
    return run


def _is_beside(store: Store, name: str, run: RunRecord, *, scopes: Patterns | None) -> bool:
    """Whether *name* is no DAG's but a run's, and of the same DAG as *run*."""
    other = None if store.definitions.current(name) else find_run(store.runs, name, scopes=scopes)
    return other is not None and other.dag_id == run.dag_id


def find_run(runs: Runs, text: str, *, scopes: Patterns | None = None) -> RunRecord | None:
    """Return the run of that id, or the one whose id begins so; None when there is none.

    Raises:
        UsageError: several runs begin so.
    """
    run = runs.get(text)
    if run is not None:
        return run if allows(scopes, run.scope) else None
    if len(text) < FEWEST_LETTERS:
        return None
    found = [one for one in runs.beginning(text, limit=MOST_ALIKE) if allows(scopes, one.scope)]
    if len(found) > 1:
        shown = ", ".join(f"{one.run_id} of {one.dag_id}" for one in found[:3])
        more = ", …" if len(found) > 3 else ""
        raise UsageError(f"several runs begin with {text!r}: {shown}{more}; write more of the id")
    return found[0] if found else None


def short_id(runs: Runs, run_id: str) -> str:
    """Return the beginning of a run's id with which it can be named for now: no other run's begins so."""
    length = SHORT_LETTERS
    while length < len(run_id):
        alike = [one.run_id for one in runs.beginning(run_id[:length], limit=2) if one.run_id != run_id]
        if not alike:
            break
        length = max(length, _in_common(run_id, alike[0])) + 1
        while length < len(run_id) and not run_id[length - 1].isalnum():
            length += 1
    return run_id[:length]


def _in_common(one: str, other: str) -> int:
    """Return how many letters two texts begin with alike."""
    return next((place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(one))


def dag_or_run(store: Store, name: str, *, scopes: Patterns | None = None) -> tuple[DefinitionRecord, RunRecord | None]:
    """Return the DAG of that id; or, if there is none, the run of that id, or whose id begins so, and its DAG.

    Raises:
        NotFoundError: there is neither.
        UsageError: several runs begin so.
    """
    definition = store.definitions.current(name)
    if definition is not None and allows(scopes, definition.scope):
        return definition, None
    run = find_run(store.runs, name, scopes=scopes)
    if run is None:
        raise _no_dag(name)
    return look_up_definition(store.definitions, run.dag_id), run


def look_up_definition(definitions: Definitions, dag_id: str, *, scopes: Patterns | None = None) -> DefinitionRecord:
    """Return the definition of a DAG. Raises NotFoundError when there is none."""
    definition = definitions.current(dag_id)
    if definition is None or not allows(scopes, definition.scope):
        raise _no_dag(dag_id)
    return definition


def _no_dag(name: str) -> NotFoundError:
    return NotFoundError("DAG", name, hint="'cis dag list' shows the runs, 'cis dag definitions' what is stored")


def look_up_worker(workers: Workers, node_id: str, worker_id: str, *, scopes: Patterns | None = None) -> WorkerRecord:
    """Return a worker of a node. Raises NotFoundError when there is none."""
    worker = workers.get(node_id, worker_id)
    if worker is None or not allows(scopes, worker.scope):
        raise NotFoundError("worker", worker_id, hint="'cis dag worker list' shows the workers")
    return worker
