"""Homes of the product: running DAGs in them, waiting for their ends, and looking up that nothing was lost.

They lie in ~/.cache, near to where a real one does, and are deleted after the last case: for some minutes ext4 takes up
to twenty times as long to make a file where many were deleted (0.4 ms instead of 0.02 ms was seen in /tmp).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import apsw

from tests.bench.figures import LostError
from tests.worlds.harness import NodeProcess, Sandbox

T = TypeVar("T")
ANSWER_WITHIN_S = 30.0
KEPT_OPEN_S = 3.0  # a node closes a connection after 5 s without a word
PAUSE_S = 0.002
MANY_SLOTS = str(16 * (os.cpu_count() or 1))
LIVE_WORKERS = "SELECT worker_id, pid FROM workers WHERE status NOT IN ('stopped', 'dead')"


class Client:
    """One connection to a node that is kept, for one thread."""

    def __init__(self, node: NodeProcess) -> None:
        self._connection = HTTPConnection(urlsplit(node.url).netloc, timeout=ANSWER_WITHIN_S)
        self._headers = {"Authorization": f"Bearer {node.token}"}
        self._used_s = time.monotonic()

    def get(self, path: str) -> Any:
        """Return the JSON at *path*."""
        return json.loads(self.get_bytes(path))

    def get_bytes(self, path: str) -> bytes:
        """Return the body at *path*, as it comes."""
        return self._call("GET", path, None, 200)

    def execute(self, document: Mapping[str, Any]) -> str:
        """Hand a DAG in, and return the id of its run."""
        body = json.dumps(document).encode()
        return str(json.loads(self._call("POST", "/api/v1/dag/execute", body, 202))["run_id"])

    def cancel(self, run_id: str) -> None:
        """Cancel a run."""
        self._call("POST", f"/api/v1/runs/{run_id}/cancel", b"", 200)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _call(self, method: str, path: str, body: bytes | None, expect: int) -> bytes:
        headers = {**self._headers, "Content-Type": "application/json"} if body else self._headers
        if time.monotonic() - self._used_s > KEPT_OPEN_S:
            self._connection.close()  # it opens itself again
        self._used_s = time.monotonic()
        self._connection.request(method, path, body=body, headers=headers)
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status != expect:
            raise LostError(f"{method} {path} was answered with {answer.status}: {data[:300]!r}")
        return data


def with_many_slots(sandbox: Sandbox) -> Sandbox:
    """Return the sandbox with workers that take many tasks at once."""
    return replace(sandbox, env={**sandbox.env, "CIS_SLOTS": MANY_SLOTS})


@contextmanager
def connected(node: NodeProcess) -> Iterator[Client]:
    """Keep a connection to a node while the block lasts."""
    client = Client(node)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def reading(sandbox: Sandbox) -> Iterator[apsw.Connection]:
    """Keep a connection to the database, which only reads, while the block lasts."""
    connection = apsw.Connection(str(sandbox.home / "cis.db"), flags=apsw.SQLITE_OPEN_READONLY)
    connection.set_busy_timeout(10_000)
    try:
        yield connection
    finally:
        connection.close()


def value_of(database: apsw.Connection, sql: str, parameters: Sequence[Any] = ()) -> Any:
    """Return the first column of the first row, or None."""
    row = database.execute(sql, parameters).fetchone()
    return None if row is None else row[0]


def wait_until(predicate: Callable[[], T], *, timeout_s: float, what: str, pause_s: float = PAUSE_S) -> T:
    """Return the first truthy value of *predicate*, looked for more often than tests do.

    Raises:
        LostError: the time is over.
    """
    deadline_s = time.monotonic() + timeout_s
    while not (value := predicate()):
        if time.monotonic() >= deadline_s:
            raise LostError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(pause_s)
    return value


def run_here(sandbox: Sandbox, document: Mapping[str, Any], *, timeout_s: float) -> tuple[float, float]:
    """Run a DAG with ``cis dag run``; return the seconds of the run, start to end, and of the whole command.

    Raises:
        LostError: a task of it is not completed.
    """
    path = Path(sandbox.home).parent / "dag.json"
    path.write_text(json.dumps(document))
    began_s = time.perf_counter()
    done = sandbox.cis("dag", "run", str(path), "--json", timeout_s=timeout_s)
    command_s = time.perf_counter() - began_s
    if done.returncode:
        raise LostError(f"cis dag run ended with {done.returncode}: {done.stderr[-500:]}")
    return completed_s(sandbox, str(json.loads(done.stdout)["run_id"])), command_s


def completed_s(sandbox: Sandbox, run_id: str) -> float:
    """Return the seconds from a run's start to its end, if all of its tasks are completed, each at the first attempt.

    Raises:
        LostError: they are not.
    """
    with reading(sandbox) as database:
        run = "SELECT status, task_count, finished_at_us - started_at_us FROM dag_runs WHERE run_id = ?"
        status, count, took_us = database.execute(run, (run_id,)).fetchone() or ("missing", 0, 0)
        tasks = "SELECT count(*) FROM run_tasks WHERE run_id = ? AND status = 'completed' AND attempts = 1"
        completed = value_of(database, tasks, (run_id,))
        tries = "SELECT count(*) FROM task_executions WHERE run_id = ? AND status = 'completed'"
        tried = value_of(database, tries, (run_id,))
    if status != "completed" or not completed == tried == count:
        raise LostError(f"run {run_id} is {status}: of {count} tasks {completed} are completed, in {tried} attempts")
    return float(took_us) / 1e6


def run_ended(database: apsw.Connection, run_id: str, *, timeout_s: float) -> None:
    """Wait until a run has ended."""
    ended = "SELECT 1 FROM dag_runs WHERE run_id = ? AND finished_at_us IS NOT NULL"
    wait_until(lambda: value_of(database, ended, (run_id,)), timeout_s=timeout_s, what=f"the end of run {run_id}")
