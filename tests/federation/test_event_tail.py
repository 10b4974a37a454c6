"""The tail of the event log: each event once, in order; what is passed over costs no look."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from cis.federation.service import EventTail, NodePort
from cis.store import open_store
from cis.store.port import Store
from cis.store.records import EventRecord
from cis.store.sqlite.store import SqliteStore
from tests.worlds.migrated import new_database


class ReadingHandle:
    """Reads at once, and counts how often."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.reads = 0

    async def read(self, function: Callable[[Store], Any]) -> Any:
        """Call *function* with the store."""
        self.reads += 1
        return function(self._store)


def happen(store: SqliteStore, *run_ids: str) -> None:
    """Append an event for each."""
    with store.transaction():
        store.events.append([EventRecord("run", 0, "pending", run_id=run_id) for run_id in run_ids])


async def seen(tail: EventTail) -> list[str | None]:
    """Return the runs of the events that are new."""
    return [event.run_id async for _, events in tail.new() for event in events]


def test_each_event_is_given_once_and_what_was_forgotten_never(tmp_path: Path) -> None:
    store = open_store(new_database(tmp_path))
    handle = ReadingHandle(store)
    tail = EventTail(cast(NodePort, handle))

    async def follow() -> None:
        happen(store, "before")
        assert await seen(tail) == []
        happen(store, "a", "b")
        assert await seen(tail) == ["a", "b"]
        assert await seen(tail) == []
        reads = handle.reads
        tail.forget()
        happen(store, "meanwhile")
        tail.forget()
        assert handle.reads == reads
        assert await seen(tail) == []
        happen(store, "c")
        assert await seen(tail) == ["c"]

    asyncio.run(follow())
    store.close()
