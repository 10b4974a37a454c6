"""The moment that a caller waits for a run to reach another node; after that it waits no longer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from cis.errors import CisError
from cis.node.cluster import Cluster
from cis.store.cluster import OutboxItem, Route
from cis.store.port import Store
from cis.store.records import Delivery, RunRecord

log = logging.getLogger(__name__)

PATIENCE_S = 1.0


class ReadRun(Protocol):
    """Reads the store in a thread."""

    async def __call__(self, function: Callable[[Store], RunRecord | None], /) -> RunRecord | None: ...


class Delivering:
    """Sends what has just been accepted, and tells how far it came within ``PATIENCE_S``."""

    def __init__(self, cluster: Cluster, *, read: ReadRun) -> None:
        self._cluster = cluster
        self._read = read

    async def expedite(self, run: RunRecord) -> RunRecord:
        """Return the run once its peer has answered, or when the patience is over."""
        if run.delivery is not Delivery.QUEUED:
            return run
        items: list[OutboxItem] = []

        def look(store: Store) -> RunRecord | None:
            items.extend(item for item in store.outbox_of_run(run.run_id) if item.route is Route.PUSH)
            return store.run(run.run_id)

        try:
            fresh = await self._read(look)
            sending = [item for item in items if item.uncertain and item.attempts == 1]
            if fresh is None or not sending:
                return fresh or run
            # It goes on when the patience is over: only the caller's wait ends.
            done, _ = await asyncio.wait([asyncio.wrap_future(self._cluster.expedite(sending[0]))], timeout=PATIENCE_S)
            for sent in done:
                sent.result()
        except CisError as error:
            log.warning("a run could not be sent at once", extra={"run_id": run.run_id, "error": str(error)})
        try:
            return await self._read(lambda store: store.run(run.run_id)) or run
        except CisError:
            return run
