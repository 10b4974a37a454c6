"""``/api/v1/runs``: lists of runs, single runs, and control of them.

A small run is one answer; a large one is written part by part, so that no reader makes the node hold all of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from fastapi import Request
from starlette.responses import Response

from cis.api.answers import encoded, json_answer
from cis.api.request_limits import admission_of
from cis.api.requests import scopes_of
from cis.api.served import ServedNode
from cis.api.streams import stream
from cis.engine.lookup import look_up_run
from cis.engine.observe.views import read_run, read_run_head, task_views
from cis.executors.platform import still_runs
from cis.model.dag import Json
from cis.store.port import Store
from cis.store.run_port import Runs

if TYPE_CHECKING:
    from cis.engine.observe.waiting import Waiting

from fastapi import APIRouter

from cis.api.answers import CURSOR, FLAG, LIMIT, TEXT, QueryError, answers, list_answer, or_nothing, parameters
from cis.api.body import read_options
from cis.api.execute import submitted
from cis.api.requests import Query, actor_of, limit_of, rights_of, run_filter_of
from cis.api.schemas import PageModel, RunItemModel, RunModel, RunStatus, SubmissionModel
from cis.app.control import Action, Controlled, control
from cis.app.submit import Repeat, rerun_of
from cis.engine.observe.views import run_list_item, submission_view
from cis.errors import Fault, UsageError
from cis.model.ids import ID_PATTERN
from cis.store.records import Page, RunFilter, RunRecord

FEW_TASKS = 1000
FEW_BYTES = 2**18
TASKS_AT_ONCE = 500
BYTES_AT_ONCE = 2**18
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


async def run_answer(node: ServedNode, request: Request, run_id: str) -> Response:
    """Return a run and its tasks as a response.

    Raises:
        NotFoundError: no such run, or none that may be seen.
        OverloadedError, ShareExceededError: it is large, and there is no place for that.
    """
    scopes = scopes_of(request)

    def small(store: Store) -> tuple[dict[str, Json] | None, int]:
        run = look_up_run(store.runs, run_id, scopes=scopes)
        size = store.tasks.outputs_size(run_id)
        is_small = run.task_count <= FEW_TASKS and size <= FEW_BYTES
        return read_run(store, run_id, scopes=scopes, still=still_runs) if is_small else None, size

    whole, size = await node.read(small)
    if whole is not None:
        return json_answer(whole)
    admission = admission_of(request)
    admission.stream()
    await admission.make_room(size)  # a part holds one task at least, and that may be most of it
    head, reasons = await node.read(lambda store: read_run_head(store, run_id, scopes=scopes, still=still_runs))
    return stream(_parts(node, run_id, head, reasons), media_type="application/json")


async def _parts(
    node: ServedNode, run_id: str, head: dict[str, Json], reasons: Mapping[str, Waiting]
) -> AsyncIterator[bytes]:
    yield encoded({**head, "tasks": []})[:-2]
    after, comma = -1, b""
    while part := await node.read(partial(_part, run_id=run_id, after=after, reasons=reasons)):
        after, text = part
        yield comma + text
        comma = b","
    yield b"]}"


def _part(store: Store, run_id: str, *, after: int, reasons: Mapping[str, Waiting]) -> tuple[int, bytes] | None:
    """Return the tasks after one as JSON without brackets, and the number of the last; None when there is none."""
    tasks = store.tasks.page(run_id, after, limit=TASKS_AT_ONCE, max_bytes=BYTES_AT_ONCE)
    return (tasks[-1].task_no, encoded(task_views(tasks, reasons))[1:-1]) if tasks else None


def run_routes(node: ServedNode) -> APIRouter:
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
        page = await node.read(lambda store: page_of_runs(store.runs, where, limit=limit, cursor=cursor))
        return list_answer([run_list_item(run) for run in page.items], next_cursor=page.next_cursor)

    @router.get("/{run_id}", responses=answers(RunModel, errors=(404,)), summary="One run and its tasks")
    async def run(run_id: str, request: Request) -> Response:
        return await run_answer(node, request, run_id)

    @router.post("/{run_id}/cancel", responses=_RUN, summary="End a run")
    async def cancel(run_id: str, request: Request) -> Response:
        """At once when no worker holds the run; else its worker ends the tasks first, and `cancel_requested` is set.

        With `{"task": ID}` that task alone is ended, an instance or all of them: it counts as failed.
        """
        options = await read_options(request, known={"task": str})
        return await _control(request, run_id, Action.CANCEL, task=options.get("task"))

    @router.post("/{run_id}/pause", responses=_RUN, summary="Start nothing new of a run")
    async def pause(run_id: str, request: Request) -> Response:
        """Tasks that run now go on to their end."""
        return await _control(request, run_id, Action.PAUSE)

    @router.post("/{run_id}/resume", responses=_RUN, summary="Let a paused run go on")
    async def resume(run_id: str, request: Request) -> Response:
        return await _control(request, run_id, Action.RESUME)

    @router.post(
        "/{run_id}/rerun",
        status_code=202,
        responses=answers(SubmissionModel, status=202, errors=(400, 404, 408, 409, 422)),
        openapi_extra={**_REQUEST_BODY, **parameters(("from_failed", "keep what completed", FLAG))},
        summary="Run the same document again",
    )
    async def rerun(run_id: str, request: Request) -> Response:
        """Make a new run; with `from_failed`, in the query or in a JSON body, completed tasks are kept as they are.

        `params` gives parameters other values than they had; with `task` that one and what follows runs again.
        """
        query = Query(request.query_params)
        from_failed = query.flag("from_failed")
        query.check()
        options = await read_options(request, known={"from_failed": bool, "params": dict, "task": str})
        from_failed = bool(options.get("from_failed", from_failed))

        asker = rights_of(request).asker
        given, how = options.get("params", {}), Repeat(from_failed=from_failed, task=options.get("task"))
        wanted = await node.read(lambda store: rerun_of(store, run_id, how=how, asker=asker, params=given).request)
        accepted = await submitted(node, wanted, by=actor_of(request))
        node.wake(accepted.wake)
        return json_answer(submission_view(accepted.run), status=202)

    async def _control(request: Request, run_id: str, action: Action, *, task: str | None = None) -> Response:
        scopes, by = scopes_of(request), actor_of(request)

        def job(store: Store) -> Controlled:
            now_us = node.this_node.clock_us()
            return control(store, run_id, action, by=by, now_us=now_us, task=task, scopes=scopes, audit_repeats=False)

        changed = await node.write(job)
        node.wake(changed.wake)
        return await run_answer(node, request, run_id)

    return router


def page_of_runs(runs: Runs, where: RunFilter, *, limit: int, cursor: str | None) -> Page[RunRecord]:
    """Return a page of runs. Raises QueryError when *cursor* is none."""
    try:
        return runs.page(where, limit=limit, cursor=cursor)
    except UsageError as error:
        raise QueryError([Fault(place="query.cursor", message=str(error))]) from error
