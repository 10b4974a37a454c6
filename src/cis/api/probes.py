"""``/health``, ``/ready`` and ``/metrics``: for machines that watch this one.

``/ready`` finds out whether the node can take DAGs by doing it. Nobody may be submitting while the disk fills up or
turns read-only, so the answer comes from a write of its own through the node's writer, one that changes nothing and is
on disk when it returns. It also needs room on the disk, since tasks write their logs there, and a sound file: now and
then SQLite looks at every page, in the background, for a hundredth of the time at most. Anybody may ask, so one answer
holds for half a second.

A node that cannot open its store yet answers with ``Unready``: it is there, and it says why it takes no DAGs.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cis.api.answers import RETRY_AFTER_S, answers, json_answer, problem
from cis.api.gate import RequestCounts
from cis.api.served import ServedNode
from cis.errors import CisError, StoreFullError
from cis.model.states import RunState
from cis.store.port import Store
from cis.store.records import WorkerRecord, WorkerState

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

READY_WITHIN_S = 2.0
HOLDS_S = 0.5
MIN_FREE_BYTES = 4 * 2**20
CHECK_EVERY_S = 10.0
CHECK_SHARE = 100


def probe_routes(node: ServedNode, counts: RequestCounts) -> APIRouter:
    """Return the routes of probes and metrics."""
    router = APIRouter(tags=["probes"])
    readiness = Readiness(node)

    @router.get("/health", responses={200: {"description": "The process answers"}}, summary="Does it answer?")
    async def health() -> Response:
        return json_answer({"status": "ok", "node_id": node.node_id})

    @router.get("/ready", responses={200: {"description": "It takes DAGs"}}, summary="Does it take DAGs?")
    async def ready() -> Response:
        why_not = await readiness.why_not()
        if why_not is not None:
            return problem(503, code="not_ready", detail=why_not, headers={"Retry-After": "5"})
        return json_answer({"status": "ready", "node_id": node.node_id})

    metrics_answers = answers(None)
    metrics_answers[200] = {"description": "Prometheus text", "content": {"text/plain": {}}}

    @router.get("/metrics", responses=metrics_answers, summary="Numbers for Prometheus")
    async def metrics() -> Response:
        node_id = node.node_id
        queued, unfinished, workers, depths = await node.read(lambda store: _numbers(store, node_id))
        outbox = [({"node": name or "everyone"}, count) for name, count in sorted(depths.items())]
        families = [
            _family("cis_queue_depth", "gauge", "Runs that wait for their worker.", [({}, queued)]),
            _family(
                "cis_runs_unfinished",
                "gauge",
                "Runs that are not over, by state.",
                [({"status": str(s)}, unfinished.get(s, 0)) for s in RunState if not s.final],
            ),
            _family(
                "cis_runs_finished_total",
                "counter",
                "Runs that ended since this node started, by state.",
                [({"status": str(s)}, node.events.finished.get(str(s), 0)) for s in RunState if s.final],
            ),
            _family("cis_workers", "gauge", "Workers of this node, by state.", _worker_counts(workers)),
            _family("cis_writes_waiting", "gauge", "Writes not committed yet.", [({}, node.writes_waiting)]),
            _family("cis_outbox_depth", "gauge", "Messages to other nodes, not taken yet, by node.", outbox),
            _family("cis_events_last_seq", "counter", "The newest event.", [({}, node.events.last_seq)]),
            _family(
                "cis_http_requests_total",
                "counter",
                "Answers, by method, route and status.",
                [
                    ({"method": method, "route": route, "status": str(status)}, count)
                    for (method, route, status), count in sorted(counts.items())
                ],
            ),
        ]
        return Response("".join(families), media_type=METRICS_TYPE)

    return router


def _numbers(
    store: Store, node_id: str
) -> tuple[int, Mapping[RunState, int], Iterable[WorkerRecord], Mapping[str, int]]:
    workers = store.workers.all(node_id=node_id)
    return store.queue.waiting_count(node_id), store.runs.unfinished_counts(), workers, store.outbox.depths()


def _worker_counts(workers: Iterable[WorkerRecord]) -> list[tuple[dict[str, str], int]]:
    found = Counter(worker.status for worker in workers)
    return [({"status": str(state)}, found[state]) for state in WorkerState]


def _family(name: str, kind: str, about: str, samples: Iterable[tuple[Mapping[str, str], int]]) -> str:
    # Not by prometheus-client: it writes 1.0 for 1, sorts labels, and adds _total to the names of all counters.
    lines = [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        text = ",".join(f'{label}="{_escaped(content)}"' for label, content in labels.items())
        lines.append(f"{name}{{{text}}} {value}" if text else f"{name} {value}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Readiness:
    """Asks one node, and remembers for a moment. For one event loop."""

    def __init__(self, node: ServedNode, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._node = node
        self._clock_s = clock_s
        self._asking = asyncio.Lock()
        self._why_not: str | None = None
        self._holds_until_s = 0.0
        self._damage: str | None = None
        self._check: asyncio.Task[None] | None = None
        self._check_due_s = 0.0

    async def why_not(self) -> str | None:
        """Return why this node takes no DAGs now, or None when it does."""
        if not self._node.alive or self._node.events.closed:
            return "this node is stopping, or its writer has ended"
        self._check_if_due()
        async with self._asking:
            if self._clock_s() >= self._holds_until_s:
                self._why_not = await self._ask()
                self._holds_until_s = self._clock_s() + HOLDS_S
        return self._why_not or self._damage

    async def _ask(self) -> str | None:
        folder = self._node.logs.root.parent
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                free = await self._node.read(lambda store: _look(store, self._node.node_id, folder))
                await self._node.write(lambda store: store.upkeep.write_nothing())
        except TimeoutError:
            return f"the store did not answer within {READY_WITHIN_S:g} s"
        except CisError as error:
            return f"the store cannot be used: {error}"
        except OSError as error:
            return f"{folder} cannot be looked at: {error.strerror}"
        if free < MIN_FREE_BYTES:
            return f"the disk of {folder} is full: {free // 1024} KiB are left; make room and it goes on by itself"
        return None

    def _check_if_due(self) -> None:
        if self._clock_s() < self._check_due_s or (self._check is not None and not self._check.done()):
            return
        self._check = asyncio.create_task(self._look_for_damage())

    async def _look_for_damage(self) -> None:
        began_s = self._clock_s()
        try:
            found = await self._node.read(lambda store: store.upkeep.faults(quick=True))
            self._damage = found[0] if found else None
        except CisError:
            return  # whoever reads and writes the store says so, too
        finally:
            ended_s = self._clock_s()
            self._check_due_s = ended_s + max(CHECK_EVERY_S, CHECK_SHARE * (ended_s - began_s))


def _look(store: Store, node_id: str, folder: Path) -> int:
    """Read what the machinery reads all the time, and return how many bytes are free for this user."""
    store.upkeep.check_current()
    store.events.last_seq()
    store.queue.demand(node_id)
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize


class Unready:
    """An ASGI app: ``/health`` is fine, and everything else 503 with the reason."""

    def __init__(self, why: str) -> None:
        self._why = why

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/health":
            answer = json_answer({"status": "ok"})
        else:
            code = "not_ready" if scope["path"] == "/ready" else StoreFullError.code
            answer = problem(503, code=code, detail=self._why, headers={"Retry-After": str(RETRY_AFTER_S)})
        await answer(scope, receive, send)
