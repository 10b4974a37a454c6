"""The JSON Schema of a DAG document (draft 2020-12), from the same fields that read it."""

from __future__ import annotations

from typing import Any

from cis.model.document import DagDocument


def dag_schema() -> dict[str, Any]:
    """Return the schema; it knows each field by itself, not what holds between tasks."""
    schema = _without_null(DagDocument.model_json_schema())
    task = schema["$defs"]["TaskDocument"]
    task["oneOf"] = [{"required": ["command"]}, {"required": ["skill"]}]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "CIS-DAG document",
    }


def _without_null(node: Any) -> Any:
    """Return the schema without the nulls that stand for "left out", and without their defaults."""
    if isinstance(node, list):
        return [_without_null(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: _without_null(item) for key, item in node.items() if not (key == "default" and item is None)}
    options = node.get("anyOf")
    if options and {"type": "null"} in options and "id" not in node.get("properties", {}):
        rest = [option for option in options if option != {"type": "null"}]
        if len(rest) == 1:
            return rest[0] | {key: value for key, value in node.items() if key not in ("anyOf", "title")}
    return node
