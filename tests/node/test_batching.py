"""Writes that an event loop hands in together: one transaction, one way there and one way back, and nobody forgotten."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cis.errors import NotFoundError, OverloadedError
from cis.node.store_threads import BatchedWrites, Writer
from cis.store import open_store
from cis.store.port import Store
from cis.store.sqlite.connection import Database
from tests.worlds.writing import CountingStore, SlowJob, audit, held, subjects


@pytest.fixture
def writer(database: Path) -> Iterator[Writer]:
    """A writer that counts its transactions."""
    CountingStore.transactions = 0
    writer = Writer(lambda: CountingStore(Database(database)))
    yield writer
    writer.close()


def writing(subject: str) -> Callable[[Store], str]:
    """Return a job that writes one row."""
    return lambda store: audit(store, subject)


async def handed_over() -> None:
    """Let the loop take the turns in which jobs are gathered and handed over."""
    for _ in range(3):
        await asyncio.sleep(0)


def test_what_is_handed_in_during_one_turn_shares_a_transaction(writer: Writer, database: Path) -> None:
    writes = BatchedWrites(writer)

    async def hand_in() -> list[str]:
        return await asyncio.gather(*(writes.write(writing(str(number))) for number in range(50)))

    assert asyncio.run(hand_in()) == [str(number) for number in range(50)]
    assert CountingStore.transactions == 1
    assert subjects(database) == {str(number) for number in range(50)}


def test_all_results_that_are_there_come_back_at_once(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = BatchedWrites(writer)

    async def hand_in() -> int:
        loop = asyncio.get_running_loop()
        call_soon, told = loop.call_soon_threadsafe, []

        def tell(*call: Any) -> asyncio.Handle:
            told.append(call)
            return call_soon(*call)

        monkeypatch.setattr(loop, "call_soon_threadsafe", tell)
        waiting = [asyncio.ensure_future(writes.write(writing(str(number)))) for number in range(20)]
        await handed_over()
        go.set()
        writer.submit(lambda _: None).result(10)  # the loop stands still until the group before this one is done
        assert await asyncio.gather(*waiting) == [str(number) for number in range(20)]
        return len(told)

    with held(writer) as go:
        assert asyncio.run(hand_in()) == 1


def test_each_gets_its_own_result_or_error_and_turns_follow_one_another(writer: Writer, database: Path) -> None:
    writes = BatchedWrites(writer)

    def refused(store: Store) -> None:
        audit(store, "half done")
        raise NotFoundError("run", "x")

    async def client(number: int) -> list[Any]:
        said: list[Any] = []
        for turn in range(20):
            try:
                said.append(await writes.write(refused if (turn + number) % 5 == 0 else writing(f"{number}-{turn}")))
            except NotFoundError:
                said.append(None)
        return said

    async def hand_in() -> list[list[Any]]:
        return await asyncio.gather(*(client(number) for number in range(8)))

    expected = [[f"{n}-{turn}" if (turn + n) % 5 else None for turn in range(20)] for n in range(8)]
    assert asyncio.run(hand_in()) == expected
    assert subjects(database) == {subject for said in expected for subject in said if subject}


def test_a_write_whose_caller_has_gone_is_not_begun(writer: Writer, database: Path) -> None:
    writes = BatchedWrites(writer)

    async def hand_in() -> None:
        gone, stays = (asyncio.ensure_future(writes.write(writing(name))) for name in ("gone", "stays"))
        await handed_over()
        gone.cancel()
        await handed_over()
        go.set()
        assert await stays == "stays"
        assert gone.cancelled()

    with held(writer) as go:
        asyncio.run(hand_in())

    assert subjects(database) == {"stays"}


def test_an_error_that_no_future_takes_is_told_as_another_and_nobody_waits_in_vain(writer: Writer) -> None:
    writes = BatchedWrites(writer)

    async def hand_in() -> list[Any]:
        jobs = [writing("a"), lambda _: next(iter(())), writing("b")]
        return await asyncio.gather(*map(writes.write, jobs), return_exceptions=True)

    first, error, last = asyncio.run(hand_in())

    assert (first, last) == ("a", "b")
    assert isinstance(error, RuntimeError)
    assert isinstance(error.__cause__, StopIteration)


def test_what_was_refused_is_not_kept(writer: Writer) -> None:
    writes = BatchedWrites(writer)
    writer.close()

    async def hand_in() -> weakref.ref[Any]:
        job = writing("x")
        kept = weakref.ref(job)
        with pytest.raises(OverloadedError):
            await writes.write(job)
        return kept

    gc.disable()
    try:
        assert asyncio.run(hand_in())() is None
    finally:
        gc.enable()


def test_a_caller_that_goes_while_its_write_is_under_way_takes_nobody_along(writer: Writer, database: Path) -> None:
    writes, slow = BatchedWrites(writer), SlowJob("slow")

    async def hand_in() -> None:
        gone, stays = (asyncio.ensure_future(writes.write(job)) for job in (slow, writing("stays")))
        await handed_over()
        assert slow.begun.wait(10)
        gone.cancel()
        await handed_over()
        slow.go.set()
        assert await stays == "stays"
        assert gone.cancelled()

    asyncio.run(hand_in())

    assert subjects(database) == {"slow", "stays"}


def test_a_write_that_is_under_way_when_its_loop_ends_harms_nobody(writer: Writer, database: Path) -> None:
    writes, slow = BatchedWrites(writer), SlowJob("slow")

    async def hand_in() -> None:
        waiting = asyncio.ensure_future(writes.write(slow))
        await handed_over()
        assert slow.begun.wait(10)
        assert not waiting.done()

    asyncio.run(hand_in())  # which cancels what waits, and closes the loop
    slow.go.set()

    assert asyncio.run(writes.write(writing("next"))) == "next"
    assert subjects(database) == {"slow", "next"}


def test_those_for_whom_there_is_no_room_are_refused_and_the_others_are_not(database: Path) -> None:
    writer = Writer(lambda: open_store(database), max_waiting=3)
    writes = BatchedWrites(writer)

    async def hand_in() -> list[Any]:
        waiting = [asyncio.ensure_future(writes.write(writing(str(number)))) for number in range(5)]
        await handed_over()
        go.set()
        return await asyncio.gather(*waiting, return_exceptions=True)

    with held(writer) as go:
        said = asyncio.run(hand_in())

    assert said[:3] == ["0", "1", "2"]
    assert [type(error) for error in said[3:]] == [OverloadedError] * 2
    assert subjects(database) == {"0", "1", "2"}
    writer.close()


def test_a_closed_writer_refuses_all(writer: Writer) -> None:
    writer.close()

    with pytest.raises(OverloadedError, match="stopping"):
        asyncio.run(BatchedWrites(writer).write(writing("late")))
