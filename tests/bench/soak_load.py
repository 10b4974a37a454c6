"""The load of the soak: several people who each do one kind of thing, again and again, and know how it has to end.

Each waits for the end of what it began before it goes on, so the load cannot run away from the machine; between two of
its turns it pauses, so that the machine has a third of its time for itself. Nobody sees anything but HTTP.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

from tests.bench.documents import Document, layered, one
from tests.bench.figures import LostError
from tests.bench.homes import Client, wait_until
from tests.worlds.harness import NodeProcess

FINAL = ("completed", "failed", "cancelled")
ENDS_WITHIN_S = 120.0
LOOK_S = 0.02
STREAM_SILENT_S = 60.0  # a heartbeat comes every 15 s
SCOPES = 6  # more than the node may have workers: some have to go so that others can come


@dataclass(slots=True)
class Account:
    """What was done, and what did not end as it should have; filled by several threads."""

    ended: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    events: int = 0
    said: str = ""  # by the node, where something went wrong
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: str, fault: str | None) -> None:
        """Count a turn of *kind*, and its fault if it had one."""
        with self._lock:
            self.ended[kind] += 1
            if fault:
                self.wrong.append(f"{kind}: {fault}")

    def turns(self) -> int:
        """Return how many turns there were."""
        with self._lock:
            return self.ended.total()


Turn = Callable[[Client, int], str | None]


def small(client: Client, number: int) -> str | None:
    """Run one ``true``, of ten DAGs in turn, in the worker that never goes."""
    return _ends(client, one(f"job-{number % 10}"), "completed")


def layers(client: Client, _number: int) -> str | None:
    """Run a hundred tasks in layers."""
    return _ends(client, {**layered(100), "dag_id": "proj-soak-layers"}, "completed")


def retries(client: Client, number: int) -> str | None:
    """Run a task that completes at its third attempt, and another that fails at all of its three."""
    command = 'echo "attempt $CIS_ATTEMPT"; test "$CIS_ATTEMPT" -ge 3'
    retried = {"max_retries": 2, "retry_delay": "50ms"}
    luck = {"id": "a", "command": command, **retried}
    no_luck = {"id": "a", "command": "exit 7", **retried}
    task, status = ((luck, "completed"), (no_luck, "failed"))[number % 2]
    return _ends(client, {"dag_id": f"user-soak-{status}", "tasks": [task]}, status, attempts=3)


def cancellations(client: Client, _number: int) -> str | None:
    """Cancel a run whose task is at work."""
    run_id = client.execute({"dag_id": "deploy-cancelled", "tasks": [{"id": "a", "command": "exec sleep 600"}]})
    wait_until(lambda: _run(client, run_id)["status"] == "running", timeout_s=ENDS_WITHIN_S, what="a start")
    client.cancel(run_id)
    return _fault(_ended(client, run_id), "cancelled")


def logs(client: Client, number: int) -> str | None:
    """Run a task that writes 40 kB, and read what it wrote."""
    run_id = client.execute(one("test-logs", f"seq {number * 1000} {number * 1000 + 7000}"))
    fault = _fault(_ended(client, run_id), "completed")
    if fault:
        return fault
    text = client.get(f"/api/v1/runs/{run_id}/logs")["items"][0]["output"]
    return None if text.endswith(f"{number * 1000 + 7000}\n") else f"run {run_id}: the log ends with {text[-20:]!r}"


def scopes(client: Client, number: int) -> str | None:
    """Run one ``true`` in a scope after the other, so that workers come, idle, and go."""
    return _ends(client, one(f"proj-s{number % SCOPES}-job"), "completed")


TURNS: Mapping[Turn, float] = {small: 0.05, layers: 0.5, retries: 0.2, cancellations: 0.5, logs: 0.2, scopes: 1.0}


def work(node: NodeProcess, turn: Turn, pause_s: float, over: threading.Event, account: Account) -> None:
    """Take turns of one kind until the time is over; a lost answer is a fault like any other."""
    kind = turn.__name__
    number = 0
    with closing(Client(node)) as client:
        while not over.wait(pause_s):
            try:
                fault = turn(client, number)
            except (LostError, OSError) as error:
                fault = f"{type(error).__name__}: {error}"
            account.add(kind, fault)
            if fault:
                client.close()  # what was half said on it is of no use; it opens again by itself
            number += 1


def listen(node: NodeProcess, over: threading.Event, account: Account) -> None:
    """Listen to every change of state all the time; a number that does not follow the one before is a fault."""
    address = urlsplit(node.url)
    connection = HTTPConnection(address.netloc, timeout=STREAM_SILENT_S)
    last = 0
    with closing(connection):
        connection.request("GET", "/api/v1/events", headers={"Authorization": f"Bearer {node.token}"})
        stream = connection.getresponse()
        while not over.is_set():
            try:
                line = stream.readline()
            except OSError as error:
                account.add("stream", f"{type(error).__name__}: {error}")
                return
            if not line:
                account.add("stream", "it ended")
                return
            if line.startswith(b"id:"):
                seq = int(line[3:])
                if last and seq != last + 1:
                    account.add("stream", f"event {seq} came after {last}")
                last = seq
                account.events += 1


def _ends(client: Client, document: Document, status: str, *, attempts: int = 1) -> str | None:
    return _fault(_ended(client, client.execute(document)), status, attempts=attempts)


def _run(client: Client, run_id: str) -> Any:
    return client.get(f"/api/v1/runs/{run_id}")


def _ended(client: Client, run_id: str) -> Any:
    def final() -> Any:
        run = _run(client, run_id)
        return run if run["status"] in FINAL else None

    return wait_until(final, timeout_s=ENDS_WITHIN_S, what=f"the end of run {run_id}", pause_s=LOOK_S)


def _fault(run: Any, status: str, *, attempts: int = 1) -> str | None:
    """Return what is wrong with how a run ended, if anything."""
    tried = {task["attempts"] for task in run["tasks"]}
    if run["status"] == status and tried == {attempts}:
        return None
    return f"run {run['run_id']} is {run['status']}, not {status}, after {sorted(tried)} attempts: {run.get('error')}"
