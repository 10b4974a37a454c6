"""Too many at once: each is answered in time, whoever is refused is told when to come back, and nothing of it is kept."""

from __future__ import annotations

import asyncio
import hashlib
import select
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from time import sleep
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from cis.api import connection
from cis.api.app import create_app
from cis.api.request_limits import LARGE_BYTES, RequestBounds, RequestLimits
from cis.errors import OverloadedError, ShareExceededError
from cis.node.store_threads import Readers
from cis.store import open_store
from cis.store.access_records import TokenRecord
from cis.transports.envelope import MEDIA_TYPE, MESSAGES_PATH
from tests.worlds.serving import TOKEN, NodeUnderTest, assert_problem, node_under_test, served
from tests.worlds.waiting import wait_for

DAG: dict[str, Any] = {"dag_id": "d", "tasks": [{"id": "a", "command": "true"}]}
PATIENCE_S = 20.0
BOUNDS = RequestBounds(
    requests=3, requests_of_one=1, streams=2, streams_of_one=1, strangers=4, large=1, large_of_one=1, large_wait_s=0.2
)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeUnderTest]:
    """A node that takes three requests, two streams and one large body at once."""
    with node_under_test(tmp_path) as node:
        node.app = create_app(node.services, bounds=BOUNDS)
        yield node


@asynccontextmanager
async def client_of(url: str, token: str = TOKEN) -> AsyncIterator[httpx.AsyncClient]:
    """Give the test a client with many connections."""
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=0)
    headers = {"Authorization": f"Bearer {token}"}
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
    """Check a refusal for lack of room."""
    assert_problem(answer, 503, "overloaded")
    assert int(answer.headers["retry-after"]) >= 1


def is_told_of_its_share(answer: httpx.Response) -> None:
    """Check a refusal of who has its share already."""
    assert_problem(answer, 429, "overloaded.share")
    assert int(answer.headers["retry-after"]) >= 1


def add_token(node: NodeUnderTest, name: str) -> str:
    """Store a token that may read and execute, and return it."""
    token = f"secret-of-{name}"
    digest = hashlib.sha256(token.encode()).hexdigest()
    with node.store.transaction():
        node.store.tokens.put(TokenRecord(name=name, sha256=digest, may=("read", "execute"), created_at_us=0))
    return token


def begin_message(url: str) -> socket.socket:
    """Send the beginning of a message of some node, whose content does not come."""
    address = urlsplit(url)
    stranger = socket.create_connection((address.hostname or "", address.port or 0), timeout=PATIENCE_S)
    head = f"POST {MESSAGES_PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: 100000\r\n\r\n"
    stranger.sendall(head.encode())
    return stranger


def silent(stranger: socket.socket) -> bool:
    """Whether a connection is open, and nothing has come by it."""
    return not select.select([stranger], [], [], 0)[0]


def test_streams_are_bounded_and_one_that_ends_makes_room(node: NodeUnderTest) -> None:
    run = node.submitted()
    follow = f"/api/v1/runs/{run.run_id}/logs?f%6fllow=tr%75e"

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
            async with asyncio.timeout(PATIENCE_S):
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
            async with asyncio.timeout(PATIENCE_S):
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


def test_one_token_has_a_share_and_what_it_holds_keeps_nobody_else_out(node: NodeUnderTest) -> None:
    one, other = add_token(node, "one"), add_token(node, "other")
    node.submitted()

    async def scene(url: str) -> None:
        async with (
            client_of(url, one) as mine,
            client_of(url, other) as others,
            client_of(url) as owner,
            streaming(mine, "/api/v1/events") as first,
        ):
            assert first.status_code == 200
            is_told_of_its_share(await mine.get("/api/v1/runs"))
            is_told_of_its_share(await mine.post("/api/v1/dag/execute", json=DAG))
            assert (await others.get("/api/v1/runs")).status_code == 200
            async with streaming(owner, "/api/v1/events") as second, streaming(owner, "/api/v1/events") as third:
                assert second.status_code == 200
                is_told_to_come_back(third)

    with served(node) as url:
        asyncio.run(scene(url))


def test_a_stream_more_than_the_share_of_one_is_refused_while_a_request_is_answered() -> None:
    limits = RequestLimits(RequestBounds(requests_of_one=3, streams_of_one=1))

    async def scene() -> None:
        async with limits.admitted("one") as first, limits.admitted("one") as second, limits.admitted("two") as other:
            first.stream()
            with pytest.raises(ShareExceededError, match="1 streams are open already for 'one'"):
                second.stream()
            other.stream()
        async with limits.admitted("one") as again:
            again.stream()

    asyncio.run(scene())


def test_large_bodies_of_one_wait_for_its_own_share_and_leave_places_for_others() -> None:
    limits = RequestLimits(RequestBounds(large=2, large_of_one=1, large_wait_s=0.05))

    async def scene() -> None:
        async with limits.admitted("one") as first, limits.admitted("one") as second, limits.admitted("two") as other:
            await first.large()
            with pytest.raises(ShareExceededError):
                await second.large()
            await other.large()
            async with limits.admitted("three") as third:
                with pytest.raises(OverloadedError, match="2 large"):
                    await third.large()
        async with limits.admitted("one") as again:
            await again.large()

    asyncio.run(scene())
    assert limits._large._shares == {}


def test_strangers_fill_no_place_but_each_others_and_the_one_who_waited_longest_makes_room(node: NodeUnderTest) -> None:
    token = add_token(node, "one")

    with served(node) as url, ExitStack() as connections:
        strangers = []
        for _ in range(10 * BOUNDS.strangers):
            strangers.append(connections.enter_context(begin_message(url)))
            wait_for(
                lambda: len(strangers) <= BOUNDS.strangers or not silent(strangers[-BOUNDS.strangers - 1]), what="room"
            )
        answers = [httpx.get(url + "/api/v1/runs", headers={"Authorization": f"Bearer {token}"}) for _ in range(5)]
        whole = httpx.post(url + MESSAGES_PATH, content=b"{}\n", headers={"Content-Type": MEDIA_TYPE})
        pushed_out = strangers[0].recv(65536)
        still = [silent(stranger) for stranger in strangers[-BOUNDS.strangers + 1 :]]

    assert [answer.status_code for answer in answers] == [200] * 5
    assert whole.status_code == 400
    assert pushed_out.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after" in pushed_out.lower()
    assert all(still)


def test_a_client_that_goes_away_in_the_middle_of_its_request_costs_no_line_in_the_log(
    node: NodeUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    with served(node) as url:
        with begin_message(url):
            pass
        with begin_message(url) as another:
            another.sendall(b"x" * 1000)
        wait_for(lambda: httpx.get(url + "/health").status_code == 200, what="the node")
        limits = _limits_of(node)
        wait_for(lambda: not limits._strangers, what="them to be forgotten")

    assert caplog.text == ""


def test_a_client_that_reads_nothing_of_its_answer_is_let_go_and_one_that_reads_slowly_is_not(
    node: NodeUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "READ_WITHIN_S", 0.5)
    run = node.submitted()
    attempt = node.started(run, "a")
    size = 64 * 2**20
    node.wrote(attempt, out=b"x" * size)
    node.ended(run, attempt)
    ask = f"GET /api/v1/runs/{run.run_id}/logs HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"

    with served(node) as url, ExitStack() as connections:
        address = urlsplit(url)
        deaf, slow = (connections.enter_context(socket.socket()) for _ in range(2))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for client in (deaf, slow):
            client.settimeout(PATIENCE_S)
            client.connect((address.hostname, address.port))
            client.sendall(ask.encode())
        limits = _limits_of(node)
        wait_for(lambda: limits._streams._taken == 2, what="both")
        got = 0
        while limits._streams._taken == 2:
            got += len(slow.recv(2**16))
            sleep(0.005)
        assert got < size // 2  # so the place that is free is that of the deaf one
        while got < size:
            got += len(slow.recv(2**20) or pytest.fail("the slow one was let go as well"))


def _limits_of(node: NodeUnderTest) -> RequestLimits:
    """Return the limits of the app that is served."""
    layer: Any = wait_for(lambda: node.app.middleware_stack, what="the first request")
    while not hasattr(layer, "_limits"):
        layer = layer.app
    limits: RequestLimits = layer._limits
    return limits


def test_methods_that_clients_invent_are_counted_as_one(node: NodeUnderTest) -> None:
    """Each count is kept for as long as the node runs, and a stranger may send any word as a method."""
    for number in range(20):
        assert node.call(f"INVENTED{number}", "/api/v1/runs", token=None).status_code == 401
    counts = [line for line in node.call("GET", "/metrics").text.splitlines() if 'status="401"' in line]

    assert len(counts) == 1
    assert counts[0].endswith(" 20")


def test_reads_that_wait_are_bounded_and_those_that_were_taken_are_done(tmp_path: Path) -> None:
    go = threading.Event()
    readers = Readers(lambda: open_store(tmp_path / "cis.db"), threads=1, max_waiting=2)
    taken = [readers.submit(lambda _: go.wait(PATIENCE_S)) for _ in range(3)]
    try:
        with pytest.raises(OverloadedError) as caught:
            readers.submit(lambda _: True)
    finally:
        go.set()

    assert caught.value.retry_after_s >= 1
    assert all(future.result(PATIENCE_S) for future in taken)
    assert readers.submit(lambda _: "read").result(PATIENCE_S) == "read"
    readers.close()
    with pytest.raises(OverloadedError, match="stopping"):
        readers.submit(lambda _: True)
