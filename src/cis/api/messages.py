"""Messages of other nodes: signed, so they need no token (``cis.transports.envelope``)."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from cis.api.describe import answers
from cis.api.ports import NodeServices
from cis.api.request_limits import RequestLimits
from cis.api.requests import source_of
from cis.transports.framing import MEDIA_TYPE, MESSAGES_PATH, FrameReader

_BODY = {
    "requestBody": {
        "description": "One signed message; see docs/explanation/cluster.md.",
        "required": True,
        "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    }
}


def is_message(content_type: str) -> bool:
    """Whether a request says that it brings a message of a node."""
    return content_type.partition(";")[0].strip().lower() == MEDIA_TYPE


def message_routes(services: NodeServices) -> APIRouter:
    """Return the route by which other nodes speak to this one."""
    router = APIRouter(tags=["nodes"])
    described = answers(None, status=202, errors=(400, 401, 403, 408))
    described[202] = {"description": "The signed answer of this node", "content": {MEDIA_TYPE: {}}}

    @router.post(MESSAGES_PATH, status_code=202, responses=described, openapi_extra=_BODY, summary="A node speaks")
    async def message(request: Request) -> Response:
        """Act on a message that a trusted node signed; anybody else's is refused with 401."""
        return await answer_message(services, request)

    return router


async def answer_message(services: NodeServices, request: Request) -> Response:
    """Return the signed answer to the message that a request brings."""
    limits: RequestLimits = request.state.limits
    reader, source = FrameReader(request.stream()), source_of(request)
    async with limits.stranger():
        message, peer = await services.answering.open(reader, source=source)
    async with limits.admitted(f"node:{peer.node_id}") as admission:
        body = await services.answering.answer(
            message, peer, reader, source=source, make_room=admission.make_document_room
        )
    return Response(body, status_code=202, media_type=MEDIA_TYPE)
