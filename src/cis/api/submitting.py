"""Submitting a DAG that may be large: what takes long is done first, in a thread of its own (``cis.engine.staging``)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cis.api.ports import NodeServices
from cis.engine.staging import is_large, stage, unstage
from cis.engine.submit import Submission, SubmitRequest
from cis.store.port import Store

Job = Callable[[Store, SubmitRequest], Submission]


async def submitted(services: NodeServices, wanted: SubmitRequest, job: Job, *, document_bytes: int = 0) -> Submission:
    """Return what *job* makes of a request, inside a transaction."""
    if not is_large(wanted.spec, document_bytes=document_bytes):
        return await services.write(lambda store: job(store, wanted))
    staged = await services.stage(lambda store: stage(store, wanted, site=services.site))
    try:
        submission = await services.write(lambda store: job(store, staged))
    except BaseException:
        _forget(services, staged)
        raise
    if not submission.created:
        _forget(services, staged)
    return submission


def _forget(services: NodeServices, staged: SubmitRequest) -> None:
    """Have what was stored for nothing removed; nobody waits for that, and the pruner finds what is left."""
    task = asyncio.ensure_future(services.stage(lambda store: unstage(store, staged)))
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
