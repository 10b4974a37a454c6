"""A DAG as it stands in an event: the fields of a document, without floats.

The canonical JSON of Matrix has no floats, so durations are spelled with their unit. What else holds a float or
a huge integer, parameters of a skill, cannot stand in an event; such a DAG travels as a blob.
"""

from __future__ import annotations

from collections.abc import Mapping

from cis.model.dag import Json
from cis.model.durations import exact_duration
from cis.model.message import is_inline

WIRE_FIELDS = ("description", "env", "max_parallel", "labels", "expires", "tasks")
SCOPES = "scopes"  # those that the run, and what it starts, may run in, when that is not all
ROOT = "root"  # of a run that is a task of another: the run at the top of its tree
ABOVE = "above"  # and the DAGs over it
_TASK_DURATIONS = ("timeout", "retry_delay")


def wire_fields(document: Mapping[str, Json]) -> dict[str, Json] | None:
    """Return the fields of a stored document for an event, but for those that every event has; None: not possible.

    ``dag_id``, ``scope``, ``target_node`` and ``priority`` are in every execute message anyway.
    """
    fields = {name: document[name] for name in WIRE_FIELDS if name in document}
    if "expires" in fields:
        fields["expires"] = _spelled(fields["expires"])
    fields["tasks"] = [
        {name: _spelled(value) if name in _TASK_DURATIONS else value for name, value in task.items()}
        for task in document["tasks"]
    ]
    return fields if is_inline(fields) else None


def document_of(fields: Mapping[str, Json]) -> dict[str, Json]:
    """Return the document that an execute message with inline tasks holds, unchecked."""
    document = {name: fields[name] for name in WIRE_FIELDS if name in fields}
    document["dag_id"] = fields.get("dag_id")
    if fields.get("priority") is not None:
        document["priority"] = fields["priority"]
    if fields.get("scope_source") == "explicit":
        document["scope"] = fields.get("scope")
    return document


def _spelled(seconds: Json) -> str:
    return f"{exact_duration(seconds)}s"
