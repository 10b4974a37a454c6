"""Checking a DAG without running it: the command line and HTTP say the same of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cis.engine.accept.checks import check_secrets, check_skills, values_of
from cis.engine.accept.warnings import document_warnings, travel_warnings
from cis.engine.this_node import ThisNode
from cis.model.dag import DagSpec, Json
from cis.model.graph import Graph
from cis.model.inference import infer_scope, scope_reason

if TYPE_CHECKING:
    from cis.model.params import Given


def check_dag(spec: DagSpec, given: Given, *, this_node: ThisNode) -> Mapping[str, Json] | None:
    """Return the values of its parameters; None: none are given, so what they will be is not known yet.

    Raises:
        DocumentError: a skill, a parameter or a secret of it is refused here.
    """
    check_skills(spec, this_node.skills)
    values = values_of(spec, given) if given else None
    stays = spec.target_node == this_node.node_id or (spec.target_node is None and not this_node.offers)
    if stays and any(task.secrets for task in spec.every_task):
        check_secrets(spec, infer_scope(spec)[0], this_node, params=values)
    return values


def dag_warnings(spec: DagSpec, *, this_node: ThisNode, folder: Path | None = None) -> list[str]:
    """Return what is to be said of a DAG; *folder* is where its document is, if that is known."""
    may_leave = spec.target_node not in (None, this_node.node_id) or (spec.target_node is None and this_node.offers)
    found = [*_secret_warnings(spec, this_node), *document_warnings(spec)]
    return [*found, *travel_warnings(spec, folder)] if may_leave and folder is not None else found


def _secret_warnings(spec: DagSpec, this_node: ThisNode) -> list[str]:
    """Return which secrets this node lacks; what another node has cannot be told from here."""
    asked = {name: task.id for task in reversed(spec.every_task) for name in task.secrets.values() if "${" not in name}
    if not asked or spec.target_node not in (None, this_node.node_id) or this_node.secrets is None:
        return []
    missing = this_node.secrets.missing(asked)
    return [
        f"task {asked[name]!r} asks for the secret {name}, which {this_node.secrets.place} lacks" for name in missing
    ]


def validation_view(spec: DagSpec, *, values: Mapping[str, Json] | None, warnings: Sequence[str]) -> dict[str, Json]:
    """Return what is said of a DAG without a fault."""
    scope, source = infer_scope(spec)
    graph = Graph.of(spec.tasks)
    longest = graph.critical_path([1.0] * len(spec.tasks))
    return {
        "valid": True,
        "dag_id": spec.dag_id,
        "scope": scope.to_dict(),
        "scope_source": str(source),
        "scope_reason": scope_reason(scope, source),
        "worker_id": scope.worker_id,
        "target_node": spec.target_node,
        "priority": str(spec.priority),
        "tasks": len(spec.tasks),
        "levels": [[spec.tasks[number].id for number in level] for level in graph.levels()],
        "handlers": list(spec.handlers),
        "longest_chain": [spec.tasks[number].id for number in longest],
        "warnings": list(warnings),
        "params": None if values is None else dict(values),
        "conditions": {task.id: task.when for task in spec.tasks if task.when is not None},
    }
