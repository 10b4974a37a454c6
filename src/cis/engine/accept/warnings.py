"""What is said of a DAG beside its answer: nothing of it is wrong, but it may not do what its author meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path

from cis.engine.ports import LONGEST_TEXT
from cis.model.dag import COMMAND_SKILL, DAG_SKILL, DagSpec, Json, TaskSpec
from cis.model.inference import infer_scope
from cis.model.instances import MADE_OF
from cis.model.pipelines import blind_to_pipes, is_shell, reads_text
from cis.model.references import references, without_references
from cis.model.scope import Scope
from cis.model.task_kinds import FILE
from cis.store.port import Store, stored_spec
from cis.store.records import RunRecord

MOST_WORDS = 10_000  # of commands, that are looked for beside a document
_LONGEST_NAME = 255
_BETWEEN_WORDS = re.compile(r"[\s'\"();|&<>=`]+")
_WHOLE = ("/", "~", "$")
MOST_CHILDREN = 1000
MOST_DOUBTS = 20
_EXPANDED = re.compile(r"\$\([^)]{0,100}\)?|\$\{?[A-Za-z_][A-Za-z0-9_]{0,100}\}?")
_LIKE_A_REFERENCE = re.compile(
    r"\$\{\{[^}]{0,100}\}{0,2}|\$\{\s{0,9}[A-Za-z_][A-Za-z0-9_-]{0,100}\s{0,9}[.\[][^}]{0,200}\}|\$\{(?:item|matrix)\}"
)
_NO_REFERENCE = (
    "{}: {} looks like a reference and is not one, so it stays as it is; references are ${{tasks.ID.outputs.NAME}},"
    " ${{tasks.ID.status}}, ${{params.NAME}} and ${{run.id}}, and in a task with foreach or matrix ${{item}} and ${{matrix.NAME}}"
)
_LITERAL = "{}: {} stays as it is: no shell reads a variable's value; let the command work it out"
_UNWRITTEN = (
    "task {!r} refers to {}, but nothing in task {!r} seems to write an output; a command writes one with"
    ' echo "NAME=value" >> "$CIS_OUTPUT"'
)
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
_TOO_LONG = (
    f"{{}} has {{}} KiB, and Linux starts no program with more than {LONGEST_TEXT // 2**10} KiB in one argument or variable:"
    " hand it over by stdin, or in a file"
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
    found = [_BLIND.format(_named(blind))] if blind else []
    return [
        *found,
        *_condition_doubts(spec),
        *dict.fromkeys(islice(chain(_too_long(spec), _unfilled(spec), _unwritten(spec)), MOST_DOUBTS)),
    ]


def _condition_doubts(spec: DagSpec) -> Iterator[str]:
    conditions = [(task.id, task.when) for task in spec.tasks if task.when is not None]
    if conditions:
        from cis.model.conditions import condition_warnings  # noqa: PLC0415 - most documents have none

        yield from condition_warnings(conditions)


def _too_long(spec: DagSpec) -> Iterator[str]:
    """Yield what is longer than the text that a process may be given in one piece."""
    texts = [(f"env.{name}", f"{name}={value}") for name, value in spec.env.items()]
    for task in spec.every_task:
        here = f"task {task.id!r}: "
        texts += [(f"{here}env.{name}", f"{name}={value}") for name, value in task.env.items()]
        command = task.command if task.skill is None else task.params.get("command")
        if task.skill not in (None, COMMAND_SKILL):
            continue
        if isinstance(command, str):
            texts += [(f"{here}its command", command)] if reads_text(task) else ()
        else:
            texts += [
                (f"{here}argument {number} of its command", str(word)) for number, word in enumerate(command or ())
            ]
    for place, text in texts:
        size = len(text.encode(errors="replace")) if len(text) >= LONGEST_TEXT // 4 else 0
        if size >= LONGEST_TEXT:
            yield _TOO_LONG.format(place, size // 2**10)


def _unfilled(spec: DagSpec) -> Iterator[str]:
    """Yield what looks as if something took its place, and nothing does: in variables, and where references may stand."""
    for name, value in spec.env.items():
        yield from _in_variable(f"env.{name}", value)
    for task in spec.every_task:
        here = f"task {task.id!r}: "
        for name, value in task.env.items():
            yield from _in_variable(f"{here}env.{name}", value, many=task.is_many)
        words = task.command if isinstance(task.command, tuple) else ()
        for place, text in (("command", word) for word in words) if not _is_code(words) else ():
            yield from _no_reference(here + place, text, many=task.is_many)
        yield from _no_reference(f"{here}cwd", task.cwd or "", many=task.is_many)
        yield from _no_reference(f"{here}stdin", task.stdin if isinstance(task.stdin, str) else "", many=task.is_many)


def _in_variable(place: str, value: str, *, many: bool = False) -> Iterator[str]:
    known = list(_no_reference(place, value, many=many))
    yield from known
    found = None if known else _EXPANDED.search(without_references(value, many=many))
    if found is not None:
        yield _LITERAL.format(place, found[0])


def _no_reference(place: str, value: str, *, many: bool) -> Iterator[str]:
    found = _LIKE_A_REFERENCE.search(without_references(value, many=many)) if "${" in value else None
    if found is not None:
        yield _NO_REFERENCE.format(place, found[0])


def _is_code(words: Sequence[str]) -> bool:
    return bool(words) and is_shell(words[0])


def _unwritten(spec: DagSpec) -> Iterator[str]:
    """Yield which outputs are referred to that nothing in the task of theirs seems to write."""
    tasks = {task.id: task for task in spec.tasks}
    writes: dict[str, bool] = {}  # tasks that may write outputs: each is looked at once
    for task in spec.every_task:
        plain = task.to_dict()
        for one in references(
            {name: plain.get(name) for name in ("env", "params", "cwd", "stdin", "command", *MADE_OF)}
        ):
            source = tasks.get(one.task or "")
            if source is None or one.output is None or source.skill not in (None, COMMAND_SKILL):
                continue
            if source.id not in writes:
                writes[source.id] = _is_program(source) or "CIS_OUTPUT" in str(source.to_dict())
            if not writes[source.id] and source.output != one.output:
                yield _UNWRITTEN.format(task.id, one.text, source.id)


def _is_program(task: TaskSpec) -> bool:
    """Whether a task runs something of which nothing is known here, that may write outputs: a file by its path."""
    command = task.command if task.command is not None else task.params.get("command")
    words = _BETWEEN_WORDS.split(command) if isinstance(command, str) else map(str, command or ())
    return any("/" in word.strip("/") and not word.startswith("-") for word in words)


def travel_warnings(spec: DagSpec, folder: Path) -> list[str]:
    """Return what a DAG for another node names of the *folder* that its document is in, which stays where it is."""
    relative = [one.id for one in spec.every_task if one.cwd is not None and not one.cwd.startswith(_WHOLE)]
    beside: dict[str, str] = {}
    named = ((one, word) for one in spec.every_task for word in _words(one))
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
    told = _spread(store, dag_id=run.dag_id, scope=run.scope, wanted=run.target_node)
    return [*told, *peer_warnings(store, run)]


def peer_warnings(store: Store, run: RunRecord) -> list[str]:
    """Return what the answer of the node that executes a run gave reason to say; nothing before it has answered."""
    remote = store.remotes.get(run.run_id) if run.owner_node != run.node_id else None
    if remote is None or not remote.ignores_errexit:
        return []
    spec = stored_spec(store.definitions, run.definition_id)
    texts = [task.id for task in spec.every_task if task.skill == COMMAND_SKILL or isinstance(task.command, str)]
    return [_OLD_SHELL.format(remote.peer_id, _named(texts))] if texts else []


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
