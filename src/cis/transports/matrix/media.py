"""What is too large for an event: bytes that the homeserver keeps, under an address ``mxc://server/id``."""

from __future__ import annotations

import re
from urllib.parse import quote

from cis.errors import MalformedMessageError, RoomRefusedError
from cis.transports.matrix.answers import text
from cis.transports.matrix.http import MatrixHttp, read_bounded

TIMEOUT_S = 120.0
UNKNOWN_LIMIT = 2**53 - 1  # a homeserver need not say what it takes
_SERVER = r"(?:[A-Za-z0-9.-]{1,230}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?"
_MXC = re.compile(rf"mxc://(?P<server>{_SERVER})/(?P<media>[A-Za-z0-9_-]{{1,255}})")


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
            raise MalformedMessageError(f"{mxc[:300]!r} is no address of media; it looks like mxc://example.org/AbCd")
        path = f"/_matrix/client/v1/media/download/{quote(found['server'], safe='')}/{found['media']}"
        async with self._http.streamed("GET", path, timeout_s=TIMEOUT_S) as answer:
            data = await read_bounded(answer, max_bytes)
        if data is None:
            raise MalformedMessageError(f"{mxc} has more than the {max_bytes} bytes that it should have")
        return data
