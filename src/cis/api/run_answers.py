"""A run as an answer: whole when it is small, else part by part, so that no reader makes the node hold all of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from cis.api.answers import encoded, json_answer
from cis.api.ports import NodeServices
from cis.api.request_limits import admission_of
from cis.api.requests import scopes_of
from cis.api.streams import stream
from cis.engine.existing import existing_run
from cis.engine.views import read_run, read_run_head, task_views
from cis.executors.platform import still_runs
from cis.model.dag import Json
from cis.store.port import Store

if TYPE_CHECKING:
    from cis.engine.waiting import Waiting

FEW_TASKS = 1000
FEW_BYTES = 2**18
TASKS_AT_ONCE = 500
BYTES_AT_ONCE = 2**18


async def run_answer(services: NodeServices, request: Request, run_id: str) -> Response:
    """Return a run and its tasks as a response.

    Raises:
        NotFoundError: no such run, or none that may be seen.
        OverloadedError, ShareExceededError: it is large, and there is no place for that.
    """
    scopes = scopes_of(request)

    def small(store: Store) -> tuple[dict[str, Json] | None, int]:
        run = existing_run(store, run_id, scopes=scopes)
        size = store.outputs_size(run_id)
        is_small = run.task_count <= FEW_TASKS and size <= FEW_BYTES
        return read_run(store, run_id, scopes=scopes, still=still_runs) if is_small else None, size

    whole, size = await services.read(small)
    if whole is not None:
        return json_answer(whole)
    admission = admission_of(request)
    admission.stream()
    await admission.make_room(size)  # a part holds one task at least, and that may be most of it
    head, reasons = await services.read(lambda store: read_run_head(store, run_id, scopes=scopes, still=still_runs))
    return stream(_parts(services, run_id, head, reasons), media_type="application/json")


async def _parts(
    services: NodeServices, run_id: str, head: dict[str, Json], reasons: Mapping[str, Waiting]
) -> AsyncIterator[bytes]:
    yield encoded({**head, "tasks": []})[:-2]
    after, comma = -1, b""
    while part := await services.read(partial(_part, run_id=run_id, after=after, reasons=reasons)):
        after, text = part
        yield comma + text
        comma = b","
    yield b"]}"


def _part(store: Store, run_id: str, *, after: int, reasons: Mapping[str, Waiting]) -> tuple[int, bytes] | None:
    """Return the tasks after one as JSON without brackets, and the number of the last of them; None when there is none."""
    tasks = store.tasks_after(run_id, after, limit=TASKS_AT_ONCE, max_bytes=BYTES_AT_ONCE)
    return (tasks[-1].task_no, encoded(task_views(tasks, reasons))[1:-1]) if tasks else None
