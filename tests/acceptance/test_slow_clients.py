"""Clients that take for ever, or send what is far too large, cost a real node a moment and nobody else anything."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from cis.api.body import PART_WITHIN_S
from cis.api.connection import MAX_PIPELINED, REQUEST_WITHIN_S
from tests.worlds.harness import NodeProcess, Sandbox
from tests.worlds.waiting import wait_for

PATIENCE_S = REQUEST_WITHIN_S + PART_WITHIN_S
POST = "POST /api/v1/dag/execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAuthorization: Bearer {}\r\n"

DAG = b'{"dag_id": "x", "tasks": [{"id": "a", "command": "true"}]}'
CHUNKED = POST.encode() + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(DAG), DAG)


def connected(node: NodeProcess) -> socket.socket:
    """Return a connection to the node."""
    address = urlsplit(node.url)
    return socket.create_connection((address.hostname or "", address.port or 0), timeout=PATIENCE_S)


def dribbled(connection: socket.socket, piece: bytes, *, every_s: float = 0.5) -> tuple[float, bytes]:
    """Send *piece* again and again until the node has enough of it; return how long it took, and what it said."""
    began_s = time.monotonic()
    said: list[bytes] = []

    def over() -> bool:
        try:
            connection.sendall(piece)
            connection.settimeout(every_s)
            data = connection.recv(65536)
        except TimeoutError:
            return False
        except OSError:
            return True
        said.append(data)
        return not data

    wait_for(over, timeout_s=2 * PATIENCE_S, what="the node to lose patience")
    return time.monotonic() - began_s, b"".join(said)


def slow_headers(node: NodeProcess) -> None:
    """Send headers that never end."""
    with connected(node) as connection:
        connection.sendall(b"GET /api/v1/runs HTTP/1.1\r\nHost: localhost\r\n")
        seconds, _ = dribbled(connection, b"X-More: 1\r\n")
    assert seconds < PATIENCE_S


def silence(node: NodeProcess) -> None:
    """Say nothing at all."""
    with connected(node) as connection:
        assert connection.recv(1) == b""


def slow_headers_after_an_answer(node: NodeProcess) -> None:
    """Ask once, and begin to ask again."""
    with connected(node) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in connection.recv(65536)
        seconds, _ = dribbled(connection, b"G")
    assert seconds < PATIENCE_S


def body_that_stops(node: NodeProcess) -> None:
    """Send half of a body."""
    with connected(node) as connection:
        connection.sendall((POST.format(node.token) + "Content-Length: 100\r\n\r\n{").encode())
        said = connection.recv(65536)
        while data := connection.recv(65536):
            said += data
    assert b" 408 " in said
    assert b"http.too_slow" in said


def body_after_a_refusal(node: NodeProcess) -> None:
    """Go on with a body though the answer, a refusal, is there."""
    with connected(node) as connection:
        connection.sendall((POST.format("wrong") + "Content-Length: 10000000\r\n\r\n").encode())
        seconds, said = dribbled(connection, b"x")
    assert b" 401 " in said
    assert seconds < PATIENCE_S


CLIENTS = (slow_headers, silence, slow_headers_after_an_answer, body_that_stops, body_after_a_refusal)


def test_clients_that_take_for_ever_are_let_go_and_disturb_nobody(sandbox: Sandbox) -> None:
    clients: list[Callable[[NodeProcess], None]] = [each for each in CLIENTS for _ in range(5)]
    with sandbox.node() as node, ThreadPoolExecutor(len(clients)) as pool:
        slow = [pool.submit(client, node) for client in clients]
        run = node.execute({"dag_id": "x", "tasks": [{"id": "a", "command": "true"}]})
        assert node.finished(run.body["run_id"])["status"] == "completed"
        for each in slow:
            each.result()

        assert [one["dag_id"] for one in node.call("GET", "/api/v1/runs").body["items"]] == ["x"]


def test_what_follows_a_body_stands_for_no_header_and_what_is_in_one_for_no_request(sandbox: Sandbox) -> None:
    """A parser that takes trailers for headers, or skips the body of who offers an upgrade, lets strangers and hidden DAGs in."""
    with sandbox.node() as node:
        trailer = f"0\r\nAuthorization: Bearer {node.token}\r\n\r\n".encode()
        unsigned = CHUNKED.replace(b"Authorization: Bearer {}", b"Connection: close")
        hidden = POST.format(node.token).encode() + b"Content-Length: %d\r\n\r\n%s" % (len(DAG), DAG)
        upgrade = b"Connection: close, Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n" % len(hidden)

        assert b" 401 " in answer_to(node, unsigned + trailer)
        assert answer_to(node, POST.format(node.token).encode() + upgrade + hidden).count(b"HTTP/1.1 ") == 1
        assert node.call("GET", "/api/v1/runs").body["items"] == []


def answer_to(node: NodeProcess, request: bytes) -> bytes:
    """Send it, and nothing more; return all that the node says until it closes the connection."""
    with connected(node) as connection:
        connection.sendall(request)
        said = b""
        while data := connection.recv(65536):
            said += data
    return said


GET = b"GET /health HTTP/1.1\r\n"
HOST = b"Host: localhost\r\n"


def test_a_head_names_one_host_and_an_offer_of_another_protocol_is_left_alone(sandbox: Sandbox) -> None:
    """A node that is asked for under two names, or none, could be reached by a web page through a name of its own."""
    close = b"Connection: close\r\n\r\n"
    with sandbox.node() as node:
        for hosts in (b"", HOST + HOST, HOST + b"Host: elsewhere.example\r\n"):
            assert answer_to(node, GET + hosts + close).startswith(b"HTTP/1.1 400 "), hosts
        assert answer_to(node, b"GET /health HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        offer = GET + HOST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
        with connected(node) as connection:
            for request in (offer, GET + HOST + b"\r\n", offer):
                connection.sendall(request)
                said = b""
                while not said.endswith(b"}"):
                    said += connection.recv(65536)
                assert said.startswith(b"HTTP/1.1 200 ")


def test_requests_that_come_before_the_first_is_answered_are_answered_in_turn_up_to_a_bound(sandbox: Sandbox) -> None:
    one, last = GET + HOST + b"\r\n", GET + HOST + b"Connection: close\r\n\r\n"
    with sandbox.node() as node:
        assert answer_to(node, one * (MAX_PIPELINED // 2) + last).count(b" 200 OK") == MAX_PIPELINED // 2 + 1
        assert b" 400 " in answer_to(node, one * (MAX_PIPELINED + 2) + last)
        assert node.call("GET", "/health").status == 200


@pytest.mark.parametrize("what", ["header", "line", "many headers", "trailer", "many trailers", "empty lines"])
def test_a_request_whose_head_is_too_large_is_refused_at_once(sandbox: Sandbox, what: str) -> None:
    heads = {
        "header": b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 2**20,
        "line": b"GET /" + b"x" * 2**20,
        "many headers": b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 2**17,
        "trailer": CHUNKED + b"0\r\nX: " + b"x" * 2**20,
        "many trailers": CHUNKED + b"0\r\n" + b"A: b\r\n" * 2**17,
        "empty lines": b"\r\n" * 2**19,
    }
    with sandbox.node() as node, connected(node) as connection:
        try:
            connection.sendall(heads[what].replace(b"Bearer {}", b"Bearer " + node.token.encode()) + b"\r\n\r\n")
            said = connection.recv(65536)
        except ConnectionError:
            said = b"HTTP/1.1 400 "  # it was closed while it was being sent
        assert said.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))
        assert node.call("GET", "/health").status == 200
