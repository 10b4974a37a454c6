"""What is said of a DAG beside its answer: nothing of it is wrong, but it may not do what its author meant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cis.model.dag import COMMAND_SKILL, DagSpec, Json
from cis.model.inference import infer_scope
from cis.model.pipelines import blind_to_pipes
from cis.model.scope import Scope
from cis.store.port import Store, stored_spec
from cis.store.records import RunRecord

DAG_SKILL = "dag"
MOST_CHILDREN = 1000
_SHOWN = 4
_SPREAD = (
    "{} goes to node {}, while scope {} has work on node {}: run {} of {}. Nothing keeps the two apart; a DAG whose work"
    " belongs in one place has a scope of its own (scope: project:ID)"
)
_REFUSED = (
    "{} for node {} would be refused now: {} still has work on node {}, run {} of {}; wait for it, cancel it, use another"
    " scope:, or write spread: true into the document"
)
_NOT_BESIDE = (
    "{} for node {} is refused while {}, its scope, has work on another node, as {} has on node {}; use another scope:"
    " for one of them, or write spread: true into the document of the first"
)
_BLIND = (
    "{}: of a pipe (|) only the last command counts, so the failure of another goes unseen; with"
    ' "shell: bash -euo pipefail" it fails the task'
)
_OLD_SHELL = (
    "node {} runs an earlier program, which knows no /bin/sh -e: {} will go on after a line that fails; upgrade that"
    ' node, or begin the command with "set -e"'
)


def document_warnings(spec: DagSpec) -> list[str]:
    """Return what is to be said of a document, wherever it runs."""
    blind = list(blind_to_pipes(spec))
    return [_BLIND.format(_named(blind))] if blind else []


def run_warnings(store: Store, run: RunRecord) -> list[str]:
    """Return what is to be said of a run that was handed in; nothing is read for one that just stays on this node."""
    remote = store.remotes.get(run.run_id) if run.owner_node != run.node_id else None
    told = _spread(store, dag_id=run.dag_id, scope=run.scope, wanted=run.target_node)
    if remote is None or not remote.ignores_errexit:
        return told
    spec = stored_spec(store.definitions, run.definition_id)
    texts = [task.id for task in spec.tasks if task.skill == COMMAND_SKILL or isinstance(task.command, str)]
    return [*told, _OLD_SHELL.format(remote.peer_id, _named(texts))] if texts else told


def _spread(store: Store, *, dag_id: str, scope: Scope, wanted: str | None) -> list[str]:
    """Return that a scope whose work may be anywhere has some on another node than the one that is *wanted* now."""
    if wanted is None or scope.in_one_place:
        return []
    other = store.runs.unfinished_elsewhere(scope.worker_id, wanted)
    return (
        [] if other is None else [_SPREAD.format(dag_id, wanted, scope, other.target_node, other.run_id, other.dag_id)]
    )


def node_warnings(store: Store, spec: DagSpec) -> list[str]:
    """Return what would be said, or refused now, since a scope has work on another node: of a DAG and those below it."""
    found: list[str] = []
    above: list[tuple[str, Scope, str]] = []
    for dag in (spec, *_children(store, spec)):
        scope, wanted = infer_scope(dag)[0], dag.target_node
        if wanted is None:
            continue
        if not scope.in_one_place:
            found += _spread(store, dag_id=dag.dag_id, scope=scope, wanted=wanted)
        elif not dag.spread:
            found += _refusal(store, dag, scope, above)
        above.append((dag.dag_id, scope, wanted))
    return found


def _refusal(store: Store, dag: DagSpec, scope: Scope, above: Sequence[tuple[str, Scope, str]]) -> list[str]:
    beside = [one for one in above if one[1] == scope and one[2] != dag.target_node]
    if beside:
        return [_NOT_BESIDE.format(dag.dag_id, dag.target_node, scope, beside[0][0], beside[0][2])]
    other = store.runs.unfinished_elsewhere(scope.worker_id, str(dag.target_node))
    if other is None:
        return []
    return [_REFUSED.format(dag.dag_id, dag.target_node, scope, other.target_node, other.run_id, other.dag_id)]


def _children(store: Store, spec: DagSpec) -> Iterator[DagSpec]:
    """Yield the DAGs below one, as far as they are written out or stored here: each stored one once."""
    seen = {spec.dag_id}
    waiting = [spec]
    for _ in range(MOST_CHILDREN):
        if not waiting:
            return
        dag = waiting.pop()
        if dag is not spec:
            yield dag
        for task in dag.tasks:
            if task.skill != DAG_SKILL:
                continue
            document, dag_id = task.params.get("document"), task.params.get("dag_id")
            if isinstance(document, Mapping):
                waiting.append(_parsed(document))
            elif isinstance(dag_id, str) and dag_id not in seen:
                seen.add(dag_id)
                stored = store.definitions.current(dag_id)
                waiting += [] if stored is None else [stored_spec(store.definitions, stored.definition_id)]


def _parsed(document: Mapping[str, Json]) -> DagSpec:
    from cis.model.document import dag_from_plain  # noqa: PLC0415 - pydantic, for the rare DAG within a DAG

    return dag_from_plain(document)


def _named(ids: Sequence[str]) -> str:
    names = ", ".join(repr(one) for one in ids[:_SHOWN])
    more = f" and {len(ids) - _SHOWN:,} more" if len(ids) > _SHOWN else ""
    return f"{'task' if len(ids) == 1 else 'tasks'} {names}{more}"
