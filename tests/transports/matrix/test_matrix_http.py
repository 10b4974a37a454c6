"""Answers that a real homeserver does not give on demand: each is an error of this project, and every body is bounded."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from cis.errors import (
    CisError,
    MalformedMessageError,
    RoomError,
    RoomLimitedError,
    RoomRefusedError,
    RoomUnreachableError,
    UsageError,
)
from cis.transports.matrix import http
from cis.transports.matrix.client import MatrixClient

TOKEN = "syt_secret"
Handler = Callable[[httpx.Request], httpx.Response]


def asked(handler: Handler, question: Callable[[MatrixClient], Awaitable[Any]]) -> Any:
    """Ask a client whose homeserver is *handler*."""

    async def ask() -> Any:
        client = MatrixClient("https://matrix.test", TOKEN, transport=httpx.MockTransport(handler))
        try:
            return await question(client)
        finally:
            await client.aclose()

    return asyncio.run(ask())


def failed(handler: Handler, question: Callable[[MatrixClient], Awaitable[Any]] = MatrixClient.whoami) -> CisError:
    """Return the error that a question ends with."""
    with pytest.raises(CisError) as error:
        asked(handler, question)
    assert TOKEN not in str(error.value)
    return error.value


def answer(status: int, *, stream: httpx.AsyncByteStream | None = None, **options: Any) -> Handler:
    """Return a homeserver that always gives this answer, in parts as a network does."""
    packed = options.get("content")
    whole = httpx.Response(status, **options)
    body = stream or httpx.ByteStream(whole.content if packed is None else packed)
    return lambda _: httpx.Response(status, headers=whole.headers, stream=body)


def raiser(error: Exception) -> Handler:
    """Return a homeserver that cannot be spoken to."""

    def handler(_: httpx.Request) -> httpx.Response:
        raise error

    return handler


class Endless(httpx.AsyncByteStream):
    """A body that goes on for ever, and counts what was read of it."""

    def __init__(self) -> None:
        self.parts = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            self.parts += 1
            yield bytes(1024)


class Silent(httpx.AsyncByteStream):
    """A body that drips: no single silence is long, but it does not end."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0)
            yield b""


@pytest.mark.parametrize(
    ("headers", "body", "wait_s"),
    [
        ({"Retry-After": "7"}, {"retry_after_ms": 1}, 7.0),
        ({}, {"retry_after_ms": 2500}, 2.5),
        ({}, {}, 5.0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, {"retry_after_ms": 2500}, 2.5),
        ({"Retry-After": "-3"}, {}, 5.0),
        ({}, {"retry_after_ms": -3}, 0.0),
        ({"Retry-After": "nan"}, {}, 5.0),
        ({"Retry-After": "9" * 400}, {}, 3600.0),
        ({}, {"retry_after_ms": "soon"}, 5.0),
        ({}, {"retry_after_ms": True}, 5.0),
    ],
    ids=str,
)
def test_a_limited_client_is_told_how_long_to_wait(
    headers: dict[str, str], body: dict[str, Any], wait_s: float
) -> None:
    error = failed(answer(429, headers=headers, json={"errcode": "M_LIMIT_EXCEEDED", **body}))

    assert isinstance(error, RoomLimitedError)
    assert error.retry_after_s == wait_s


@pytest.mark.parametrize(
    "handler",
    [
        answer(500, json={"errcode": "M_UNKNOWN", "error": "Internal server error"}),
        answer(502, text="<html>Bad Gateway</html>"),
        answer(504, content=b"\xff"),
        raiser(httpx.ConnectError("refused")),
        raiser(httpx.ReadTimeout("")),
        raiser(httpx.RemoteProtocolError("closed")),
        raiser(httpx.LocalProtocolError("what it was sent")),
        raiser(httpx.TooManyRedirects("")),
    ],
)
def test_a_homeserver_in_trouble_is_unreachable(handler: Handler) -> None:
    assert isinstance(failed(handler), RoomUnreachableError)


@pytest.mark.parametrize(
    ("handler", "errcode"),
    [
        (answer(403, json={"errcode": "M_FORBIDDEN", "error": "no"}), "M_FORBIDDEN"),
        (answer(404, text="nothing here"), ""),
        (answer(400, json=["what"]), ""),
        (answer(401, json={"errcode": 1, "error": None}), "1"),
    ],
)
def test_a_refusal_has_its_code(handler: Handler, errcode: str) -> None:
    error = failed(handler)

    assert isinstance(error, RoomRefusedError)
    assert error.errcode == errcode
    assert error.status in (400, 401, 403, 404)


@pytest.mark.parametrize(
    "handler",
    [
        answer(302, headers={"Location": "https://elsewhere.test"}),
        answer(200, text="<html>Welcome to nginx</html>"),
        answer(200, text="[" * 100_000),
        answer(200, text='{"user_id": NaN}'),
        answer(200, text='"@a:x"'),
        answer(200, json=[]),
        answer(200, json={"user_id": 1}),
        answer(200, content=gzip.compress(b'{"user_id": "@a:x"}'), headers={"Content-Encoding": "gzip"}),
    ],
)
def test_what_no_homeserver_answers_is_an_error_of_the_room(handler: Handler) -> None:
    assert type(failed(handler)) is RoomError


def test_an_answer_is_read_no_further_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_JSON_BYTES", 10 * 1024)
    for status, expected in ((200, RoomError), (400, RoomRefusedError)):
        body = Endless()
        error = failed(answer(status, stream=body))

        assert type(error) is expected
        assert body.parts <= 65


def test_a_download_stops_as_soon_as_it_is_too_large() -> None:
    body = Endless()
    error = failed(answer(200, stream=body), lambda client: client.download("mxc://x/1", max_bytes=4096))
    announced = Endless()
    failed(
        answer(200, stream=announced, headers={"Content-Length": "4097"}),
        lambda client: client.download("mxc://x/1", max_bytes=4096),
    )

    assert isinstance(error, MalformedMessageError)
    assert body.parts == 5
    assert announced.parts == 0


def test_an_answer_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CONNECT_TIMEOUT_S", 0.05)

    async def question(client: MatrixClient) -> Any:
        return await client._http.call("GET", "/", timeout_s=0.01)

    assert isinstance(failed(answer(200, stream=Silent()), question), RoomUnreachableError)


@pytest.mark.parametrize(
    "mxc",
    [
        "",
        "mxc://",
        "mxc://x",
        "mxc://x/",
        "mxc:///1",
        "mxc://x/1/2",
        "mxc://x/..",
        "mxc://x/1?a",
        "mxc://x/1\n",
        "mxc://x y/1",
        "mxc://x@y/1",
        "https://x/1",
        "MXC://x/1",
        "mxc://x/%2e",
        "mxc://../1/2",
    ],
)
def test_what_is_no_address_of_media_is_not_asked_for(mxc: str) -> None:
    error = failed(raiser(AssertionError("asked")), lambda client: client.download(mxc, max_bytes=1))

    assert isinstance(error, MalformedMessageError)


def test_names_of_rooms_events_and_transactions_cannot_leave_their_place_in_the_path() -> None:
    paths: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.raw_path.decode())
        return answer(200, json={"event_id": "$1"})(request)

    asked(handler, lambda client: client.send("!a/../b?c#d", type="t/x", content={}, txn_id="../1"))

    assert paths == ["/_matrix/client/v3/rooms/%21a%2F..%2Fb%3Fc%23d/send/t%2Fx/..%2F1"]


@pytest.mark.parametrize(
    "address",
    [
        "",
        "matrix.test",
        "ftp://matrix.test",
        "https://",
        "https://user:password@matrix.test",
        "https://matrix.test/_matrix",
        "https://matrix.test?x",
        "https://matrix.test#x",
        "https://matrix.test:0",
        "https://matrix.test:99999",
        "https://matrix.test:x",
        "https://matrix .test",
        "https://matrix.test\n",
        "https://matrix.test\\x",
        "https://[::1",
    ],
)
def test_a_homeserver_is_a_scheme_a_host_and_nothing_else(address: str) -> None:
    with pytest.raises(UsageError, match=r"^homeserver: .* is not an address"):
        http.homeserver_address(address)


@pytest.mark.parametrize("address", ["http://127.0.0.1:8008", "https://matrix.test", "https://[::1]:8448"])
def test_a_slash_at_the_end_of_an_address_does_not_matter(address: str) -> None:
    assert http.homeserver_address(address) == http.homeserver_address(address + "/") == address


@pytest.mark.parametrize("token", ["", "with space", "line\n", "ü"])
def test_a_token_that_cannot_be_one_is_refused_unshown(token: str) -> None:
    with pytest.raises(UsageError) as error:
        MatrixClient("https://matrix.test", token)

    assert not token or token not in str(error.value)
