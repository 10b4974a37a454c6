"""``POST /api/v1/dag/execute``: the HTTP trigger of the DAG skill."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from cis.api.answers import json_answer
from cis.api.body import read_body
from cis.api.describe import answers
from cis.api.messages import answer_message, is_message
from cis.api.ports import NodeServices
from cis.api.request_limits import admission_of
from cis.api.requests import append_audit, rights_of
from cis.api.schemas import SubmissionModel
from cis.api.submitting import submitted
from cis.engine.dispatch import mark_sending
from cis.engine.submit import Submission, SubmitRequest, submit
from cis.engine.views import submission_view
from cis.errors import UsageError
from cis.model.document import parse_dag
from cis.model.formats import Format
from cis.store.port import Store

MAX_KEY_LENGTH = 255
SMALL_BYTES = 16 * 2**10
_FORMATS = {
    "json": Format.JSON,
    "yaml": Format.YAML,
    "x-yaml": Format.YAML,
    "toml": Format.TOML,
}
DOCUMENT_SCHEMA = "DagDocument"
_DOCUMENT: dict[str, Any] = {
    "description": "A DAG document; `cis dag schema` prints its JSON Schema.",
    "required": True,
    "content": {
        kind: {"schema": {"$ref": f"#/components/schemas/{DOCUMENT_SCHEMA}"}}
        for kind in ("application/json", "application/yaml", "application/toml")
    },
}
_KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key with the same document gives the first run again, with status 200.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_LENGTH},
}


class PlainRoute(APIRoute):
    """A route whose function takes the request and returns the response: nothing is to be injected or converted."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the function itself."""
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


def execute_routes(services: NodeServices) -> APIRouter:
    """Return the route that takes DAGs in."""
    router = APIRouter(tags=["dags"], route_class=PlainRoute)

    @router.post(
        "/api/v1/dag/execute",
        status_code=202,
        responses={
            **answers(SubmissionModel, status=202, errors=(400, 408, 409, 413, 422)),
            200: {"model": SubmissionModel, "description": "The key was known: its first run"},
        },
        openapi_extra={"requestBody": _DOCUMENT, "parameters": [_KEY]},
        summary="Run a DAG",
    )
    async def execute(request: Request) -> Response:
        """Take a DAG in. Once this has answered, the run survives a power cut, and there is exactly one of it."""
        if is_message(request.headers.get("content-type", "")):
            return await answer_message(services, request)  # another node hands it over
        key = idempotency_key(request)
        data = await read_body(request, limit=services.max_body_bytes)
        async with admission_of(request).document(len(data)):
            submission = await _accept(services, request, data, key=key)
        run = submission.run
        if submission.created:
            services.poke(run.worker_id)
            run = await services.expedite(run)
        return json_answer(submission_view(run), status=202 if submission.created else 200)

    return router


async def _accept(services: NodeServices, request: Request, data: bytes, *, key: str | None) -> Submission:
    """Read a document, and store its run; nothing of it is held once this returns."""
    form = document_format(request.headers.get("content-type", ""))
    if form is Format.JSON and len(data) <= SMALL_BYTES:
        spec = parse_dag(data, format=form)  # sooner done than handed to a thread
    else:
        spec = await asyncio.to_thread(parse_dag, data, format=form)
    wanted = SubmitRequest(spec=spec, idempotency_key=key, asker=rights_of(request).asker)

    def job(store: Store, wanted: SubmitRequest) -> Submission:
        submission = submit(store, wanted, site=services.site)
        if submission.created:
            append_audit(store, services, request, action="dag.execute", subject=submission.run.run_id)
            mark_sending(store, submission.run, now_us=services.site.clock_us())
        return submission

    return await submitted(services, wanted, job, document_bytes=len(data))


def idempotency_key(request: Request) -> str | None:
    """Return the key of a request, if it has one. Raises UsageError when it is empty or too long."""
    key = request.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= MAX_KEY_LENGTH:
        raise UsageError(f"Idempotency-Key has {len(key)} characters; 1 to {MAX_KEY_LENGTH} are allowed")
    return key


def document_format(content_type: str) -> Format | None:
    """Return the format that a content type names; None, for any other, leaves it to the document itself."""
    subtype = content_type.partition(";")[0].strip().lower().partition("/")[2]
    return _FORMATS.get(subtype.rpartition("+")[2])
