"""The case ``scopes``: 16 scopes at once, each with its own worker, all on one database, beside one worker alone.

Once with a place on the machine for every slot, and once with the default, where they take turns (``max_tasks``).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from tests.bench.documents import layered
from tests.bench.figures import Figure, LostError, Plan, Result
from tests.bench.homes import Client, completed_s, connected, reading, run_ended, value_of
from tests.worlds.harness import Sandbox

SCOPES = 16
BAR = 0.9
DEFAULT_BAR = 0.8
PLACES = 2 * SCOPES * (os.cpu_count() or 1) + 1  # for all slots, and the one that is kept
LOCKED = "database is locked"
TIMEOUT_S = 300.0


def scopes(plan: Plan) -> Result:
    """Measure one worker, then 16, with as many tasks in sum, in turn."""
    with_places = _measure(plan, "", bar=BAR, CIS_MAX_TASKS=str(PLACES))
    return Result([*with_places, *_measure(plan, "default max_tasks, ", bar=DEFAULT_BAR)])


def _measure(plan: Plan, how: str, *, bar: float, **settings: str) -> list[Figure]:
    each = plan.size(100, 500)
    alone, together = [], []
    sandbox = plan.sandbox(f"scopes-{len(settings)}")
    with (
        sandbox.node(CIS_MAX_WORKERS=str(SCOPES + 1), CIS_IDLE_TIMEOUT="1h", **settings) as node,
        connected(node) as client,
        reading(sandbox) as database,
    ):
        everyone = [f"project:p{number}" for number in range(SCOPES)]

        def rate(scopes: Sequence[str], tasks: int) -> float:
            run_ids = [client.execute({**layered(tasks), "scope": scope}) for scope in scopes]
            for run_id in run_ids:
                run_ended(database, run_id, timeout_s=TIMEOUT_S)
                completed_s(sandbox, run_id)
                _check_updates(database, run_id)
            places = ", ".join("?" * len(run_ids))
            span = f"SELECT max(finished_at_us) - min(started_at_us) FROM dag_runs WHERE run_id IN ({places})"  # noqa: S608 - places
            return len(scopes) * tasks * 1e6 / float(value_of(database, span, run_ids))

        rate(everyone, 10)  # so all workers are there
        for _ in range(plan.rounds_or(3, 5)):
            alone.append(rate(everyone[:1], SCOPES * each))
            together.append(rate(everyone, each))
        workers = _workers(client)
    _check_logs(sandbox)
    ratios = tuple(many / single for many, single in zip(together, alone, strict=True))
    what = f"{how}{SCOPES} workers, {each} tasks each, of one worker"
    return [
        Figure(case="scopes", what=what, unit="ratio", values=ratios, at_least=bar),
        Figure(case="scopes", what=f"{how}workers that live", unit="", values=(workers,), at_least=SCOPES),
        Figure(case="scopes", what=f"{how}{SCOPES} workers together", unit="tasks/s", values=tuple(together)),
        Figure(case="scopes", what=f"{how}one worker", unit="tasks/s", values=tuple(alone)),
    ]


def _workers(client: Client) -> int:
    return len(client.get("/api/v1/workers")["items"])


def _check_updates(database: Any, run_id: str) -> None:
    """Raise LostError unless every row of the run went through each of its changes: pending, running, completed.

    A start that was stored ahead and found no slot makes two more: pending and running again.
    """
    run = value_of(database, "SELECT version FROM dag_runs WHERE run_id = ?", (run_id,))
    odd = value_of(
        database, "SELECT count(*) FROM run_tasks WHERE run_id = ? AND (version < 3 OR version % 2 = 0)", (run_id,)
    )
    if run != 3 or odd:
        raise LostError(
            f"run {run_id} is at version {run}, and {odd} of its tasks are not at 3, 5, …: updates were lost"
        )


def _check_logs(sandbox: Sandbox) -> None:
    """Raise LostError if the node or a worker met a database that was locked."""
    logs = [sandbox.home.parent / "node.log", *sandbox.home.glob("logs/workers/*.log")]
    found = [path.name for path in logs if LOCKED in path.read_text(errors="replace")]
    if found:
        raise LostError(f"{LOCKED}: {', '.join(found)}")
