"""``cis dag show``, ``delete`` and ``diff``: documents that are stored under their ids, and those that runs were of."""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cis.app.submit import anchored, forget
from cis.cli.context import from_environment, say, this_user
from cis.cli.dag.run import base_directory, read_dag
from cis.cli.output import print_json
from cis.engine.lookup import dag_or_run, run_of
from cis.engine.observe.views import dag_view
from cis.errors import NotFoundError, UsageError
from cis.model.formats import Format, dump_document
from cis.store.port import stored_spec

if TYPE_CHECKING:
    from cis.model.dag import DagSpec
    from cis.store.port import Store
    from cis.store.records import DefinitionRecord

_HEAD = "the DAG itself"


def show(options: argparse.Namespace) -> None:
    """Print the document of a DAG, as it is stored or else as it ran last; of a run, the one that ran."""
    with from_environment().store() as store:
        definition, run = dag_or_run(store, options.dag_id)
        if run is not None:
            definition = store.definitions.get(run.definition_id) or definition
        spec = stored_spec(store.definitions, definition.definition_id)
        text = store.definitions.document(definition.definition_id)
    if options.json:
        print_json({**dag_view(definition), "document": json.loads(text)})
    else:
        print(dump_document(spec.to_dict(), Format.YAML), end="")


def delete(options: argparse.Namespace) -> None:
    """Store a DAG no longer; its runs stay."""
    context = from_environment()
    with context.writable_store() as store, store.transaction():
        named, _ = dag_or_run(store, options.dag_id)
        definition = forget(store, named.dag_id, by=this_user(), now_us=context.this_node.clock_us())
    if options.json:
        print_json(dag_view(definition))
    else:
        print(f"{definition.dag_id}: stored no longer; its runs, and what they ran, are still here")


def diff(options: argparse.Namespace) -> None:
    """Print how a file, or what a run was of, differs from the DAG that is stored."""
    if options.file is not None and options.run is not None:
        raise UsageError("a FILE or --run is compared, not both")
    with from_environment().store() as store:
        definition = _stored(store, options.dag_id)
        old = stored_spec(store.definitions, definition.definition_id)
        other, new = _other(store, options)
    lines = list(_differences(old.to_dict(), new.to_dict()))
    if options.json:
        names = {"dag_id": definition.dag_id, "from": "stored", "to": other}
        print_json({**names, "changed": bool(lines), "diff": lines})
    elif lines:
        print(f"--- {definition.dag_id}, as it is stored\n+++ {other}")
        print("\n".join(lines))
    else:
        say(f"{other} is the same as {definition.dag_id}, as it is stored")


def _stored(store: Store, name: str) -> DefinitionRecord:
    definition, _ = dag_or_run(store, name)
    if definition.saved_at_us is None:
        raise NotFoundError("stored DAG", definition.dag_id, hint="'cis dag definitions' shows what is stored")
    return definition


def _other(store: Store, options: argparse.Namespace) -> tuple[str, DagSpec]:
    """Return what is compared with the stored DAG, and its name."""
    if options.file is None:
        run = run_of(store, options.dag_id, run_id=options.run)
        return f"run {run.run_id}", stored_spec(store.definitions, run.definition_id)
    return options.file, anchored(read_dag(options.file), base=base_directory(options.file))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines that differ, task by task: to compare two documents as a whole takes the square of their size."""
    before, after = _parts(old), _parts(new)
    for name in {**before, **after}:
        first, second = before.get(name, []), after.get(name, [])
        if first != second:
            yield f"@@ {name} @@"
            yield from list(difflib.unified_diff(first, second, n=2, lineterm=""))[2:]


def _parts(document: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the lines of a document in YAML: those of each task, and those of all that is around them."""
    head = {name: _in_order(value) for name, value in document.items() if name != "tasks"}
    parts = {_HEAD: dump_document(head, Format.YAML).splitlines()}
    for task in document["tasks"]:
        fields = {name: _in_order(value) for name, value in task.items()}
        parts[f"task {task['id']}"] = dump_document(fields, Format.YAML).splitlines()
    return parts


def _in_order(value: Any) -> Any:
    """Return a value with the names of its mappings in order: what is stored has lost the order of the document."""
    if isinstance(value, Mapping):
        return {name: _in_order(value[name]) for name in sorted(value)}
    return [_in_order(item) for item in value] if isinstance(value, list) else value
