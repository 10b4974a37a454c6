"""Running once more what ran before: which tasks are taken over, and which run again."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from cis.engine.accept.admission import OWNER, Asker
from cis.engine.accept.checks import NO_PARAMS
from cis.engine.accept.submit import SubmitRequest
from cis.engine.lookup import look_up_run
from cis.errors import IllegalStateError
from cis.model.dag import DagSpec, TaskSpec
from cis.model.graph import Graph
from cis.model.references import references
from cis.model.scope_rules import in_common
from cis.model.states import RunState
from cis.store.port import Store, stored_spec
from cis.store.records import RunRecord

if TYPE_CHECKING:
    from cis.model.params import Given


def rerun_of(
    store: Store, run_id: str, *, from_failed: bool, asker: Asker = OWNER, params: Given = NO_PARAMS
) -> SubmitRequest:
    """Return what to submit to run the same document again; with *from_failed*, what did not fail is taken over.

    It has the parameters of the old run, but for those in *params*; what refers to one of these is not taken over.

    A run that is over does not change any more, so this can be asked outside of the transaction that submits. The new
    run runs in the scopes that the old one and *asker* may both use: whoever repeats a run lends it no rights.

    Raises:
        NotFoundError: no such run, or none that *asker* may see.
        IllegalStateError: *from_failed*, and the run is not over yet, or nothing of it is left to do.
    """
    old = look_up_run(store.runs, run_id, scopes=asker.scopes)
    kept = {}
    if from_failed:
        if not old.status.final:
            raise _not_from_failed(old, ": it can be repeated from its failed tasks once it is over")
        if old.status is RunState.COMPLETED:
            raise _not_from_failed(old, ", so no task of it failed; leave --from-failed out to repeat all of it")
        kept = {
            task.task_id: task._replace(version=1, attempts=0, failures=0, error=None, due_at_us=None)
            for task in store.tasks.of_run(run_id)
            if task.status.final and not task.counts_as_failed
        }
        if len(kept) == old.task_count and not params:
            raise _not_from_failed(old, ", but every task of it completed; leave --from-failed out to repeat all of it")
    asker = replace(asker, scopes=in_common(old.scopes, asker.scopes))
    spec = stored_spec(store.definitions, old.definition_id)
    before = store.runs.params(run_id) if spec.params else NO_PARAMS
    for task_id in changed_by(spec, params.keys()) if kept and params else ():
        kept.pop(task_id, None)
    return SubmitRequest(
        spec=spec,
        rerun_of=run_id,
        kept=kept,
        asker=asker,
        errexit=old.errexit,
        params={**before, **params},
    )


def changed_by(spec: DagSpec, names: Collection[str]) -> Iterator[str]:
    """Yield the ids of the tasks that parameters of these *names* change: those that use one, and all after them."""
    graph = Graph.of(spec.tasks)
    shared = [one.param for value in spec.env.values() for one in references(value)]
    of_all = any(name in names for name in shared)
    found = [of_all or _uses(task, names) for task in spec.tasks]
    waiting = [number for number, is_found in enumerate(found) if is_found]
    while waiting:
        for child in graph.children[waiting.pop()]:
            if not found[child]:
                found[child] = True
                waiting.append(child)
    for task, is_found in zip(spec.tasks, found, strict=True):
        if is_found:
            yield task.id


def _uses(task: TaskSpec, names: Collection[str]) -> bool:
    """Whether a task refers to a parameter, or its text names the variable of one."""
    plain = task.to_dict()
    if any(one.param in names for one in references(plain)):
        return True
    text = json.dumps(plain)
    return any(f"CIS_PARAM_{name.upper()}" in text for name in names)


def _not_from_failed(run: RunRecord, because: str) -> IllegalStateError:
    return IllegalStateError(f"run {run.run_id}", run.status, "rerun", because=because)
