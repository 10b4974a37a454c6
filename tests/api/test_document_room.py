"""Documents are read into memory one after another as far as they are large, and small ones do not wait behind them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable

import httpx
import pytest

from cis.api.body import MAX_DOCUMENT_BYTES, DocumentRooms
from cis.errors import OverloadedError
from cis.model.document import parse_dag, parse_request
from tests.worlds.serving import NodeUnderTest

LARGE = 300 * 2**10


def test_what_is_read_at_once_is_bounded_in_bytes_and_comes_in_its_order() -> None:
    rooms = DocumentRooms(capacity=3 * LARGE, wait_s=5)
    begun: list[int] = []
    at_once: list[int] = []
    now = 0

    async def one(number: int, size: int) -> None:
        nonlocal now
        async with rooms.room_for(size):
            begun.append(number)
            now += size
            at_once.append(now)
            await asyncio.sleep(0)
            now -= size

    async def scene() -> None:
        sizes = [LARGE, LARGE, 3 * LARGE, LARGE, 9 * LARGE, LARGE]
        await asyncio.gather(*(one(number, size) for number, size in enumerate(sizes)))

    asyncio.run(scene())
    assert begun == list(range(6))
    assert max(size for size in at_once if size <= 3 * LARGE) <= 3 * LARGE
    assert at_once.count(9 * LARGE) == 1  # more than all of the room: alone
    assert len(at_once) == 6


def test_who_waits_for_too_long_is_told_to_come_back_and_who_gives_up_leaves_nothing_behind() -> None:
    rooms = DocumentRooms(capacity=LARGE, wait_s=0.05)

    async def wait(size: int) -> None:
        async with rooms.room_for(size):
            pass

    async def scene() -> None:
        async with rooms.room_for(LARGE):
            gone = asyncio.ensure_future(wait(LARGE))
            await asyncio.sleep(0)
            gone.cancel()
            with pytest.raises(OverloadedError):
                await wait(LARGE)
            assert not rooms._large._waiting
            await wait(2**17)  # a small one has a room of its own
        await wait(LARGE)

    asyncio.run(scene())
    assert rooms._large._free == rooms._large._capacity


@pytest.mark.parametrize(
    ("method", "path", "done", "read_by"),
    [("POST", "dag/execute", [202] * 4, parse_request), ("PUT", "dags/d", [200] * 3 + [201], parse_dag)],
)
def test_a_node_reads_one_document_of_the_largest_size_at_a_time(
    node: NodeUnderTest,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    path: str,
    done: list[int],
    read_by: Callable[..., object],
) -> None:
    changed, now, most = threading.Condition(), 0, 0

    def watched(data: bytes, **options: object) -> object:
        nonlocal now, most
        with changed:
            now += 1
            changed.notify_all()
            changed.wait_for(lambda: now > 1, timeout=0.1)  # so that another could come in, if it may
            most = max(most, now)
        try:
            return read_by(data, **options)
        finally:
            with changed:
                now -= 1

    monkeypatch.setattr(f"cis.api.execute.{read_by.__name__}", watched)
    text = "x" * (MAX_DOCUMENT_BYTES * 6 // 10)
    body = json.dumps({"dag_id": "d", "description": text, "tasks": [{"id": "a", "command": "true"}]})

    async def scene() -> list[int]:
        transport = httpx.ASGITransport(node.app)
        headers = {"Authorization": "Bearer test-token", "Content-Type": "application/json"}
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as client:
            asked = (client.request(method, f"/api/v1/{path}", content=body) for _ in range(4))
            answers = await asyncio.gather(*asked)
        return sorted(answer.status_code for answer in answers)

    assert asyncio.run(scene()) == done
    assert most == 1
