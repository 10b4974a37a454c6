"""Too many at once: each is answered in time, whoever is refused is told when to come back, and nothing of it is kept."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from cis.api.app import create_app
from cis.api.crowd import LARGE_BYTES, CrowdBounds
from cis.errors import OverloadedError
from cis.node.readers import Readers
from cis.store.sqlite.store import open_sqlite
from tests.integration.serving import TOKEN, NodeUnderTest, assert_problem, node_under_test, served

DAG: dict[str, Any] = {"dag_id": "d", "tasks": [{"id": "a", "command": "true"}]}
PATIENCE_S = 20.0


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeUnderTest]:
    """A node that takes three requests, two streams and one large body at once."""
    with node_under_test(tmp_path) as node:
        node.app = create_app(node.services, bounds=CrowdBounds(requests=3, streams=2, large=1, large_wait_s=0.2))
        yield node


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """Give the test a client with many connections."""
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=0)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, limits=limits, headers=headers) as client:
        yield client


@asynccontextmanager
async def streaming(client: httpx.AsyncClient, path: str) -> AsyncIterator[httpx.Response]:
    """Open a stream and wait for the beginning of what it says."""
    async with client.stream("GET", path) as answer:
        if answer.status_code != 200:
            await answer.aread()
        yield answer


class HalfSent:
    """A body of which one part is sent, and the rest once it is let go."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.begun = asyncio.Event()
        self.go = asyncio.Event()

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the body."""
        yield b" " * (self.size - 1)
        self.begun.set()
        await self.go.wait()
        yield b"x"

    def sent_by(self, client: httpx.AsyncClient) -> asyncio.Task[httpx.Response]:
        """Send it as a DAG."""
        headers = {"Content-Length": str(self.size), "Content-Type": "application/json"}
        return asyncio.ensure_future(client.post("/api/v1/dag/execute", content=self.parts(), headers=headers))


def is_told_to_come_back(answer: httpx.Response) -> None:
    """Check a refusal."""
    assert_problem(answer, 503, "overloaded")
    assert int(answer.headers["retry-after"]) >= 1


def test_streams_are_bounded_and_one_that_ends_makes_room(node: NodeUnderTest) -> None:
    run = node.submitted()
    follow = f"/api/v1/runs/{run.run_id}/logs?follow=true"

    async def scene(url: str) -> None:
        async with client_of(url) as client:
            async with streaming(client, "/api/v1/events") as one, streaming(client, follow) as two:
                assert (one.status_code, two.status_code) == (200, 200)
                async with streaming(client, "/api/v1/events") as three:
                    is_told_to_come_back(three)
                assert (await client.get("/api/v1/runs")).status_code == 200
            async with asyncio.timeout(PATIENCE_S):  # the node has to notice that they are gone
                while True:
                    async with streaming(client, "/api/v1/events") as four:
                        if four.status_code == 200:
                            return

    with served(node) as url:
        asyncio.run(scene(url))


def test_requests_are_bounded_and_the_probes_are_answered_all_the_same(node: NodeUnderTest) -> None:
    async def scene(url: str) -> None:
        async with client_of(url) as client:
            waiting = [HalfSent(1000) for _ in range(3)]
            sent = [each.sent_by(client) for each in waiting]
            for each in waiting:
                await each.begun.wait()
            while (await client.get("/api/v1/runs")).status_code == 200:
                pass  # until the node has seen the beginning of all three
            is_told_to_come_back(await client.post("/api/v1/dag/execute", json=DAG))
            is_told_to_come_back(await client.get("/api/v1/runs"))
            health = await client.get("/health")
            for each in waiting:
                each.go.set()
            answers = [(await answer).status_code for answer in sent]
            after = await client.post("/api/v1/dag/execute", json=DAG)

        assert health.status_code == 200
        assert answers == [400] * 3
        assert after.status_code == 202

    with served(node) as url:
        asyncio.run(scene(url))
    assert node.store._db.row("SELECT count(*) FROM dag_runs") == (1,)


def test_a_large_body_waits_for_its_place_and_is_refused_after_a_while_though_it_is_sent_whole(
    node: NodeUnderTest,
) -> None:
    async def scene(url: str) -> None:
        async with client_of(url) as client:
            first = HalfSent(LARGE_BYTES + 1)
            sent = first.sent_by(client)
            await first.begun.wait()
            large = {**DAG, "description": "x" * (2 * LARGE_BYTES)}
            second = await client.post("/api/v1/dag/execute", json=large)
            while second.status_code == 202:  # the node had not seen the first yet
                second = await client.post("/api/v1/dag/execute", json=large)
            small = await client.post("/api/v1/dag/execute", json=DAG)
            first.go.set()
            ended = await sent
            again = await client.post("/api/v1/dag/execute", json=large)

        is_told_to_come_back(second)
        assert small.status_code == 202
        assert ended.status_code == 400
        assert again.status_code == 202

    with served(node) as url:
        asyncio.run(scene(url))


def test_methods_that_clients_invent_are_counted_as_one(node: NodeUnderTest) -> None:
    """Each count is kept for as long as the node runs, and a stranger may send any word as a method."""
    for number in range(20):
        assert node.call(f"INVENTED{number}", "/api/v1/runs", token=None).status_code == 401
    counts = [line for line in node.call("GET", "/metrics").text.splitlines() if 'status="401"' in line]

    assert len(counts) == 1
    assert counts[0].endswith(" 20")


def test_reads_that_wait_are_bounded_and_those_that_were_taken_are_done(tmp_path: Path) -> None:
    go = threading.Event()
    readers = Readers(lambda: open_sqlite(tmp_path / "cis.db"), threads=1, max_waiting=2)
    taken = [readers.submit(lambda _: go.wait(PATIENCE_S)) for _ in range(3)]
    with pytest.raises(OverloadedError) as caught:
        readers.submit(lambda _: True)
    go.set()

    assert caught.value.retry_after_s >= 1
    assert all(future.result(PATIENCE_S) for future in taken)
    assert readers.submit(lambda _: "read").result(PATIENCE_S) == "read"
    readers.close()
    with pytest.raises(OverloadedError, match="stopping"):
        readers.submit(lambda _: True)
