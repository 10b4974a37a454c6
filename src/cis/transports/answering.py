"""What a node answers to a message that was pushed to it: a message of its own, signed, with what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from cis.engine.outgoing import REPORT_REF
from cis.errors import MalformedMessageError
from cis.model.dag import Json
from cis.model.message import BlobRef, Message, MessageKind, Reply, Result
from cis.store.cluster import PeerRecord
from cis.transports.asking import Teller
from cis.transports.envelope import seal
from cis.transports.framing import FrameReader, frame
from cis.transports.ports import Desk
from cis.transports.reception import Reception

CONTENT_S = 15.0  # for 128 KiB at most; a stranger may keep a connection for so long
BLOB_S = 300.0
_ANSWER_FOR_US = 300_000_000

T = TypeVar("T")
MakeRoom = Callable[[int], Awaitable[None]]


class Answering:
    """Takes one pushed message in and returns the bytes of its answer."""

    def __init__(self, desk: Desk, reception: Reception) -> None:
        self._desk = desk
        self._reception = reception
        self._teller = Teller(desk)

    async def open(self, reader: FrameReader, *, source: str) -> tuple[Message, PeerRecord]:
        """Read a message, and return it with the peer that signed it; what travels beside it is left for later.

        Raises:
            MalformedMessageError, UntrustedError: it is none, or nobody's who is trusted here.
        """
        try:
            content = await _in_time(reader.content(), CONTENT_S)
        except MalformedMessageError as error:
            await self._reception.note_stranger(None, error, source=source)
            raise
        return await self._reception.open(content, source=source)

    async def answer(
        self, message: Message, peer: PeerRecord, reader: FrameReader, *, source: str, make_room: MakeRoom
    ) -> bytes:
        """Act on an opened message, and return the signed answer; *make_room* waits for room for what travels beside it.

        Raises:
            StoreError, OverloadedError: not now.
        """

        async def fetch(ref: BlobRef) -> bytes:
            await make_room(ref.size)
            return await _in_time(reader.blob(ref.size), BLOB_S)

        reply = await self._reception.take(message, peer, source=source, fetch=fetch)
        fields, blob = dict(reply.fields), None
        token = self._desk.site.new_id()
        if message.kind is MessageKind.ASK and reply.result is Result.ACCEPTED:
            fields, blob = await self._teller.answer(message, token=token)
        return self._sealed(message, reply, fields, blob=blob, message_id=token)

    def _sealed(
        self, message: Message, reply: Reply, fields: dict[str, Json], *, blob: str | None, message_id: str
    ) -> bytes:
        now_us = self._desk.site.clock_us()
        answer = Message(
            kind=MessageKind.ANSWER,
            message_id=message_id,
            sender=self._desk.site.node_id,
            target=message.sender,
            run_id=message.run_id,
            created_at_us=now_us,
            expires_at_us=now_us + _ANSWER_FOR_US,
            fields={
                **fields,
                "reply_to": message.message_id,
                "result": str(reply.result),
                "code": reply.code,
                "detail": reply.detail,
            },
            blob_name=None if blob is None else REPORT_REF,
            blob=blob,
        )
        return frame(seal(answer, self._desk.signer), answer)


async def _in_time(reading: Awaitable[T], seconds: float) -> T:
    """Await what is read. Raises MalformedMessageError when it takes too long: whoever sends it may be gone."""
    try:
        async with asyncio.timeout(seconds):
            return await reading
    except TimeoutError as error:
        raise MalformedMessageError(f"a message did not come whole within {seconds:g} s") from error
