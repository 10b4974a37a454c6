"""The DAG skill: how a DAG enters this node, and how one DAG becomes a task of another.

As a task it is no process: the engine records a run of its own for it and waits, without holding a slot.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cis.engine.ports import ChildDag
from cis.errors import DocumentError
from cis.skills.shell import Faults, broken_rules, is_open, is_text, refuse, unknown_params

if TYPE_CHECKING:
    from cis.model.dag import Json

_RULES = {
    "document": (lambda value: isinstance(value, Mapping), "must be a DAG document: a mapping with dag_id and tasks"),
    "dag_id": (is_text, "must be the id of a stored DAG"),
    "params": (lambda value: isinstance(value, Mapping), "must be a mapping of its parameters to values"),
}


class DagSkill:
    """Runs a DAG: a document, or a stored one by its id."""

    name = "dag"
    description = "Runs a DAG in the worker of its scope."
    triggers: tuple[str, ...] = (
        "http POST /api/v1/dag/execute",
        "room io.cis.dag.execute, !dag run",
        "cli cis dag run",
        "task",
    )
    waits = True  # for its run
    literal_params: frozenset[str] = frozenset()
    nested_params = frozenset({"document"})

    def check(self, params: Mapping[str, Json]) -> Faults:
        """Return each fault of *params*: exactly one of ``document``, which is checked whole, and ``dag_id``."""
        faults = _faults(params)
        document = params.get("document")
        return faults if faults or document is None else _faults_of_document(document, params.get("params", {}))

    def plan(self, params: Mapping[str, Json]) -> ChildDag:
        """Return which DAG to run."""
        refuse(_faults(params))
        given = params.get("params", {})
        return ChildDag(document=params.get("document"), dag_id=params.get("dag_id"), params=given)


def _faults(params: Mapping[str, Json]) -> list[tuple[str, str]]:
    faults = [*unknown_params(params, known=tuple(_RULES)), *broken_rules(params, _RULES)]
    if is_open(params.get("document")):
        faults.append(
            ("document", "must be written out here, as a mapping with dag_id and tasks; it cannot be a reference")
        )
    given = [name for name in ("document", "dag_id") if name in params]
    if len(given) != 1:
        faults.append(("", f"give exactly one of document and dag_id, not {'both' if given else 'neither'}"))
    return faults


def _faults_of_document(document: Mapping[str, Json], given: Json) -> list[tuple[str, str]]:
    from cis.model.document import dag_from_plain  # noqa: PLC0415 - pydantic, for the rare DAG within a DAG

    try:
        declared = dag_from_plain(document).params
    except DocumentError as error:
        return [(f"document.{fault.place}".rstrip("."), fault.message) for fault in error.faults]
    if not declared and not given:
        return []
    from cis.model.params import param_values  # noqa: PLC0415 - as above
    from cis.model.references import refers  # noqa: PLC0415 - as above

    open_ones = (
        {name for name, value in given.items() if refers(value, many=True)} if isinstance(given, Mapping) else set()
    )
    try:  # what is known only when the task starts is checked then
        param_values(
            {name: one for name, one in declared.items() if name not in open_ones},
            {name: value for name, value in given.items() if name not in open_ones},
        )
    except DocumentError as error:
        return [(fault.place, fault.message) for fault in error.faults]
    return [(f"params.{name}", "there is no such parameter") for name in sorted(open_ones - declared.keys())]
