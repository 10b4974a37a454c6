"""A node without workers for the tests of the API: real store, writer, readers and hub, behind the real app."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from cis.api.app import create_app
from cis.api.connection import TimedConnection
from cis.api.served import MAX_BODY_BYTES, ServedNode
from cis.engine.accept.submit import SubmitRequest, submit
from cis.engine.logfiles import LogFiles
from cis.engine.this_node import ThisNode
from cis.engine.transitions import move_run, move_tasks
from cis.federation.executing.first_word import FirstWord
from cis.model.dag import DagSpec
from cis.model.states import AttemptState, RunState, TaskState
from cis.node.cluster import Cluster
from cis.node.handle import NodeHandle
from cis.node.hub import EventHub
from cis.node.identity import KeyFile
from cis.node.store_threads import Readers, Writer
from cis.skills.registry import InstalledSkills
from cis.store import open_store
from cis.store.records import AttemptRecord, RunChange, RunRecord, TaskRecord, WorkerRecord, WorkerState
from cis.store.sqlite.store import SqliteStore
from tests.worlds.migrated import new_database
from tests.worlds.waiting import wait_for

TOKEN = "test-token"
NODE_ID = "node-1"


@dataclass(slots=True)
class NodeUnderTest:
    """What a test holds of a served node: its store (for the test's own thread), its parts, and who was poked."""

    store: SqliteStore
    this_node: ThisNode
    hub: EventHub
    writer: Writer
    logfiles: LogFiles
    app: FastAPI
    services: ServedNode
    pokes: list[str] = field(default_factory=list)

    def call(self, method: str, path: str, *, token: str | None = TOKEN, **options: Any) -> httpx.Response:
        """Send a request to the app, without a network, and return the answer."""
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        headers.update(options.pop("headers", {}))

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, client=("127.0.0.9", 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:6767") as client:
                return await client.request(method, path, headers=headers, **options)

        return asyncio.run(send())

    def get(self, path: str, **options: Any) -> Any:
        """Return the JSON of a GET that has to go well."""
        answer = self.call("GET", path, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def execute(self, document: Any, **headers: str) -> httpx.Response:
        """Post a DAG, given as a mapping (JSON) or as text of some form."""
        if isinstance(document, dict):
            headers = {"Content-Type": "application/json", **headers}
            document = json.dumps(document)
        return self.call("POST", "/api/v1/dag/execute", content=document, headers=headers)

    def submitted(self, *tasks: dict[str, Any], dag_id: str = "demo", **fields: Any) -> RunRecord:
        """Store a run of these tasks (``true`` where there is no command) and return it."""
        plain = {"dag_id": dag_id, "tasks": [{"command": "true", **task} for task in tasks or ({"id": "a"},)], **fields}
        with self.store.transaction():
            return submit(self.store, SubmitRequest(spec=DagSpec.from_dict(plain)), this_node=self.this_node).run

    def changed(self, run: RunRecord, status: RunState) -> RunRecord:
        """Move a run as its worker would."""
        with self.store.transaction():
            now_us = self.this_node.clock_us()
            change = RunChange(status=status, finished_at_us=now_us if status.final else None)
            changed = move_run(self.store, run, change, at_us=now_us)
        self.hub.poke()
        return changed

    def started(self, run: RunRecord, task_id: str) -> AttemptRecord:
        """Start the next attempt at a task as its worker would, and return it."""
        with self.store.transaction():
            old = self._task(run, task_id)
            now_us = self.this_node.clock_us()
            new = old._replace(status=TaskState.RUNNING, attempts=old.attempts + 1, started_at_us=now_us)
            attempt = AttemptRecord(
                run_id=run.run_id,
                task_no=old.task_no,
                task_id=task_id,
                attempt=new.attempts,
                status=AttemptState.RUNNING,
                worker_id=run.worker_id,
                epoch=1,
                started_at_us=now_us,
            )
            self.store.attempts.start([attempt])
            move_tasks(self.store, run, [(old, new)], at_us=now_us)
        self.logfiles.prepare(run.run_id)
        return attempt

    def ended(
        self,
        run: RunRecord,
        attempt: AttemptRecord,
        status: AttemptState = AttemptState.COMPLETED,
        *,
        again: bool = False,
        **fields: Any,
    ) -> None:
        """End an attempt as its worker would; with *again*, the task goes back to pending."""
        with self.store.transaction():
            now_us = self.this_node.clock_us()
            old = self._task(run, attempt.task_id)
            state = TaskState.PENDING if again else TaskState(status)
            new = old._replace(status=state, finished_at_us=None if again else now_us)
            self.store.attempts.finish([attempt._replace(status=status, finished_at_us=now_us, **fields)])
            move_tasks(self.store, run, [(old, new)], at_us=now_us)
        self.hub.poke()

    def skipped(self, run: RunRecord, task_id: str, *, because: str) -> None:
        """Skip a task as its worker would."""
        with self.store.transaction():
            old = self._task(run, task_id)
            self.store.tasks.change([(old, old._replace(status=TaskState.SKIPPED, blocked_by=because))])

    def wrote(self, attempt: AttemptRecord, *, out: bytes = b"", err: bytes = b"") -> None:
        """Append to an attempt's files as its process would."""
        files = self.logfiles.paths(attempt.run_id, attempt.task_no, attempt.attempt)
        for path, data in ((files.stdout, out), (files.stderr, err)):
            with Path(path).open("ab") as file:
                file.write(data)

    def with_worker(self, run: RunRecord, *, status: WorkerState = WorkerState.BUSY) -> WorkerRecord:
        """Register the worker of a run and have it claim what is queued."""
        with self.store.transaction():
            worker = self.store.workers.take(
                WorkerRecord(
                    worker_id=run.worker_id,
                    node_id=NODE_ID,
                    scope=run.scope,
                    status=status,
                    pid=4711,
                    pid_started=None,
                    epoch=0,
                    slots=2,
                    started_at_us=self.this_node.clock_us(),
                    heartbeat_at_us=self.this_node.clock_us(),
                    lease_until_us=self.this_node.clock_us(),
                )
            )
            self.store.queue.claim(NODE_ID, run.worker_id, epoch=worker.epoch, limit=100)
        return worker

    def _task(self, run: RunRecord, task_id: str) -> TaskRecord:
        task = self.store.tasks.get(run.run_id, task_id)
        assert task is not None
        return task


def counting_ids() -> Callable[[], str]:
    """Return a maker of ids that sort by the order in which they were made."""
    numbers = itertools.count(1)
    return lambda: f"run-{next(numbers):06}"


def ticking_clock() -> Callable[[], int]:
    """Return a clock that goes on by one millisecond each time it is read."""
    ticks = itertools.count(1_700_000_000_000_000, 1000)
    return lambda: next(ticks)


@contextmanager
def node_under_test(
    folder: Path,
    *,
    max_body_bytes: int = MAX_BODY_BYTES,
    max_queued: int = 1000,
    allowed_hosts: Sequence[str] = ("node.test",),
) -> Iterator[NodeUnderTest]:
    """Serve a node out of *folder*, with the token ``TOKEN``."""
    database = folder / "cis.db"
    if not database.exists():
        new_database(folder)
    token_path = folder / "token"
    token_path.write_text(TOKEN + "\n")
    this_node = ThisNode(
        node_id=NODE_ID,
        skills=InstalledSkills(),
        clock_us=ticking_clock(),
        new_id=counting_ids(),
        uptime_us=ticking_clock(),
        max_queued=max_queued,
    )
    store = open_store(database)
    writer = Writer(lambda: open_store(database))
    readers = Readers(lambda: open_store(database))
    stager = Readers(lambda: open_store(database), threads=1)
    hub = EventHub(lambda: open_store(database))
    pokes: list[str] = []
    logfiles = LogFiles(folder / "logs")
    handle = NodeHandle(
        this_node=this_node,
        events=hub,
        logs=logfiles,
        keys=KeyFile(folder / "node.key"),
        writer=writer,
        readers=readers,
        stager=stager,
        woken=pokes.extend,
    )
    cluster = Cluster(handle, room=None, first_word=FirstWord(store, clock_s=time.monotonic))
    services = ServedNode(
        handle,
        cluster,
        token_path=token_path,
        url="http://127.0.0.1:6767",
        allowed_hosts=frozenset(allowed_hosts),
        max_body_bytes=max_body_bytes,
    )
    try:
        yield NodeUnderTest(store, this_node, hub, writer, logfiles, create_app(services), services, pokes)
    finally:
        cluster.stop()
        hub.close()
        stager.close()
        readers.close()
        writer.close()
        store.close()


@contextmanager
def served(node: NodeUnderTest) -> Iterator[str]:
    """Serve a node over a real socket; the value is its address."""
    config = uvicorn.Config(
        node.app, http=TimedConnection, log_config=None, lifespan="off", timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(config)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_for(lambda: server.started, what="uvicorn to listen")
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            node.hub.close()  # ends the streams, so that the server need not wait for them
            server.should_exit = True
            thread.join(10)


def assert_problem(answer: httpx.Response, status: int, code: str) -> Any:
    """Check that an answer is this problem, as RFC 9457 shapes it, and return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == f"urn:cis-dag:problem:{code}"
    assert (problem["code"], problem["status"]) == (code, status)
    assert problem["title"]
    assert problem["detail"]
    assert "Traceback" not in answer.text
    return problem
