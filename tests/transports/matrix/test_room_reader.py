"""The reader of a room before homeservers that answer strangely."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import httpx
import pytest

from cis.errors import RoomRefusedError, RoomUnreachableError
from cis.transports.matrix import sync
from cis.transports.matrix.client import MatrixClient
from cis.transports.matrix.sync import Batch, RoomReader

ROOM = "!room"


def event(number: int) -> dict[str, Any]:
    """Return an event as a homeserver gives it."""
    return {"event_id": f"${number}", "sender": "@a:x", "type": "t", "content": {"n": number}, "unsigned": {"age": 1}}


class Script:
    """A homeserver that answers what it was told to, by the end of the path."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {name: iter(values) for name, values in answers.items()}
        self.asked: list[dict[str, str]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(dict(request.url.params))
        status, body = next(self.answers[request.url.path.rpartition("/")[2]])
        return httpx.Response(status, stream=httpx.ByteStream(json.dumps(body).encode()))


def read(script: Script, *cursors: str | None) -> list[Batch]:
    """Catch up from each cursor with one reader."""

    async def go() -> list[Batch]:
        client = MatrixClient("https://matrix.test", "token", transport=httpx.MockTransport(script))
        try:
            reader = RoomReader(client, ROOM, types=["t"])
            return [await reader.catch_up(since, timeout_ms=0) for since in cursors]
        finally:
            await client.aclose()

    return asyncio.run(go())


def synced(next_batch: str, *events: Any, limited: bool = False) -> tuple[int, Any]:
    """Return an answer to ``/sync`` that has the room in it."""
    timeline = {"events": list(events), "limited": limited, "prev_batch": "p"}
    return 200, {"next_batch": next_batch, "rooms": {"join": {ROOM: {"timeline": timeline}}}}


def page(*events: Any, end: str | None = None) -> tuple[int, Any]:
    """Return a page of ``/messages``, newest first."""
    return 200, {"chunk": list(events)} | ({} if end is None else {"end": end})


def ids(batch: Batch) -> list[str]:
    """Return the ids of a batch."""
    return [one.event_id for one in batch.events]


def test_pages_that_overlap_are_empty_or_end_at_themselves_give_each_event_once_in_order() -> None:
    pages = [page(event(5), event(4), end="x"), page(end="y"), page(event(4), event(3), end="z"), page(end="z")]
    script = Script(sync=[synced("b", limited=True)], messages=pages)
    (batch,) = read(script, "a")

    assert ids(batch) == ["$3", "$4", "$5"]
    assert [(one["from"], one["to"]) for one in script.asked[1:]] == [("b", "a"), ("x", "a"), ("y", "a"), ("z", "a")]


def test_a_join_that_is_not_called_limited_brings_nothing_from_before_the_cursor() -> None:
    outside = 200, {"next_batch": "b"}
    script = Script(sync=[outside, synced("c", event(1), event(2))], messages=[page(event(2))])
    _, batch = read(script, None, "b")

    assert ids(batch) == ["$2"]
    assert batch.joined


def test_what_is_no_event_is_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    script = Script(sync=[synced("b"), synced("c", event(1), {"event_id": 2}, "three", event(4))])
    _, batch = read(script, None, "b")

    assert ids(batch) == ["$1", "$4"]
    assert [record.levelno for record in caplog.records if record.name == sync.__name__] == [logging.WARNING]


@pytest.mark.parametrize(
    ("status", "error"), [(401, RoomRefusedError), (403, RoomRefusedError), (500, RoomUnreachableError)]
)
def test_a_refusal_that_is_not_about_the_cursor_moves_no_cursor(status: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        read(Script(sync=[(status, {"errcode": "M_UNKNOWN_TOKEN"})]), "a")


def test_a_cursor_of_another_homeserver_tells_nothing_by_its_number() -> None:
    (batch,) = read(Script(sync=[synced("41_1", event(1))], messages=[page(event(1))]), "s99_1")

    assert (ids(batch), batch.lost) == (["$1"], False)
