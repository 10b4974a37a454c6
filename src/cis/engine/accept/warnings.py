"""What is said of a DAG beside its answer: nothing of it is wrong, but it may not do what its author meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from cis.model.dag import COMMAND_SKILL, DAG_SKILL, DagSpec, Json, TaskSpec
from cis.model.inference import infer_scope
from cis.model.pipelines import blind_to_pipes
from cis.model.scope import Scope
from cis.model.task_kinds import FILE
from cis.store.port import Store, stored_spec
from cis.store.records import RunRecord

MOST_WORDS = 10_000  # of commands, that are looked for beside a document
_LONGEST_NAME = 255
_BETWEEN_WORDS = re.compile(r"[\s'\"();|&<>=`]+")
_WHOLE = ("/", "~", "$")
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
_RELATIVE = (
    "{}: a relative cwd counts from work/<worker id> in the home of the node that runs it, since the folder of the document"
    " does not travel; write the whole path that it has there"
)
_BESIDE = (
    "task {!r} names {}, which is beside the document and does not travel to another node: have it there already, or"
    " have a task fetch it"
)
_OLD_SHELL = (
    "node {} runs an earlier program, which knows no /bin/sh -e: {} will go on after a line that fails; upgrade that"
    ' node, or begin the command with "set -e"'
)


def document_warnings(spec: DagSpec) -> list[str]:
    """Return what is to be said of a document, wherever it runs."""
    blind = list(blind_to_pipes(spec))
    return [_BLIND.format(_named(blind))] if blind else []


def travel_warnings(spec: DagSpec, folder: Path) -> list[str]:
    """Return what a DAG for another node names of the *folder* that its document is in, which stays where it is."""
    relative = [one.id for one in spec.tasks if one.cwd is not None and not one.cwd.startswith(_WHOLE)]
    beside: dict[str, str] = {}
    named = ((one, word) for one in spec.tasks for word in _words(one))
    for task, word in islice(named, MOST_WORDS):
        base = folder if task.cwd is None or task.cwd.startswith("${") else folder / Path(task.cwd).expanduser()
        if word not in beside and _is_beside(base, word):
            beside[word] = task.id
    said = [_RELATIVE.format(_named(relative))] if relative else []
    return [*said, *(_BESIDE.format(task_id, word) for word, task_id in islice(beside.items(), _SHOWN))]


def _words(task: TaskSpec) -> Iterator[str]:
    """Yield what of a task may name a file: words of its command, the module of its function."""
    command = task.command if task.command is not None else task.params.get("command")
    if isinstance(command, str):
        yield from _BETWEEN_WORDS.split(command)
    elif isinstance(command, list | tuple):
        yield from (word for word in command if isinstance(word, str))
    if isinstance(task.stdin, Mapping):
        yield task.stdin[FILE]
    for name in ("callable", "module"):
        if isinstance(module := task.params.get(name), str):
            yield module.partition(":")[0].replace(".", "/") + ".py"


def _is_beside(base: Path, word: str) -> bool:
    """Whether a word names a file there, or, with a slash in it, a folder: a bare word may be anything else."""
    if not 0 < len(word) <= _LONGEST_NAME or word.startswith((*_WHOLE, "-")) or not word.strip("./"):
        return False
    path = base / word
    return path.is_file() or ("/" in word and path.is_dir())


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
