"""The hub: events in order to every subscriber, from where it is, whoever else is slow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cis.node import hub as hub_module
from cis.node.hub import EventHub, Subscription
from cis.store import open_store
from cis.store.records import EventRecord
from cis.store.sqlite.store import SqliteStore
from tests.worlds.migrated import new_database
from tests.worlds.waiting import wait_for


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """Give the test a store to write to."""
    store = open_store(new_database(tmp_path))
    yield store
    store.close()


@pytest.fixture
def make_hub(store: SqliteStore) -> Iterator[Callable[..., EventHub]]:
    """Make hubs over the same database, and close them."""
    made: list[EventHub] = []

    def make(**options: Any) -> EventHub:
        made.append(EventHub(lambda: open_store(store.path), **options))
        return made[-1]

    yield make
    for hub in made:
        hub.close()


def append(store: SqliteStore, count: int, *, kind: str = "task", status: str = "running") -> None:
    """Write *count* events in one transaction."""
    with store.transaction():
        store.events.append(EventRecord(kind=kind, at_us=0, status=status) for _ in range(count))


def while_listening(hub: EventHub, act: Callable[[], object]) -> None:
    """Do something while somebody listens who reads nothing."""

    async def listen() -> None:
        with hub.subscribe():
            await asyncio.to_thread(act)

    asyncio.run(listen())


async def read_until(hub: EventHub, bell: Subscription, seq: int, *, last: int) -> list[int]:
    """Follow the hub from *seq* to *last* as a listener does, and return the sequence numbers."""
    found: list[int] = []
    async with asyncio.timeout(10):
        while not found or found[-1] < last:
            events = hub.after(found[-1] if found else seq)
            assert events is not None
            found.extend(event.seq for event in events)
            if not events:
                await bell.heard(timeout_s=0.5)
    return found


def test_every_subscriber_gets_every_event_once_and_in_order(
    store: SqliteStore, make_hub: Callable[..., EventHub]
) -> None:
    append(store, 3)
    hub = make_hub()

    async def listen() -> list[list[int]]:
        with hub.subscribe() as one, hub.subscribe() as other:
            readers = [asyncio.create_task(read_until(hub, bell, hub.last_seq, last=1203)) for bell in (one, other)]
            for _ in range(4):
                append(store, 300)
                hub.poke()
                await asyncio.sleep(0)
            return await asyncio.gather(*readers)

    assert asyncio.run(listen()) == [list(range(4, 1204))] * 2


def test_an_event_arrives_soon_after_a_poke_and_without_one_a_second_later(
    store: SqliteStore, make_hub: Callable[..., EventHub]
) -> None:
    hub = make_hub()

    async def heard_in(*, poke: bool) -> float:
        loop = asyncio.get_running_loop()
        with hub.subscribe() as bell:
            await bell.heard(timeout_s=0.1)
            seq, begun = hub.last_seq, loop.time()
            append(store, 1)
            if poke:
                hub.poke()
            await read_until(hub, bell, seq, last=seq + 1)
            return loop.time() - begun

    assert asyncio.run(heard_in(poke=True)) < 0.5
    assert asyncio.run(heard_in(poke=False)) < 3.0


def test_a_listener_that_fell_behind_memory_is_sent_to_the_store(
    store: SqliteStore, make_hub: Callable[..., EventHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "IN_MEMORY", 10)
    hub = make_hub()
    append(store, 25)
    while_listening(hub, lambda: wait_for(lambda: hub.last_seq == 25, what="the hub to read on"))

    assert hub.after(0) is None
    assert hub.after(14) is None
    assert [event.seq for event in hub.after(15, limit=3) or ()] == [16, 17, 18]
    assert list(hub.after(25) or ()) == []


def test_what_comes_while_nobody_listens_is_left_to_the_store(
    store: SqliteStore, make_hub: Callable[..., EventHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "POLL_S", 0.05)
    hub = make_hub()

    async def listen(first: int) -> list[int]:
        with hub.subscribe() as bell:
            append(store, 10)
            hub.poke()
            return await read_until(hub, bell, first, last=first + 10)

    assert asyncio.run(listen(0)) == list(range(1, 11))
    hub._poked.set()  # what was begun with a listener goes on to its end
    wait_for(lambda: not hub._poked.is_set(), what="the hub to look without a listener")
    append(store, 25)
    wait_for(lambda: hub.last_seq == 35, what="the hub to count")
    assert hub.after(5) is None
    assert hub.after(34) is None
    assert hub.after(35) == []
    assert [event.seq for event in store.events.after(5, limit=100)] == list(range(6, 36))
    assert asyncio.run(listen(35)) == list(range(36, 46))
    assert hub.after(34) is None


@pytest.mark.parametrize("listening", [True, False])
def test_the_log_is_pruned_to_the_newest_events_now_and_then(
    store: SqliteStore, make_hub: Callable[..., EventHub], monkeypatch: pytest.MonkeyPatch, *, listening: bool
) -> None:
    monkeypatch.setattr(hub_module, "PRUNE_EVERY", 100)
    hub = make_hub(keep=40)

    def happen() -> None:
        append(store, 150)
        wait_for(lambda: len(store.events.after(0, limit=1000)) == 40, what="the log to be pruned")

    while_listening(hub, happen) if listening else happen()

    assert store.events.after(0, limit=1000)[0].seq == 111


@pytest.mark.parametrize("listening", [True, False])
def test_ends_of_runs_are_counted_by_state_whether_or_not_somebody_listens(
    store: SqliteStore, make_hub: Callable[..., EventHub], *, listening: bool
) -> None:
    hub = make_hub()

    def happen() -> None:
        append(store, 2, kind="run", status="completed")
        append(store, 1, kind="run", status="failed")
        append(store, 5, kind="task", status="completed")
        append(store, 1, kind="run", status="running")
        wait_for(lambda: hub.last_seq == 9, what="the hub to read on")

    while_listening(hub, happen) if listening else happen()

    assert hub.finished == {"completed": 2, "failed": 1}


def test_an_event_that_cannot_be_read_is_left_out_and_the_rest_goes_on(
    store: SqliteStore, make_hub: Callable[..., EventHub]
) -> None:
    hub = make_hub()
    with store.transaction():
        store.events.append(EventRecord(kind="task", at_us=0, status="running") for _ in range(3))
        store._db.write("UPDATE events SET data = '{' WHERE seq = 2")
    while_listening(hub, lambda: wait_for(lambda: hub.last_seq == 3, what="the hub to read on"))

    assert [event.seq for event in hub.after(0) or ()] == [1, 3]


def test_closing_wakes_every_subscriber(make_hub: Callable[..., EventHub]) -> None:
    hub = make_hub()

    async def listen() -> bool:
        with hub.subscribe() as bell:
            waiting = asyncio.create_task(bell.heard(timeout_s=10))
            await asyncio.to_thread(hub.close)
            return await waiting and hub.closed

    assert asyncio.run(listen())
