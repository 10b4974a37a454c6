"""Runs: lists, single ones, and control."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Request
from starlette.responses import Response

from cis.api.answers import json_answer, list_answer
from cis.api.body import read_options
from cis.api.describe import CURSOR, FLAG, LIMIT, TEXT, answers, or_nothing, parameters
from cis.api.ports import NodeServices
from cis.api.problems import QueryError
from cis.api.query import Query, limit_of, run_filter_of
from cis.api.requests import append_audit, rights_of, scopes_of
from cis.api.run_answers import run_answer
from cis.api.schemas import PageModel, RunItemModel, RunModel, RunStatus, SubmissionModel
from cis.api.submitting import submitted
from cis.engine import control
from cis.engine.existing import existing_run
from cis.engine.submit import Submission, SubmitRequest, submit
from cis.engine.views import run_list_item, submission_view
from cis.errors import Fault, UsageError
from cis.model.ids import ID_PATTERN
from cis.store.port import Store
from cis.store.records import Page, RunFilter, RunRecord

_RUN = answers(RunModel, errors=(404, 409))
_STATUS = {"type": "string", "enum": list(RunStatus.__args__)}  # type: ignore[attr-defined]  # Literal has them
_SCOPE = {"type": "string", "pattern": f"^(global|(project|user|type):{ID_PATTERN[1:-1]})$"}
_RERUN = {"type": "object", "properties": {"from_failed": {"type": "boolean"}}, "additionalProperties": False}
_REQUEST_BODY = {
    "requestBody": {
        "required": False,
        "content": {"application/json": {"schema": _RERUN}},
    }
}


def run_routes(services: NodeServices) -> APIRouter:
    """Return the routes under ``/api/v1/runs``, but for logs."""
    router = APIRouter(prefix="/api/v1/runs", tags=["runs"])

    @router.get(
        "",
        responses=answers(PageModel[RunItemModel], errors=(422,)),
        openapi_extra=parameters(
            ("status", "only runs in this state", or_nothing(_STATUS)),
            ("scope", "only runs of this scope, as in `project:proj-a`", or_nothing(_SCOPE)),
            ("node", "only runs that this node executes", TEXT),
            ("dag_id", "only runs of this DAG", TEXT),
            LIMIT,
            CURSOR,
        ),
        summary="List runs, newest first",
    )
    async def runs(request: Request) -> Response:
        query = Query(request.query_params)
        where, limit, cursor = run_filter_of(query, scopes=scopes_of(request)), limit_of(query), query.text("cursor")
        query.check()
        page = await services.read(lambda store: page_of_runs(store, where, limit=limit, cursor=cursor))
        return list_answer([run_list_item(run) for run in page.items], next_cursor=page.next_cursor)

    @router.get("/{run_id}", responses=answers(RunModel, errors=(404,)), summary="One run and its tasks")
    async def run(run_id: str, request: Request) -> Response:
        return await run_answer(services, request, run_id)

    @router.post("/{run_id}/cancel", responses=_RUN, summary="End a run")
    async def cancel(run_id: str, request: Request) -> Response:
        """At once when no worker holds the run; else its worker ends the tasks first, and `cancel_requested` is set."""
        return await _control(request, run_id, "run.cancel", control.cancel)

    @router.post("/{run_id}/pause", responses=_RUN, summary="Start nothing new of a run")
    async def pause(run_id: str, request: Request) -> Response:
        """Tasks that run now go on to their end."""
        return await _control(request, run_id, "run.pause", control.pause)

    @router.post("/{run_id}/resume", responses=_RUN, summary="Let a paused run go on")
    async def resume(run_id: str, request: Request) -> Response:
        return await _control(request, run_id, "run.resume", control.resume)

    @router.post(
        "/{run_id}/rerun",
        status_code=202,
        responses=answers(SubmissionModel, status=202, errors=(400, 404, 408, 409, 422)),
        openapi_extra={**_REQUEST_BODY, **parameters(("from_failed", "keep what completed", FLAG))},
        summary="Run the same document again",
    )
    async def rerun(run_id: str, request: Request) -> Response:
        """Make a new run; with `from_failed`, in the query or in a JSON body, completed tasks are kept as they are."""
        query = Query(request.query_params)
        from_failed = query.flag("from_failed")
        query.check()
        options = await read_options(request, known={"from_failed": bool})
        from_failed = bool(options.get("from_failed", from_failed))

        asker = rights_of(request).asker

        def job(store: Store, wanted: SubmitRequest) -> Submission:
            submission = submit(store, wanted, site=services.site)
            append_audit(store, services, request, action="run.rerun", subject=submission.run.run_id)
            return submission

        wanted = await services.read(
            lambda store: control.rerun_of(store, run_id, from_failed=from_failed, asker=asker)
        )
        new = (await submitted(services, wanted, job)).run
        services.poke(new.worker_id)
        return json_answer(submission_view(new), status=202)

    async def _control(request: Request, run_id: str, action: str, act: Callable[..., RunRecord]) -> Response:
        scopes = scopes_of(request)

        def job(store: Store) -> RunRecord:
            existing_run(store, run_id, scopes=scopes)
            before = _asked_for(store, run_id)
            changed = act(store, run_id, now_us=services.site.clock_us())
            if _asked_for(store, run_id) != before:  # what is asked for again and again is written down once
                append_audit(store, services, request, action=action, subject=run_id)
            return changed

        changed = await services.write(job)
        services.poke(changed.worker_id)
        return await run_answer(services, request, run_id)

    return router


def _asked_for(store: Store, run_id: str) -> tuple[int | None, int]:
    """Return what control changes of a run: the run itself, or what the node that executes it is asked for."""
    remote = store.remote_run(run_id)
    return store.run_version(run_id), 0 if remote is None else remote.control_seq


def page_of_runs(store: Store, where: RunFilter, *, limit: int, cursor: str | None) -> Page[RunRecord]:
    """Return a page of runs. Raises QueryError when *cursor* is none."""
    try:
        return store.runs(where, limit=limit, cursor=cursor)
    except UsageError as error:
        raise QueryError([Fault(place="query.cursor", message=str(error))]) from error
