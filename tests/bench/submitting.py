"""The case ``submit``: 5,000 DAGs of one task over HTTP on 8 connections, until all are done."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from tests.acceptance.harness import NodeProcess, Sandbox
from tests.bench.documents import one
from tests.bench.figures import Figure, LostError, Plan, Result
from tests.bench.homes import MANY_SLOTS, Client, connected, reading, value_of, wait_until
from tests.bench.limit import spawn_rate

COUNT = 5000
CONNECTIONS = 8
BAR = 0.35
SLOWEST_RUNS_PER_S = 20.0
UNFINISHED = "SELECT 1 FROM dag_runs WHERE status IN ('pending', 'running', 'paused') LIMIT 1"
COMPLETED = "SELECT run_id FROM dag_runs WHERE status = 'completed'"


def submit(plan: Plan) -> Result:
    """Measure bare spawning and the product in turn; a refused request or a lost run ends the case."""
    bare, product, accepted = [], [], []
    sandbox = plan.sandbox("submit")
    with sandbox.node(CIS_SLOTS=MANY_SLOTS) as node:
        with connected(node) as client:
            client.execute(one("first"))
        for number in range(plan.rounds_or(1, 5)):
            bare.append(spawn_rate(COUNT, in_flight=2))
            took_s, accepting_s = _round(sandbox, node, number)
            product.append(COUNT / took_s)
            accepted.append(COUNT / accepting_s)
    ratios = tuple(ours / limit for ours, limit in zip(product, bare, strict=True))
    name = f"{COUNT:,} DAGs of one task"
    return Result(
        [
            Figure(case="submit", what=f"{name}, of bare spawning", unit="ratio", values=ratios, at_least=BAR),
            Figure(case="submit", what="first request to last end", unit="DAGs/s", values=tuple(product)),
            Figure(case="submit", what="first request to last answer", unit="DAGs/s", values=tuple(accepted)),
            Figure(case="submit", what="bare spawning", unit="starts/s", values=tuple(bare)),
        ]
    )


def _round(sandbox: Sandbox, node: NodeProcess, number: int) -> tuple[float, float]:
    """Hand all of them in; return seconds from the first request to the last end, and to the last answer."""
    everyone_is_there = threading.Barrier(CONNECTIONS + 1)

    def hand_in(connection: int) -> list[str]:
        client = Client(node)
        try:
            everyone_is_there.wait(30)
            mine = range(connection, COUNT, CONNECTIONS)
            return [client.execute(one(f"r{number}-{place}")) for place in mine]
        finally:
            client.close()

    with ThreadPoolExecutor(CONNECTIONS) as pool, reading(sandbox) as database:
        waiting = [pool.submit(hand_in, connection) for connection in range(CONNECTIONS)]
        everyone_is_there.wait(30)
        began_s, began_us = time.perf_counter(), time.time_ns() // 1000
        run_ids = [run_id for one_of_them in waiting for run_id in one_of_them.result(COUNT / SLOWEST_RUNS_PER_S)]
        accepting_s = time.perf_counter() - began_s
        is_done = lambda: value_of(database, UNFINISHED) is None  # noqa: E731 - asked in one place
        wait_until(is_done, timeout_s=COUNT / SLOWEST_RUNS_PER_S, what="the end of all runs", pause_s=0.05)
        last_us = value_of(database, "SELECT max(finished_at_us) FROM dag_runs")
        completed = {row[0] for row in database.execute(COMPLETED)}
    if len(set(run_ids)) != COUNT or not completed.issuperset(run_ids):
        raise LostError(f"of {len(set(run_ids))} runs {len(completed.intersection(run_ids))} are completed")
    return (last_us - began_us) / 1e6, accepting_s
