"""The dozen endpoints of the Matrix client-server API (v1.11 or newer) that a node needs.

A send's transaction id is its key: within about a day the same id, of the same device, returns the first event and
drops the second. *The event's type is not part of that key*, so ids begin with their kind (``status-<run>-<seq>``), and
a node keeps one ``device_id`` for good.

What is too large for an event is kept by the homeserver as ``Media``, under an address ``mxc://server/id``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from urllib.parse import quote

import httpx

from cis.errors import MalformedMessageError, RoomRefusedError
from cis.model.dag import Json
from cis.transports.matrix.http import (
    ANSWER_TIMEOUT_S,
    Event,
    Login,
    MatrixHttp,
    SyncAnswer,
    WhoAmI,
    events,
    optional_text,
    part,
    read_bounded,
    sync_answer,
    text,
)

TIMEOUT_S = 120.0
UNKNOWN_LIMIT = 2**53 - 1  # a homeserver need not say what it takes
_SERVER = r"(?:[A-Za-z0-9.-]{1,230}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?"
_MXC = re.compile(rf"mxc://(?P<server>{_SERVER})/(?P<media>[A-Za-z0-9_-]{{1,255}})")

PAGE = 100  # events; the server caps it there
_V3 = "/_matrix/client/v3"


class Media:
    """The part of the client that keeps and fetches bytes."""

    _http: MatrixHttp
    _media_limit: int | None = None

    async def media_limit(self) -> int:
        """Return how many bytes the homeserver takes in one upload; asked once."""
        if self._media_limit is None:
            said = await self._http.call("GET", "/_matrix/client/v1/media/config")
            limit = said.get("m.upload.size") if isinstance(said, dict) else None
            self._media_limit = limit if isinstance(limit, int) and not isinstance(limit, bool) else UNKNOWN_LIMIT
        return self._media_limit

    async def upload(self, data: bytes, *, content_type: str, filename: str) -> str:
        """Have the homeserver keep bytes, and return their ``mxc`` address.

        Raises:
            RoomRefusedError: they are more than it takes (``M_TOO_LARGE``). It would reset the connection, not answer.
        """
        limit = await self.media_limit()
        if len(data) > limit:
            raise RoomRefusedError(
                f"{filename} has {len(data)} bytes and the homeserver takes {limit}; raise its max_upload_size",
                errcode="M_TOO_LARGE",
                status=413,
            )
        path = "/_matrix/media/v3/upload"
        said = await self._http.call(
            "POST", path, params={"filename": filename}, body=data, content_type=content_type, timeout_s=TIMEOUT_S
        )
        return text(said, "content_uri")

    async def download(self, mxc: str, *, max_bytes: int) -> bytes:
        """Return what the homeserver keeps under an address; reading ends as soon as it is more than *max_bytes*.

        Raises:
            MalformedMessageError: it is more, or *mxc* is no such address; both for good.
        """
        found = _MXC.fullmatch(mxc)
        if found is None:
            raise MalformedMessageError(
                f"{mxc[:300]!r} is not an address of media, which looks like mxc://example.org/AbCd"
            )
        path = f"/_matrix/client/v1/media/download/{quote(found['server'], safe='')}/{found['media']}"
        async with self._http.streamed("GET", path, timeout_s=TIMEOUT_S) as answer:
            data = await read_bounded(answer, max_bytes)
        if data is None:
            raise MalformedMessageError(f"{mxc} has more than the {max_bytes} bytes that it should have")
        return data


class MatrixClient(Media):
    """One user's session on a homeserver.

    Every method may raise the errors that ``cis.transports.matrix.http`` names, and no others of a network.
    """

    def __init__(
        self, homeserver: str, access_token: str, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._http = MatrixHttp(homeserver, access_token, transport=transport)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def whoami(self) -> WhoAmI:
        """Return whose token this is."""
        said = await self._http.call("GET", f"{_V3}/account/whoami")
        return WhoAmI(user_id=text(said, "user_id"), device_id=optional_text(said, "device_id"))

    async def sync(
        self,
        room_id: str,
        *,
        since: str | None,
        timeout_ms: int,
        filter: Mapping[str, Json],  # noqa: A002 - Matrix' word
    ) -> SyncAnswer:
        """Return what is new in a room since a token: as soon as there is something, or after ``timeout_ms``.

        The filter should let this room pass, and no other. Synapse answers an equal request within two minutes
        from its cache; going on from that answer is safe.
        """
        params: dict[str, str | int] = {"filter": _compact(filter), "timeout": timeout_ms}
        if since is not None:
            params["since"] = since
        timeout_s = ANSWER_TIMEOUT_S + timeout_ms / 1000
        return sync_answer(await self._http.call("GET", f"{_V3}/sync", params=params, timeout_s=timeout_s), room_id)

    async def messages(
        self,
        room_id: str,
        *,
        from_: str,
        to: str | None,
        filter: Mapping[str, Json],  # noqa: A002 - Matrix' word
        limit: int = PAGE,
    ) -> tuple[tuple[Event, ...], str | None]:
        """Return a page of events from one token back to another, newest first, and where the next page begins."""
        params: dict[str, str | int] = {"dir": "b", "from": from_, "limit": limit, "filter": _compact(filter)}
        if to is not None:
            params["to"] = to
        said = await self._http.call("GET", f"{_room(room_id)}/messages", params=params)
        return events(part({"": said}, "").get("chunk")), optional_text(said, "end")

    async def send(
        self,
        room_id: str,
        *,
        type: str,  # noqa: A002 - Matrix' word
        content: Mapping[str, Json],
        txn_id: str,
    ) -> str:
        """Send an event and return its id; the same ``txn_id`` again returns the same id and sends nothing."""
        path = f"{_room(room_id)}/send/{_quoted(type)}/{_quoted(txn_id)}"
        return text(await self._http.call("PUT", path, body=content), "event_id")

    async def send_state(
        self,
        room_id: str,
        type: str,  # noqa: A002 - Matrix' word
        state_key: str,
        content: Mapping[str, Json],
    ) -> str:
        """Set a part of the room's state; return the event's id."""
        path = f"{_room(room_id)}/state/{_quoted(type)}/{_quoted(state_key)}"
        return text(await self._http.call("PUT", path, body=content), "event_id")

    async def state(self, room_id: str) -> tuple[Event, ...]:
        """Return the room's whole state."""
        return events(await self._http.call("GET", f"{_room(room_id)}/state"))

    async def event(self, room_id: str, event_id: str) -> Event:
        """Return one event."""
        said = await self._http.call("GET", f"{_room(room_id)}/event/{_quoted(event_id)}")
        return part({"": said}, "")

    async def create_room(self, body: Mapping[str, Json]) -> str:
        """Make a room and return its id."""
        return text(await self._http.call("POST", f"{_V3}/createRoom", body=body), "room_id")

    async def join(self, room_id: str) -> None:
        """Join a room that this user was invited into; being in it already is fine."""
        await self._http.call("POST", f"{_room(room_id)}/join", body={})

    async def invite(self, room_id: str, user_id: str) -> None:
        """Invite a user into a room."""
        await self._http.call("POST", f"{_room(room_id)}/invite", body={"user_id": user_id})

    async def joined_rooms(self) -> frozenset[str]:
        """Return the rooms that this user is in."""
        said = await self._http.call("GET", f"{_V3}/joined_rooms")
        return frozenset(one for one in said.get("joined_rooms", ()) if isinstance(one, str))

    async def joined_members(self, room_id: str) -> frozenset[str]:
        """Return the users that are in a room."""
        return frozenset(part(await self._http.call("GET", f"{_room(room_id)}/joined_members"), "joined"))

    async def is_listed(self, room_id: str) -> bool:
        """Whether the homeserver's public directory shows the room."""
        said = await self._http.call("GET", f"{_V3}/directory/list/room/{_quoted(room_id)}")
        return optional_text(said, "visibility") != "private"


async def login(
    homeserver: str,
    *,
    user: str,
    password: str,
    device_id: str,
    transport: httpx.AsyncBaseTransport | None = None,
) -> Login:
    """Open a session by password. With the ``device_id`` of an older one it goes on with its transaction ids."""
    http = MatrixHttp(homeserver, None, transport=transport)
    body = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": user},
        "password": password,
        "device_id": device_id,
        "initial_device_display_name": "CIS-DAG",
    }
    try:
        said = await http.call("POST", f"{_V3}/login", body=body)
    finally:
        await http.aclose()
    return Login(
        access_token=text(said, "access_token"), device_id=text(said, "device_id"), user_id=text(said, "user_id")
    )


def _room(room_id: str) -> str:
    return f"{_V3}/rooms/{_quoted(room_id)}"


def _quoted(value: str) -> str:
    return quote(value, safe="")


def _compact(value: Mapping[str, Json]) -> str:
    return json.dumps(value, separators=(",", ":"))
