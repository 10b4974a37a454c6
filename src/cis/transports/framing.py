"""A message as bytes over HTTP: its signed content in one line, then the blob that it names, as it is.

The content comes first and is small, so its signature is checked before anything else is read: a stranger can make a
node read ``MAX_CONTENT_BYTES`` and no more.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from cis.errors import MalformedMessageError
from cis.model.dag import Json
from cis.model.message import Message
from cis.transports.keys import canonical

MEDIA_TYPE = "application/vnd.cis.message"
MAX_CONTENT_BYTES = 128 * 2**10
EXECUTE_PATH = "/api/v1/dag/execute"
MESSAGES_PATH = "/api/v1/peers/messages"


def frame(content: Json, message: Message) -> bytes:
    """Return the body that carries a message."""
    return canonical(content) + b"\n" + (message.blob.encode() if message.blob is not None else b"")


class FrameReader:
    """Reads a body piece by piece, never more of it than was asked for."""

    def __init__(self, parts: AsyncIterator[bytes]) -> None:
        self._parts = parts
        self._held = b""

    async def content(self) -> Json:
        """Return the content of the first line. Raises MalformedMessageError."""
        while b"\n" not in self._held:
            if len(self._held) > MAX_CONTENT_BYTES or not await self._more():
                break
        line, newline, self._held = self._held.partition(b"\n")
        if not newline or len(line) > MAX_CONTENT_BYTES:
            raise MalformedMessageError("a message begins with its content, in one line of at most 128 KiB")
        try:
            return json.loads(line)
        except (ValueError, RecursionError) as error:
            raise MalformedMessageError("the content of a message is no JSON") from error

    async def blob(self, size: int) -> bytes:
        """Return the *size* bytes that follow. Raises MalformedMessageError when there are fewer or more."""
        parts, count = [self._held], len(self._held)
        self._held = b""
        while count <= size and await self._more():
            parts.append(self._held)
            count += len(self._held)
            self._held = b""
        if count != size:
            raise MalformedMessageError(f"{size} bytes should follow the content of a message, not {count}")
        return b"".join(parts)

    async def _more(self) -> bool:
        async for part in self._parts:
            self._held += part
            return True
        return False
