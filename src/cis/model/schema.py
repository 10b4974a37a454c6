"""The JSON Schema of a document (draft 2020-12), made of the fields that read it (``cis.model.document``)."""

from __future__ import annotations

from typing import Any

from cis.model.document import DagDocument

_EXAMPLE = {
    "dag_id": "proj-a-nightly",
    "tasks": [
        {"id": "compile", "command": "make all", "timeout": "10m"},
        {"id": "report", "skill": "http", "params": {"url": "http://127.0.0.1:8000/done"}, "depends_on": ["compile"]},
    ],
}
_ONE_OF = [
    {
        "title": "a command",
        "required": ["command"],
        "properties": {"type": {"const": "shell"}, "skill": False, "params": False},
    },
    {
        "title": "a skill",
        "required": ["skill"],
        "properties": {"type": {"const": "skill"}, "command": False},
    },
]


def dag_schema() -> dict[str, Any]:
    """Return the schema; it knows the fields of a task and of a DAG, not what holds between tasks."""
    schema = _without_null(DagDocument.model_json_schema())
    schema["$defs"]["TaskDocument"] |= {"oneOf": _ONE_OF, "not": {"required": ["depends_on", "deps"]}}
    schema["$defs"]["HandlerDocument"] |= {"oneOf": _ONE_OF}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "CIS-DAG document",
        "examples": [_EXAMPLE],
    }


def _without_null(node: Any) -> Any:
    """Return the schema without the nulls that stand for "left out", and without their defaults."""
    if isinstance(node, list):
        return [_without_null(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: _without_null(item) for key, item in node.items() if not (key == "default" and item is None)}
    options = node.get("anyOf")
    if options and {"type": "null"} in options:
        rest = [option for option in options if option != {"type": "null"}]
        if len(rest) > 1:
            return {**node, "anyOf": rest}
        if len(rest) == 1:
            return rest[0] | {key: value for key, value in node.items() if key not in ("anyOf", "title")}
    return node
