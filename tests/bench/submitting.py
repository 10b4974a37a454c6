"""The case ``submit``: 5,000 DAGs of one task over HTTP on 8 connections, until all are done."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from tests.bench.documents import Document, one
from tests.bench.figures import Figure, LostError, Plan, Result
from tests.bench.homes import ANSWER_WITHIN_S, MANY_SLOTS, connected, reading, value_of, wait_until
from tests.bench.limit import spawn_rate
from tests.worlds.harness import NodeProcess, Sandbox

COUNT = 5000
CONNECTIONS = 8
BAR = 0.35
SLOWEST_RUNS_PER_S = 20.0
UNFINISHED = "SELECT 1 FROM dag_runs WHERE status IN ('pending', 'running', 'paused') LIMIT 1"
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: (\d+)")
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

    def hand_in(connection: int) -> list[bytes]:
        requests = [_request(node, one(f"r{number}-{place}")) for place in range(connection, COUNT, CONNECTIONS)]
        with socket.create_connection(_address(node), timeout=ANSWER_WITHIN_S) as line:
            everyone_is_there.wait(30)
            return [_answer(line, request) for request in requests]

    with ThreadPoolExecutor(CONNECTIONS) as pool, reading(sandbox) as database:
        waiting = [pool.submit(hand_in, connection) for connection in range(CONNECTIONS)]
        everyone_is_there.wait(30)
        began_s, began_us = time.perf_counter(), time.time_ns() // 1000
        bodies = [body for one_of_them in waiting for body in one_of_them.result(COUNT / SLOWEST_RUNS_PER_S)]
        accepting_s = time.perf_counter() - began_s
        is_done = lambda: value_of(database, UNFINISHED) is None  # noqa: E731 - asked in one place
        wait_until(is_done, timeout_s=COUNT / SLOWEST_RUNS_PER_S, what="the end of all runs", pause_s=0.05)
        last_us = value_of(database, "SELECT max(finished_at_us) FROM dag_runs")
        completed = {row[0] for row in database.execute(COMPLETED)}
    run_ids = {str(json.loads(body)["run_id"]) for body in bodies}
    if len(run_ids) != COUNT or not completed.issuperset(run_ids):
        raise LostError(f"of {len(run_ids)} runs {len(completed.intersection(run_ids))} are completed")
    return (last_us - began_us) / 1e6, accepting_s


def _address(node: NodeProcess) -> tuple[str, int]:
    url = urlsplit(node.url)
    return str(url.hostname), int(url.port or 80)


def _request(node: NodeProcess, document: Document) -> bytes:
    """Return the bytes of a request, made before the clock starts: who hands in should take little from who takes in."""
    body = json.dumps(document).encode()
    head = (
        "POST /api/v1/dag/execute HTTP/1.1",
        f"Host: {urlsplit(node.url).netloc}",
        f"Authorization: Bearer {node.token}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    return "".join(f"{line}\r\n" for line in (*head, "")).encode() + body


def _answer(line: socket.socket, request: bytes) -> bytes:
    """Send a request, and return the body of its answer. Raises LostError when it was not accepted."""
    line.sendall(request)
    said = b""
    while True:
        part = line.recv(65536)
        said += part
        head, _, body = said.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not part or (length and len(body) >= int(length[1])):
            break
    if not said.startswith(b"HTTP/1.1 202 "):
        raise LostError(f"a DAG was answered with {said[:300]!r}")
    return body
