"""What routes say of themselves in ``/openapi.json``: their answers, the errors among them, their parameters."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from cis.api.problems import PROBLEM_TYPE
from cis.api.schemas import ProblemModel

Responses = dict[int | str, dict[str, Any]]


def answers(model: Any, *, status: int = 200, errors: tuple[int, ...] = ()) -> Responses:
    """Return the answers of a route: *model* when it went well, and problems."""
    found: Responses = {status: {"model": model, "description": HTTPStatus(status).phrase}}
    for error in sorted({401, 403, 429, 500, 503, *errors}):
        schema = {"$ref": f"#/components/schemas/{ProblemModel.__name__}"}
        found[error] = {"description": HTTPStatus(error).phrase, "content": {PROBLEM_TYPE: {"schema": schema}}}
    return found


def parameters(*names: tuple[str, str, dict[str, Any]]) -> dict[str, Any]:
    """Return query parameters, each given as name, description and schema."""
    return {
        "parameters": [
            {"name": name, "in": "query", "required": False, "description": description, "schema": schema}
            for name, description, schema in names
        ]
    }


def or_nothing(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a parameter that counts as absent when it is empty."""
    return {"anyOf": [schema, {"const": ""}]}


TEXT: dict[str, Any] = {"type": "string"}
FLAG: dict[str, Any] = or_nothing({"type": "string", "enum": ["true", "false", "1", "0", "yes", "no"]})
LIMIT = ("limit", "how many at most; 50 unless told", or_nothing({"type": "integer", "minimum": 1, "maximum": 1000}))
CURSOR = ("cursor", "`next_cursor` of the page before", TEXT)
