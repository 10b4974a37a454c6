"""The HTTP API of a node, put together: gate, routes, problems, description."""

from __future__ import annotations

import json
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from cis.api.answers import answer_with_problems
from cis.api.body import BodyTimeout
from cis.api.execute import DOCUMENT_SCHEMA, ShortWay, execute_routes, message_routes
from cis.api.gate import OPEN_PATHS, Gate, RequestCounts
from cis.api.inventory import inventory_routes
from cis.api.probes import probe_routes
from cis.api.request_limits import RequestBounds, RequestLimits
from cis.api.runs import run_routes
from cis.api.schemas import ProblemModel
from cis.api.served import ServedNode
from cis.api.streams import event_routes, log_routes
from cis.model.schema import dag_schema
from cis.transports.envelope import MESSAGES_PATH


def create_app(node: ServedNode, *, bounds: RequestBounds = RequestBounds()) -> FastAPI:  # noqa: B008 - frozen
    """Return the API of the node of *node*.

    ``/docs`` loads its scripts from a public CDN; without a network, ``/openapi.json`` says the same.
    """
    counts: RequestCounts = Counter()
    app = FastAPI(title="CIS-DAG", version=_version(), redoc_url=None, swagger_ui_oauth2_redirect_url=None)
    executing = execute_routes(node)
    app.add_middleware(ShortWay, routes=executing.routes)
    app.add_middleware(BodyTimeout)
    app.add_middleware(Gate, node=node, counts=counts, limits=RequestLimits(bounds))
    routers = (
        executing,
        run_routes(node),
        log_routes(node),
        inventory_routes(node),
        message_routes(node),
        event_routes(node),
        probe_routes(node, counts),
    )
    for router in routers:
        app.include_router(router)
    answer_with_problems(app, routes=[route for router in routers for route in router.routes])
    app.openapi = lambda: _described(app)  # type: ignore[method-assign]  # the way that FastAPI's manual gives
    return app


def _described(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
        components = schema.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        _add_schema(schemas, ProblemModel.__name__, ProblemModel.model_json_schema())
        _add_schema(schemas, DOCUMENT_SCHEMA, dag_schema())
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"token": []}]
        for path in OPEN_PATHS:
            schema["paths"][path]["get"]["security"] = []
        schema["paths"][MESSAGES_PATH]["post"]["security"] = []
        app.openapi_schema = schema
    return app.openapi_schema


def _add_schema(schemas: dict[str, Any], name: str, schema: dict[str, Any]) -> None:
    """Add a schema that stands alone, with its definitions where OpenAPI has them."""
    moved = json.loads(json.dumps(schema).replace('"#/$defs/', '"#/components/schemas/'))
    schemas.update(moved.pop("$defs", {}))
    schemas[name] = moved


def _version() -> str:
    try:
        return version("cis-dag")
    except PackageNotFoundError:
        return "0"
