"""``cis dag validate``, ``import`` and ``save``."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from cis.app.submit import anchored, node_warnings
from cis.app.submit import save as save_dag
from cis.app.validating import check_dag, dag_warnings, validation_view
from cis.cli.context import Context, from_environment, say, this_user
from cis.cli.dag.given import given_params
from cis.cli.dag.run import DocumentFile, base_directory, read_input
from cis.cli.output import print_json
from cis.engine.observe.views import dag_view
from cis.errors import DocumentError, Fault, MalformedDocumentError, UsageError
from cis.model.dag import DagSpec
from cis.model.ids import counted
from cis.model.inference import infer_scope

MAX_LEVELS_SHOWN = 30
MAX_NAMES_SHOWN = 8
MAX_CONDITIONS_SHOWN = 30


def validate(options: argparse.Namespace) -> None:
    """Print what would run; a document with faults raises them all."""
    context = from_environment()
    document = DocumentFile(options.file)
    spec = document.dag()
    with document.with_lines():
        values = check_dag(spec, given_params(options), this_node=context.this_node)
    warnings = dag_warnings(spec, this_node=context.this_node, folder=base_directory(options.file))
    warnings += _node_warnings(spec, context)
    if options.strict and warnings:
        faults = [Fault(place="", message=f"{warning} (a warning; --strict refuses it)") for warning in warnings]
        raise DocumentError(faults, source=options.file)
    checked = validation_view(spec, values=values, warnings=warnings)
    if options.json:
        print_json(checked)
        return
    for warning in warnings:
        say(f"warning: {warning}")
    levels = checked["levels"]
    print(f"{spec.dag_id}: fine, {counted(len(spec.tasks), 'task')} in {counted(len(levels), 'level')}")
    print(f"scope {infer_scope(spec)[0]}: {checked['scope_reason']}")
    node_id = spec.target_node or context.settings.node_id
    print(f"worker {checked['worker_id']}, priority {spec.priority}, node {node_id}")
    for number, level in enumerate(levels[:MAX_LEVELS_SHOWN], 1):
        more = f" and {len(level) - MAX_NAMES_SHOWN} more" if len(level) > MAX_NAMES_SHOWN else ""
        print(f"  {number}. {', '.join(level[:MAX_NAMES_SHOWN])}{more}")
    if len(levels) > MAX_LEVELS_SHOWN:
        print(f"  and {len(levels) - MAX_LEVELS_SHOWN} more levels")
    conditions = list(checked["conditions"].items())
    for task_id, condition in conditions[:MAX_CONDITIONS_SHOWN]:
        print(f"  {task_id} runs when {' '.join(condition.split())}")
    if len(conditions) > MAX_CONDITIONS_SHOWN:
        print(f"  and {len(conditions) - MAX_CONDITIONS_SHOWN:,} more conditions")


def _node_warnings(spec: DagSpec, context: Context) -> list[str]:
    """Return what would be said or refused since work of its scope, or of that of a DAG below it, is on another node."""
    if spec.target_node is None and all(task.skill != "dag" for task in spec.tasks):
        return []
    with context.store() as store:
        return node_warnings(store, spec)


def import_(options: argparse.Namespace) -> None:
    """Write another tool's workflow as a DAG document."""
    from cis.importers.wfformat import dag_from_wfformat  # noqa: PLC0415
    from cis.model.formats import SUFFIXES, Format, dump_document  # noqa: PLC0415 - only here

    if not (math.isfinite(options.scale) and options.scale >= 0):
        raise UsageError(f"--scale must be 0 or more, not {options.scale}")
    try:
        plain = json.loads(read_input(options.file))
    except (ValueError, RecursionError) as error:
        fault = Fault(place="", message=f"is not JSON: {error}")
        raise MalformedDocumentError([fault], source=options.file) from error
    if not isinstance(plain, dict):
        raise MalformedDocumentError([Fault(place="", message="is not a JSON object")], source=options.file)
    try:
        spec = dag_from_wfformat(plain, scale=options.scale, commands=options.commands)
    except DocumentError as error:
        raise type(error)(error.faults, source=options.file) from error
    if options.output is None:
        print(dump_document(spec.to_dict(), Format.YAML), end="")
        return
    notation = SUFFIXES.get(Path(options.output).suffix.lower(), Format.YAML)
    try:
        Path(options.output).write_text(dump_document(spec.to_dict(), notation), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{options.output} cannot be written: {error.strerror}") from error
    say(f"{options.output}: {spec.dag_id}, {counted(len(spec.tasks), 'task')}")


def save(options: argparse.Namespace) -> None:
    """Store a DAG under its id."""
    context = from_environment()
    document = DocumentFile(options.file)
    spec = anchored(document.dag(), base=base_directory(options.file))
    with document.with_lines(), context.writable_store() as store:
        saved = save_dag(store, spec, this_node=context.this_node, by=this_user()).definition
    if options.json:
        print_json(dag_view(saved))
    else:
        print(f"{saved.dag_id}: stored, {counted(saved.task_count, 'task')}")
