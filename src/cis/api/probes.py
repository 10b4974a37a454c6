"""``/health``, ``/ready`` and ``/metrics``: for machines that watch this one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from fastapi import APIRouter
from starlette.responses import Response

from cis.api.answers import json_answer
from cis.api.describe import answers
from cis.api.gate import RequestCounts
from cis.api.ports import NodeServices
from cis.api.problems import problem
from cis.api.readiness import Readiness
from cis.model.states import RunState
from cis.store.port import Store
from cis.store.records import WorkerRecord, WorkerState

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def probe_routes(services: NodeServices, counts: RequestCounts) -> APIRouter:
    """Return the routes of probes and metrics."""
    router = APIRouter(tags=["probes"])
    readiness = Readiness(services)

    @router.get("/health", responses={200: {"description": "The process answers"}}, summary="Does it answer?")
    async def health() -> Response:
        return json_answer({"status": "ok", "node_id": services.node_id})

    @router.get("/ready", responses={200: {"description": "It takes DAGs"}}, summary="Does it take DAGs?")
    async def ready() -> Response:
        why_not = await readiness.why_not()
        if why_not is not None:
            return problem(503, code="not_ready", detail=why_not, headers={"Retry-After": "5"})
        return json_answer({"status": "ready", "node_id": services.node_id})

    metrics_answers = answers(None)
    metrics_answers[200] = {"description": "Prometheus text", "content": {"text/plain": {}}}

    @router.get("/metrics", responses=metrics_answers, summary="Numbers for Prometheus")
    async def metrics() -> Response:
        node_id = services.node_id
        queued, unfinished, workers, depths = await services.read(lambda store: _numbers(store, node_id))
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
                [({"status": str(s)}, services.hub.finished.get(str(s), 0)) for s in RunState if s.final],
            ),
            _family("cis_workers", "gauge", "Workers of this node, by state.", _worker_counts(workers)),
            _family("cis_writes_waiting", "gauge", "Writes not committed yet.", [({}, services.writes_waiting)]),
            _family("cis_outbox_depth", "gauge", "Messages to other nodes, not taken yet, by node.", outbox),
            _family("cis_events_last_seq", "counter", "The newest event.", [({}, services.hub.last_seq)]),
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
    workers = store.workers(node_id=node_id)
    return store.queued_count(node_id), store.unfinished_counts(), workers, store.outbox_depths()


def _worker_counts(workers: Iterable[WorkerRecord]) -> list[tuple[dict[str, str], int]]:
    found = Counter(worker.status for worker in workers)
    return [({"status": str(state)}, found[state]) for state in WorkerState]


def _family(name: str, kind: str, about: str, samples: Iterable[tuple[Mapping[str, str], int]]) -> str:
    lines = [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        text = ",".join(f'{label}="{_escaped(content)}"' for label, content in labels.items())
        lines.append(f"{name}{{{text}}} {value}" if text else f"{name} {value}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
