"""Answers of the API: JSON, errors, and how ``/openapi.json`` describes both.

The JSON objects of the engine's views are written once, and neither copied nor validated again. Errors are
``application/problem+json`` (RFC 9457), with a stable ``code``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from cis.api.schemas import ProblemModel
from cis.errors import (
    CisError,
    ConfigError,
    DocumentError,
    Fault,
    NotAuthenticatedError,
    OverloadedError,
    SlowRequestError,
    UsageError,
)
from cis.model.dag import Json

PROBLEM_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:cis-dag:problem:"
RETRY_AFTER_S = 5
_CODES = {
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    HTTPStatus.BAD_REQUEST: "usage",
}

Responses = dict[int | str, dict[str, Any]]

TEXT: dict[str, Any] = {"type": "string"}

CURSOR = ("cursor", "`next_cursor` of the page before", TEXT)


def encoded(content: Json) -> bytes:
    """Return *content* as JSON in UTF-8; half a surrogate pair stays the escape that it came as."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return text.encode(errors="backslashreplace")


def json_answer(content: Json, *, status: int = 200) -> Response:
    """Return *content* as a response."""
    return Response(encoded(content), status_code=status, media_type="application/json")


def list_answer(items: Sequence[Json], *, next_cursor: str | None = None) -> Response:
    """Return one page of a list as a response."""
    content: dict[str, Any] = {"items": items, "next_cursor": next_cursor}
    return json_answer(content)


class QueryError(UsageError):
    """Parameters of a request have values that they cannot have; each is named."""

    code = "query.invalid"
    http_status = 422

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(str(fault) for fault in faults))


class ForbiddenHostError(CisError):
    """The request came under a name that is not this node's, as a foreign web page makes a browser send it."""

    code = "host.forbidden"
    http_status = 403


def problem(
    status: int,
    *,
    code: str,
    detail: str,
    errors: Sequence[Fault] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a problem as a response."""
    body: dict[str, Any] = {
        "type": TYPE_PREFIX + code,
        "title": HTTPStatus(status).phrase,
        "status": int(status),
        "detail": detail,
        "code": code,
    }
    if errors is not None:
        body["errors"] = [{"place": each.place, "message": each.message, "line": each.line} for each in errors]
    content = json.dumps(body, ensure_ascii=False).encode(errors="replace")
    return Response(content, status_code=status, media_type=PROBLEM_TYPE, headers=dict(headers or {}))


def problem_of(error: CisError) -> Response:
    """Return the problem that *error* is."""
    headers = {}
    if error.http_status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
        retry_after_s = error.retry_after_s if isinstance(error, OverloadedError) else RETRY_AFTER_S
        headers["Retry-After"] = str(retry_after_s)
    if isinstance(error, SlowRequestError):
        headers["Connection"] = "close"  # the rest of the body is not waited for
    if isinstance(error, NotAuthenticatedError):
        headers["WWW-Authenticate"] = 'Bearer realm="cis"'
    faults = error.faults if isinstance(error, DocumentError | ConfigError | QueryError) else None
    return problem(error.http_status, code=error.code, detail=str(error), errors=faults, headers=headers)


def internal_problem() -> Response:
    """Return the answer to a fault of this program; what it was stands in the log alone."""
    return problem(500, code="internal", detail="this node failed to answer; its log says why")


def answer_with_problems(app: FastAPI, *, routes: Sequence[BaseRoute]) -> None:
    """Make every error that a route raises, or that there is no route, a problem; *routes* are those of the app."""

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - for the type checker; registered for this class
        return _http_problem(request, error, routes=routes)

    app.add_exception_handler(CisError, _cis_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)


async def _cis_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, CisError)  # noqa: S101 - for the type checker; registered for this class
    return problem_of(error)


def _http_problem(request: Request, error: HTTPException, *, routes: Sequence[BaseRoute]) -> Response:
    status = HTTPStatus(error.status_code)
    code = _CODES.get(status, status.name.lower())
    detail = f"{request.method} {request.url.path}: {status.phrase.lower()}; /openapi.json lists what there is"
    headers = dict(error.headers or {})
    if status is HTTPStatus.METHOD_NOT_ALLOWED and (known := _methods(request, routes)):
        headers["Allow"] = ", ".join(known)  # FastAPI names those of one route of the path
    return problem(status, code=code, detail=detail, headers=headers)


def _methods(request: Request, routes: Sequence[BaseRoute]) -> list[str]:
    """Return what may be asked of the path of a request."""
    there = [route for route in routes if isinstance(route, Route) and route.path_regex.match(request.url.path)]
    return sorted({method for route in there for method in route.methods or ()})


async def _validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - for the type checker; registered for this class
    faults = [
        Fault(place=".".join(str(part) for part in each.get("loc", ())), message=str(each.get("msg", "is wrong")))
        for each in error.errors()
    ]
    return problem_of(QueryError(faults))


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


FLAG: dict[str, Any] = or_nothing({"type": "string", "enum": ["true", "false", "1", "0", "yes", "no"]})
LIMIT = ("limit", "how many at most; 50 unless told", or_nothing({"type": "integer", "minimum": 1, "maximum": 1000}))
