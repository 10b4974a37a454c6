"""``POST /api/v1/dag/execute`` and ``POST /api/v1/peers/messages``: how DAGs and messages come in over HTTP.

A large DAG is stored in pieces first, in a thread of its own (``cis.engine.accept.staging``); then one short
transaction accepts it. Messages of other nodes are signed, so they need no token (``cis.transports.envelope``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from cis.api.answers import answers, json_answer, problem_of
from cis.api.body import read_body
from cis.api.request_limits import RequestLimits, admission_of
from cis.api.requests import actor_of, rights_of, source_of
from cis.api.schemas import SubmissionModel, ValidationModel
from cis.api.served import ServedNode
from cis.app.actor import Actor
from cis.app.submit import (
    Accepted,
    Asker,
    SubmitRequest,
    accept,
    is_large,
    node_warnings,
    run_warnings,
    stage,
    stored_dag,
    unstage,
)
from cis.app.validating import check_dag, dag_warnings, validation_view
from cis.engine.observe.views import submission_view
from cis.errors import CisError, DocumentError, UsageError
from cis.model.dag import DagSpec, Json
from cis.model.document import Asked, parse_dag, parse_request
from cis.model.formats import Format, located
from cis.model.inference import infer_scope
from cis.store.port import Store
from cis.store.records import Delivery
from cis.transports.envelope import EXECUTE_PATH, MEDIA_TYPE, MESSAGES_PATH, FrameReader

MAX_KEY_LENGTH = 255
SMALL_BYTES = 16 * 2**10
VALIDATE_PATH = "/api/v1/dag/validate"
_FORMATS = {
    "json": Format.JSON,
    "yaml": Format.YAML,
    "x-yaml": Format.YAML,
    "toml": Format.TOML,
}
DOCUMENT_SCHEMA = "DagDocument"
DOCUMENT_BODY: dict[str, Any] = {
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
_MESSAGE = {
    "requestBody": {
        "description": "One signed message; see docs/explanation/cluster.md.",
        "required": True,
        "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    }
}


class ShortWay:
    """ASGI middleware, the innermost: a DAG comes in by a function call, which costs half of what FastAPI's way there does.

    *routes* are those of ``execute_routes``; FastAPI describes them, and answers what else is asked of their path.
    """

    def __init__(self, app: ASGIApp, *, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._route = next(route for route in routes if isinstance(route, APIRoute) and route.path == EXECUTE_PATH)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != EXECUTE_PATH or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["route"] = self._route  # by which requests are counted
        try:
            response = await self._route.endpoint(Request(scope, receive, send))
        except CisError as error:
            response = problem_of(error)
        await response(scope, receive, send)


def execute_routes(node: ServedNode) -> APIRouter:
    """Return the route that takes DAGs in."""
    router = APIRouter(tags=["dags"])

    @router.post(
        EXECUTE_PATH,
        status_code=202,
        responses={
            **answers(SubmissionModel, status=202, errors=(400, 408, 409, 413, 422)),
            200: {"model": SubmissionModel, "description": "The key was known: its first run"},
        },
        openapi_extra={"requestBody": DOCUMENT_BODY, "parameters": [_KEY]},
        summary="Run a DAG",
    )
    async def execute(request: Request) -> Response:
        """Take a DAG in. Once this has answered, the run survives a power cut, and there is exactly one of it."""
        if is_message(request.headers.get("content-type", "")):
            return await answer_message(node, request)  # another node hands it over
        key = idempotency_key(request)
        data = await read_body(request, limit=node.max_body_bytes)
        async with admission_of(request).document(len(data)):
            accepted = await _accept(node, request, data, key=key)
        run = accepted.run
        if accepted.created:
            node.wake(accepted.wake)
            run = await node.send_now(run)
        stays = run.delivery is Delivery.LOCAL and run.target_node is None
        warnings = [] if stays else await node.read(lambda store: run_warnings(store, run))
        return json_answer(submission_view(run, warnings=warnings), status=202 if accepted.created else 200)

    @router.post(
        VALIDATE_PATH,
        responses=answers(ValidationModel, errors=(400, 403, 404, 408, 413, 422)),
        openapi_extra={"requestBody": DOCUMENT_BODY},
        summary="Check a DAG, and run nothing",
    )
    async def validate(request: Request) -> Response:
        """The faults and warnings of a DAG, as `cis dag validate` tells them; a fault is a 422."""
        data = await read_body(request, limit=node.max_body_bytes)
        async with admission_of(request).document(len(data)):
            return json_answer(await _checked(node, request, data))

    return router


async def _checked(node: ServedNode, request: Request, data: bytes) -> Json:
    """Return what is said of a DAG that is not run. Raises DocumentError with all of its faults."""
    asked, asker = await _asked(request, data), rights_of(request).asker
    spec = (await _wanted(node, asked, asker=asker, key=None)).spec

    asker.check(infer_scope(spec)[0])
    # What runs elsewhere is not for everybody to know.
    elsewhere = await node.read(lambda store: node_warnings(store, spec)) if asker.scopes is None else []

    def check() -> Json:
        values = check_dag(spec, asked.params, this_node=node.this_node)
        warnings = [*dag_warnings(spec, this_node=node.this_node), *elsewhere]
        return validation_view(spec, values=values, warnings=warnings)

    try:
        return await asyncio.to_thread(check)
    except DocumentError as error:
        raise await with_lines(error, request, data) from error


async def _asked(request: Request, data: bytes) -> Asked:
    """Return the document of a request, or the id of a stored DAG, and its parameters."""
    form = document_format(request.headers.get("content-type", ""))
    if form is Format.JSON and len(data) <= SMALL_BYTES:
        return parse_request(data, format=form)  # sooner done than handed to a thread
    return await asyncio.to_thread(parse_request, data, format=form)


async def _wanted(node: ServedNode, asked: Asked, *, asker: Asker, key: str | None) -> SubmitRequest:
    if not isinstance(asked.dag, str):
        return SubmitRequest(spec=asked.dag, idempotency_key=key, asker=asker, params=asked.params)
    dag_id = asked.dag
    found = await node.read(lambda store: stored_dag(store.definitions, dag_id, key=key, asker=asker))
    return replace(found, params=asked.params)


async def _accept(node: ServedNode, request: Request, data: bytes, *, key: str | None) -> Accepted:
    """Read a document, and store its run; nothing of it is held once this returns."""
    wanted = await _wanted(node, await _asked(request, data), asker=rights_of(request).asker, key=key)
    try:
        return await submitted(node, wanted, by=actor_of(request), sends=True, document_bytes=len(data))
    except DocumentError as error:
        raise await with_lines(error, request, data) from error


async def read_dag(request: Request, data: bytes) -> DagSpec:
    """Return the DAG of a request's body. Raises DocumentError, MalformedDocumentError."""
    form = document_format(request.headers.get("content-type", ""))
    if form is Format.JSON and len(data) <= SMALL_BYTES:
        return parse_dag(data, format=form)  # sooner done than handed to a thread
    return await asyncio.to_thread(parse_dag, data, format=form)


async def with_lines(error: DocumentError, request: Request, data: bytes) -> DocumentError:
    """Return a fault that was found later than the document was read, with the lines of the request's body."""
    if type(error) is not DocumentError:
        return error
    return await asyncio.to_thread(
        located, error, data, format=document_format(request.headers.get("content-type", ""))
    )


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


async def submitted(
    node: ServedNode, wanted: SubmitRequest, *, by: Actor, sends: bool = False, document_bytes: int = 0
) -> Accepted:
    """Accept a DAG, each part of it in the thread that is for it."""

    def job(store: Store, request: SubmitRequest) -> Accepted:
        return accept(store, request, this_node=node.this_node, by=by, sends=sends)

    if not is_large(wanted.spec, document_bytes=document_bytes):
        return await node.write(lambda store: job(store, wanted))
    staged = await node.stage(lambda store: stage(store, wanted, this_node=node.this_node))
    try:
        accepted = await node.write(lambda store: job(store, staged))
    except BaseException:
        _forget(node, staged)
        raise
    if not accepted.created:
        _forget(node, staged)
    return accepted


def _forget(node: ServedNode, staged: SubmitRequest) -> None:
    """Have what was stored for nothing removed; nobody waits for that, and the pruner finds what is left."""
    task = asyncio.ensure_future(node.stage(lambda store: unstage(store, staged)))
    task.add_done_callback(lambda done: done.cancelled() or done.exception())


def is_message(content_type: str) -> bool:
    """Whether a request says that it brings a message of a node."""
    return content_type.partition(";")[0].strip().lower() == MEDIA_TYPE


def message_routes(node: ServedNode) -> APIRouter:
    """Return the route by which other nodes speak to this one."""
    router = APIRouter(tags=["nodes"])
    described = answers(None, status=202, errors=(400, 401, 403, 408))
    described[202] = {"description": "The signed answer of this node", "content": {MEDIA_TYPE: {}}}

    @router.post(MESSAGES_PATH, status_code=202, responses=described, openapi_extra=_MESSAGE, summary="A node speaks")
    async def message(request: Request) -> Response:
        """Act on a message that a trusted node signed; anybody else's is refused with 401."""
        return await answer_message(node, request)

    return router


async def answer_message(node: ServedNode, request: Request) -> Response:
    """Return the signed answer to the message that a request brings."""
    limits: RequestLimits = request.state.limits
    reader, source = FrameReader(request.stream()), source_of(request)
    async with limits.stranger():
        message, peer = await node.answering.open(reader, source=source)
    async with limits.admitted(f"node:{peer.node_id}") as admission:
        body = await node.answering.answer(message, peer, reader, source=source, make_room=admission.make_document_room)
    return Response(body, status_code=202, media_type=MEDIA_TYPE)
