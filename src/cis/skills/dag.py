"""The DAG skill: how a DAG enters this node, and how one DAG becomes a task of another.

As a task it is no process: the engine records a run of its own for it and waits, without holding a slot.
"""

from __future__ import annotations

from collections.abc import Mapping

from cis.engine.ports import ChildDag
from cis.errors import LaunchError
from cis.model.dag import Json
from cis.skills.params import Faults, broken_rules, is_text, unknown_params

_RULES = {
    "document": (lambda value: isinstance(value, Mapping), "is a DAG document: a mapping with dag_id and tasks"),
    "dag_id": (is_text, "is the id of a stored DAG"),
}


class DagSkill:
    """Runs a DAG: a document, or a stored one by its id."""

    name = "dag"
    description = "Runs a DAG in the worker of its scope."
    triggers: tuple[str, ...] = ("http POST /api/v1/dag/execute", "cli cis dag run", "task")
    literal_params = frozenset({"document"})  # it holds commands, which a shell will interpret

    def check(self, params: Mapping[str, Json]) -> Faults:
        """Return each fault of *params*: exactly one of ``document`` and ``dag_id``."""
        faults = [*unknown_params(params, known=tuple(_RULES)), *broken_rules(params, _RULES)]
        given = [name for name in _RULES if name in params]
        if len(given) != 1:
            faults.append(("", f"give exactly one of document and dag_id, not {'both' if given else 'neither'}"))
        document = params.get("document")
        if isinstance(document, Mapping):
            faults += [(f"document.{name}", "is missing") for name in ("dag_id", "tasks") if name not in document]
        return faults

    def plan(self, params: Mapping[str, Json]) -> ChildDag:
        """Return which DAG to run."""
        document, dag_id = params.get("document"), params.get("dag_id")
        if (document is None) == (dag_id is None):
            raise LaunchError("give exactly one of document and dag_id")
        return ChildDag(document=document, dag_id=dag_id)
