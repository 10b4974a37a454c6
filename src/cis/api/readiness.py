"""Whether a node can take DAGs: what ``/ready`` says, found out by doing it.

Nobody may be submitting while the disk fills up or turns read-only, so the answer comes from a write of its own through
the node's writer, one that changes nothing and is on disk when it returns. It also needs room on the disk, since tasks
write their logs there; and a sound file: now and then SQLite looks at every page, in the background, and no more
than a hundredth of the time. Anybody may ask, so one answer holds for half a second.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from cis.api.ports import NodeServices
from cis.errors import CisError
from cis.store.port import Store

READY_WITHIN_S = 2.0
HOLDS_S = 0.5
MIN_FREE_BYTES = 4 * 2**20
CHECK_EVERY_S = 10.0
CHECK_SHARE = 100


class Readiness:
    """Asks one node, and remembers for a moment. For one event loop."""

    def __init__(self, services: NodeServices, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._services = services
        self._clock_s = clock_s
        self._asking = asyncio.Lock()
        self._why_not: str | None = None
        self._holds_until_s = 0.0
        self._damage: str | None = None
        self._check: asyncio.Task[None] | None = None
        self._check_due_s = 0.0

    async def why_not(self) -> str | None:
        """Return why this node takes no DAGs now, or None when it does."""
        if not self._services.alive or self._services.hub.closed:
            return "this node is stopping, or its writer has ended"
        self._check_if_due()
        async with self._asking:
            if self._clock_s() >= self._holds_until_s:
                self._why_not = await self._ask()
                self._holds_until_s = self._clock_s() + HOLDS_S
        return self._why_not or self._damage

    async def _ask(self) -> str | None:
        folder = self._services.logfiles.root.parent
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                free = await self._services.read(lambda store: _look(store, self._services.node_id, folder))
                await self._services.write(lambda store: store.write_nothing())
        except TimeoutError:
            return f"the store did not answer within {READY_WITHIN_S:g} s"
        except CisError as error:
            return f"the store cannot be used: {error}"
        except OSError as error:
            return f"{folder} cannot be looked at: {error.strerror}"
        if free < MIN_FREE_BYTES:
            return f"the disk of {folder} is full: {free // 1024} KiB are left; make room and it goes on by itself"
        return None

    def _check_if_due(self) -> None:
        if self._clock_s() < self._check_due_s or (self._check is not None and not self._check.done()):
            return
        self._check = asyncio.create_task(self._look_for_damage())

    async def _look_for_damage(self) -> None:
        began_s = self._clock_s()
        try:
            self._damage = await self._services.read(lambda store: store.first_damage())
        except CisError:
            return  # whoever reads and writes the store says so, too
        finally:
            ended_s = self._clock_s()
            self._check_due_s = ended_s + max(CHECK_EVERY_S, CHECK_SHARE * (ended_s - began_s))


def _look(store: Store, node_id: str, folder: Path) -> int:
    """Read what the machinery reads all the time, and return how many bytes are free for this user."""
    store.check_current()
    store.last_event_seq()
    store.queue_demand(node_id)
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize
