"""The cases ``latency`` and ``cold``: how long one task waits for its worker, warm and not there at all."""

from __future__ import annotations

import time

from tests.bench.documents import one
from tests.bench.figures import Figure, LostError, Plan, Result, percentile
from tests.bench.homes import LIVE_WORKERS, connected, reading, run_ended, value_of, wait_until
from tests.bench.limit import python_ms, spawn_and_wait_ms

SPAWNS = 3
MORE_MS = 3.0
P99_MS = 50.0
COLD_MS = 250.0
TOOK = "SELECT finished_at_us - created_at_us FROM dag_runs WHERE run_id = ? AND status = 'completed'"
STARTED = "SELECT min(started_at_us) FROM task_executions WHERE run_id = ?"


def latency(plan: Plan) -> Result:
    """Measure from accepted to finished, as the database tells both, for one ``true`` at a time on a warm worker."""
    rounds = plan.rounds_or(5, 5)
    each = 500 // rounds
    bare: list[list[float]] = []
    product: list[list[float]] = []
    sandbox = plan.sandbox("latency")
    with sandbox.node() as node, connected(node) as client, reading(sandbox) as database:

        def took_ms() -> float:
            run_id = client.execute(one("latency"))
            run_ended(database, run_id, timeout_s=30)
            took_us = value_of(database, TOOK, (run_id,))
            if took_us is None:
                raise LostError(f"run {run_id} is not completed")
            return float(took_us) / 1000

        for _ in range(20):
            took_ms()
        for _ in range(rounds):
            pairs = [(spawn_and_wait_ms(), took_ms()) for _ in range(each)]
            bare.append([one_bare for one_bare, _ in pairs])
            product.append([one_product for _, one_product in pairs])
    spawned = Figure(
        case="latency",
        what="one bare spawn-and-wait, p50",
        unit="ms",
        values=tuple(percentile(times, 50) for times in bare),
    )
    everything = [ms for times in product for ms in times]
    return Result(
        [
            Figure(
                case="latency",
                what="accepted to finished, p50",
                unit="ms",
                values=tuple(percentile(times, 50) for times in product),
                at_most=SPAWNS * spawned.median + MORE_MS,
                note=f"{len(everything)} in sequence; bar: {SPAWNS} bare spawns + {MORE_MS:g} ms",
            ),
            Figure(
                case="latency",
                what="accepted to finished, p99",
                unit="ms",
                values=(percentile(everything, 99),),
                at_most=P99_MS,
                note="of all",
            ),
            spawned,
        ]
    )


def cold(plan: Plan) -> Result:
    """Measure from before the POST to the first task's start, while no worker lives."""
    bare: list[float] = []
    product: list[float] = []
    sandbox = plan.sandbox("cold")
    with (
        sandbox.node(CIS_IDLE_TIMEOUT="500ms") as node,
        connected(node) as client,
        reading(sandbox) as database,
    ):
        for number in range(plan.rounds_or(10, 30) + 1):
            wait_until(lambda: value_of(database, LIVE_WORKERS) is None, timeout_s=30, what="the worker to go")
            python = python_ms()
            began_us = time.time_ns() // 1000
            run_id = client.execute(one("cold"))
            run_ended(database, run_id, timeout_s=30)
            if number:  # the first has files to read that the others find in memory
                bare.append(python)
                product.append((value_of(database, STARTED, (run_id,)) - began_us) / 1000)
    return Result(
        [
            Figure(
                case="cold",
                what="POST to first start, p50",
                unit="ms",
                values=tuple(product),
                at_most=COLD_MS,
                note="no worker lives",
            ),
            Figure(case="cold", what="bare python -c pass", unit="ms", values=tuple(bare)),
        ]
    )
