"""What a node has: stored DAGs, workers, skills, nodes."""

from __future__ import annotations

import json

from fastapi import APIRouter, Request
from starlette.responses import Response

from cis.api.answers import CURSOR, FLAG, LIMIT, QueryError, answers, json_answer, list_answer, parameters
from cis.api.body import read_body
from cis.api.execute import DOCUMENT_BODY, read_dag, with_lines
from cis.api.request_limits import admission_of
from cis.api.requests import Query, actor_of, limit_of, rights_of, scopes_of
from cis.api.schemas import DagDocumentModel, DagModel, NodeModel, PageModel, SkillModel, WorkerModel
from cis.api.served import ServedNode
from cis.app.submit import forget, save
from cis.engine.lookup import look_up_definition, look_up_worker
from cis.engine.observe.views import dag_view, own_node_view, peer_view, skill_view, worker_view
from cis.errors import DocumentError, Fault, UsageError
from cis.model.dag import DagSpec, Json
from cis.model.scope_rules import Patterns, allows
from cis.store.port import Store
from cis.store.records import DefinitionRecord, Page
from cis.store.run_port import Definitions


def inventory_routes(node: ServedNode) -> APIRouter:
    """Return the routes of what changes rarely."""
    router = APIRouter(prefix="/api/v1")

    @router.get(
        "/dags",
        tags=["dags"],
        responses=answers(PageModel[DagModel], errors=(422,)),
        openapi_extra=parameters(("saved", "only those that were stored with `cis dag save`", FLAG), LIMIT, CURSOR),
        summary="List DAGs by id",
    )
    async def dags(request: Request) -> Response:
        query = Query(request.query_params)
        limit, cursor, saved = limit_of(query), query.text("cursor"), query.flag("saved")
        query.check()
        scopes = scopes_of(request)
        page = await node.read(
            lambda store: _definitions(store.definitions, limit=limit, cursor=cursor, saved=saved, scopes=scopes)
        )
        return list_answer([dag_view(each) for each in page.items], next_cursor=page.next_cursor)

    @router.get(
        "/dags/{dag_id}",
        tags=["dags"],
        responses=answers(DagDocumentModel, errors=(404,)),
        summary="One DAG and its document",
    )
    async def dag(dag_id: str, request: Request) -> Response:
        scopes = scopes_of(request)
        await admission_of(request).large()
        return json_answer(await node.read(lambda store: _dag_with_document(store.definitions, dag_id, scopes=scopes)))

    @router.put(
        "/dags/{dag_id}",
        tags=["dags"],
        status_code=201,
        responses={
            **answers(DagModel, status=201, errors=(400, 408, 409, 413, 422)),
            200: {"model": DagModel, "description": "It takes the place of the one that was stored before"},
        },
        openapi_extra={"requestBody": DOCUMENT_BODY},
        summary="Store a DAG, to be run by name",
    )
    async def store_dag(dag_id: str, request: Request) -> Response:
        """Harmless to repeat: there is one stored DAG of an id. What was accepted before keeps its own document."""
        data = await read_body(request, limit=node.max_body_bytes)
        asker, by = rights_of(request).asker, actor_of(request)
        async with admission_of(request).document(len(data)):
            spec = await read_dag(request, data)
            try:
                _check_id(spec, dag_id)
                saved = await node.stage(lambda store: save(store, spec, this_node=node.this_node, by=by, asker=asker))
            except DocumentError as error:
                raise await with_lines(error, request, data) from error
        return json_answer(dag_view(saved.definition), status=201 if saved.created else 200)

    @router.delete(
        "/dags/{dag_id}",
        tags=["dags"],
        responses=answers(DagModel, errors=(404,)),
        summary="Store a DAG no longer",
    )
    async def forget_dag(dag_id: str, request: Request) -> Response:
        """Its runs stay, and so does what they ran: a DAG with runs can still be read, and is not stored."""
        asker, by, now_us = rights_of(request).asker, actor_of(request), node.this_node.clock_us()
        gone = await node.write(lambda store: forget(store, dag_id, by=by, now_us=now_us, asker=asker))
        return json_answer(dag_view(gone))

    @router.get("/workers", tags=["workers"], responses=answers(PageModel[WorkerModel]), summary="List workers")
    async def workers(request: Request) -> Response:
        found = await node.read(lambda store: store.workers.all(node_id=node.node_id))
        return list_answer([worker_view(worker) for worker in found if allows(scopes_of(request), worker.scope)])

    @router.get(
        "/workers/{worker_id}",
        tags=["workers"],
        responses=answers(WorkerModel, errors=(404,)),
        summary="One worker",
    )
    async def worker(worker_id: str, request: Request) -> Response:
        scopes = scopes_of(request)
        found = await node.read(lambda store: look_up_worker(store.workers, node.node_id, worker_id, scopes=scopes))
        return json_answer(worker_view(found))

    @router.get("/skills", tags=["skills"], responses=answers(PageModel[SkillModel]), summary="List skills")
    async def skills() -> Response:
        return list_answer([skill_view(skill) for skill in node.this_node.skills.infos()])

    @router.get("/nodes", tags=["nodes"], responses=answers(PageModel[NodeModel]), summary="List nodes")
    async def nodes() -> Response:
        """This node, and those that it trusts."""
        own = own_node_view(node.node_id, url=node.url, public_key=node.public_key, matrix_user=node.matrix_user)
        now_us = node.this_node.clock_us()
        return list_answer([own, *await node.read(lambda store: _peers(store, now_us=now_us))])

    return router


def _check_id(spec: DagSpec, dag_id: str) -> None:
    if spec.dag_id != dag_id:
        message = f"the document is of {spec.dag_id!r}, and the path names {dag_id!r}"
        raise DocumentError([Fault(place="dag_id", message=message)])


def _peers(store: Store, *, now_us: int) -> list[Json]:
    depths = store.outbox.depths()
    return [peer_view(peer, outbox=depths.get(peer.node_id, 0), now_us=now_us) for peer in store.peers.all()]


def _definitions(
    definitions: Definitions, *, limit: int, cursor: str | None, saved: bool, scopes: Patterns | None
) -> Page[DefinitionRecord]:
    try:
        return definitions.page(limit=limit, cursor=cursor, saved_only=saved, scopes=scopes)
    except UsageError as error:
        raise QueryError([Fault(place="query.cursor", message=str(error))]) from error


def _dag_with_document(definitions: Definitions, dag_id: str, *, scopes: Patterns | None) -> dict[str, Json]:
    definition = look_up_definition(definitions, dag_id, scopes=scopes)
    return {**dag_view(definition), "document": json.loads(definitions.document(definition.definition_id))}
