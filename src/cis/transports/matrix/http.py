"""Requests to a homeserver, and its answers as data or as one of four errors. Events stay as raw as they came.

A redirect is not followed, proxies of the environment are not used, every wait and every body is bounded, and no error
of the HTTP library leaks out.

    RoomUnreachableError  no answer, or one of a server or proxy in trouble (5xx): the same request may do later
    RoomLimitedError      429; it says when
    RoomRefusedError      any other answer that is no success; ``errcode`` says why
    RoomError             an answer that no homeserver gives
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import httpx

from cis.errors import RoomError, RoomLimitedError, RoomRefusedError, RoomUnreachableError, UsageError
from cis.model.dag import Json
from cis.transports.address import read_address, trusted_authorities

Event = Mapping[str, Json]

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 30.0
MAX_JSON_BYTES = 32 * 2**20
MAX_RETRY_AFTER_S = 3600.0
_RETRY_AFTER_S = 5.0
_MAX_ERROR_BYTES = 64 * 2**10
_MAX_WORDS = 500


class MatrixHttp:
    """Sends requests to one homeserver, with or without an access token; connections are kept and used again."""

    def __init__(
        self, homeserver: str, access_token: str | None, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.address = homeserver_address(homeserver)
        headers = {"User-Agent": "cis-dag", "Accept-Encoding": "identity"}
        if access_token is not None:
            if not _plain(access_token):  # the HTTP library would show it in its error
                raise UsageError("the access token is empty, or has a character that no token has")
            headers["Authorization"] = f"Bearer {access_token}"
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            limits=httpx.Limits(max_connections=32, keepalive_expiry=60.0),
            follow_redirects=False,
            trust_env=False,
            verify=trusted_authorities(),
            transport=transport,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: Mapping[str, Json] | bytes | None = None,
        content_type: str = "application/json",
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> Any:
        """Return the JSON of the answer; *path* is quoted already.

        ``timeout_s`` is the longest silence; the whole request may take twice that, and a bit.

        Raises:
            RoomError: see this module.
        """
        data = json.dumps(body, allow_nan=False).encode() if isinstance(body, Mapping) else body
        headers = {"Content-Type": content_type} if data is not None else {}
        async with self.streamed(
            method, path, params=params, content=data, headers=headers, timeout_s=timeout_s
        ) as answer:
            text = await read_bounded(answer, MAX_JSON_BYTES)
        return _json(text, self._where(method, path))

    @asynccontextmanager
    async def streamed(
        self, method: str, path: str, *, timeout_s: float = ANSWER_TIMEOUT_S, **options: Any
    ) -> AsyncIterator[httpx.Response]:
        """Give a successful answer whose body was not read yet. Errors are those of ``call``."""
        where = self._where(method, path)
        timeout = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
        try:
            async with (
                asyncio.timeout(2 * timeout_s + CONNECT_TIMEOUT_S),
                self._client.stream(method, self.address + path, timeout=timeout, **options) as answer,
            ):
                if not answer.is_success:
                    await _refuse(answer, where)
                yield answer
        except (httpx.HTTPError, httpx.StreamError, TimeoutError) as error:
            raise RoomUnreachableError(f"{where}: {str(error) or type(error).__name__}"[:_MAX_WORDS]) from error
        except httpx.InvalidURL as error:
            raise RoomError(f"{where}: {error}"[:_MAX_WORDS]) from error

    def _where(self, method: str, path: str) -> str:
        return f"{method} {self.address}{path}"[:_MAX_WORDS]


def homeserver_address(text: str) -> str:
    """Return a homeserver's address without a slash at its end.

    Raises:
        UsageError: it is more, or less, than http or https, a host and perhaps a port.
    """
    try:
        return read_address(text)
    except ValueError as error:
        raise UsageError(f"homeserver: {error}") from error


async def read_bounded(answer: httpx.Response, limit: int) -> bytes | None:
    """Return the body of an answer, or None as soon as it is more than *limit* bytes.

    Raises:
        RoomError: it is packed, although that was not asked for: a little of it could become a lot.
    """
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise RoomError(f"{answer.url} answers in a compressed form that was not asked for")
    if int(answer.headers.get("content-length", 0)) > limit:  # the HTTP library has checked that it is a number
        return None
    body = bytearray()
    async for part in answer.aiter_raw():
        body += part
        if len(body) > limit:
            return None
    return bytes(body)


def _plain(text: str) -> bool:
    return text != "" and text.isascii() and text.isprintable() and " " not in text and "\\" not in text


async def _refuse(answer: httpx.Response, where: str) -> NoReturn:
    status = answer.status_code
    try:
        said = _json(await read_bounded(answer, _MAX_ERROR_BYTES), where)
    except RoomError:
        said = None  # a proxy's page; the status has to do
    said = said if isinstance(said, dict) else {}
    errcode, reason = str(said.get("errcode", "")), str(said.get("error", answer.reason_phrase))
    message = f"{where}: HTTP {status} {errcode} {reason}"[:_MAX_WORDS]
    if status == httpx.codes.TOO_MANY_REQUESTS:
        raise RoomLimitedError(message, retry_after_s=_retry_after_s(answer, said))
    if status >= 500:
        raise RoomUnreachableError(message)
    if answer.is_redirect:
        raise RoomError(f"{where} redirects, which is refused: name the homeserver's own address")
    raise RoomRefusedError(message, errcode=errcode, status=status)


def _retry_after_s(answer: httpx.Response, said: Mapping[str, Any]) -> float:
    """Return how long to wait: ``Retry-After`` in whole seconds, or the older field in milliseconds."""
    header, wanted_ms = answer.headers.get("retry-after", ""), said.get("retry_after_ms")
    if header.isdecimal():
        wanted_s = float(header)
    elif isinstance(wanted_ms, int | float) and not isinstance(wanted_ms, bool):
        wanted_s = wanted_ms / 1000
    else:
        wanted_s = _RETRY_AFTER_S
    return min(max(wanted_s, 0.0), MAX_RETRY_AFTER_S)


def _json(text: bytes | None, where: str) -> Any:
    if text is None:
        raise RoomError(f"{where} answers with more than is read of an answer")
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RoomError(f"{where} answers with something that is not JSON; is it a homeserver?") from error
    if not isinstance(value, dict | list):
        raise RoomError(f"{where} answers with JSON that no homeserver gives")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


@dataclass(frozen=True, slots=True, kw_only=True)
class WhoAmI:
    """Whose access token this is."""

    user_id: str
    device_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A new session of a user."""

    access_token: str = field(repr=False)
    device_id: str
    user_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncAnswer:
    """What one ``/sync`` says about one room.

    ``limited``: the timeline is not what came since the token (a gap before it; or, after a join, old events in it).
    ``joined`` is None when the answer does not mention the room.
    """

    next_batch: str
    joined: bool | None
    limited: bool
    timeline: tuple[Event, ...]
    state: tuple[Event, ...]


def sync_answer(said: Any, room_id: str) -> SyncAnswer:
    """Return what the body of a ``/sync`` says about a room."""
    rooms = part(said, "rooms")
    room = part(part(rooms, "join"), room_id)
    if room_id in part(rooms, "join"):
        joined: bool | None = True
    else:
        joined = False if room_id in part(rooms, "leave") else None
    timeline = part(room, "timeline")
    return SyncAnswer(
        next_batch=text(said, "next_batch"),
        joined=joined,
        limited=bool(timeline.get("limited", False)),
        timeline=events(timeline.get("events")),
        state=events(part(room, "state").get("events")),
    )


def part(said: Any, name: str) -> Mapping[str, Any]:
    """Return the object that an object holds under a name; empty if there is none."""
    value = said.get(name) if isinstance(said, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def text(said: Any, name: str) -> str:
    """Return the text that an answer has to hold under a name. Raises RoomError when it has none."""
    value = optional_text(said, name)
    if value is None:
        raise RoomError(f"the homeserver's answer has no {name}")
    return value


def optional_text(said: Any, name: str) -> str | None:
    """Return the text that an answer holds under a name, or None."""
    value = said.get(name) if isinstance(said, Mapping) else None
    return value if isinstance(value, str) else None


def events(said: Any) -> tuple[Event, ...]:
    """Return the events of a list, without what is no event."""
    return tuple(one for one in said if isinstance(one, Mapping)) if isinstance(said, list) else ()
