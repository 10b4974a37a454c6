"""The reporter, beside a store that cannot be read for a moment: what was not told is told later."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from cis.errors import OverloadedError
from cis.federation.executing.first_word import FirstWord
from cis.federation.executing.reporter import Reporter
from cis.federation.messages import Receive
from cis.federation.service import NodePort, Sending
from cis.model.message import Message
from cis.model.states import RunState
from cis.store.cluster import PeerRecord, RemoteRole, RemoteRun
from cis.store.port import Store
from cis.store.records import RunRecord
from tests.worlds.serving import NodeUnderTest

T = TypeVar("T")
PEER = PeerRecord(node_id="node-2", public_key="", may=("execute",), trusted_at_us=1, matrix_user="@node-2:test")


class FailingHandle:
    """The handle of a node, whose next readings fail where a test says so."""

    def __init__(self, node: NodeUnderTest) -> None:
        self.this_node, self.logs, self.write = node.this_node, node.logfiles, node.services.write
        self.to_fail = 0
        self.failed = 0
        self.first_read = asyncio.Event()
        self._read = node.services.read

    async def read(self, function: Callable[[Store], T]) -> T:
        """Call *function* with a store, unless this is to fail."""
        if self.failed < self.to_fail:
            self.failed += 1
            raise OverloadedError("as the test has it", retry_after_s=1)
        found = await self._read(function)
        self.first_read.set()
        return found


class Telling:
    """A reporter at work, and what it tells."""

    def __init__(self, node: NodeUnderTest) -> None:
        self.handle = FailingHandle(node)
        self.reporter = Reporter(
            cast(NodePort, self.handle),
            cast(Sending, None),
            jitter=lambda: 0.0,
            receive=cast(Receive, None),
            first_word=FirstWord(node.store, clock_s=time.monotonic),
        )
        self.reporter.to_room = self._tell
        self._told: asyncio.Queue[Message] = asyncio.Queue()
        self._running = asyncio.create_task(self.reporter.run())

    async def _tell(self, message: Message, _: RemoteRun) -> bool:
        self._told.put_nowait(message)
        return True

    async def told(self, status: str | None = None) -> None:
        """Wait until a report comes, one with a task in that state if one is named."""
        async with asyncio.timeout(10):
            while True:
                report: Any = (await self._told.get()).fields["report"]
                if status is None or status in {task["status"] for task in report["tasks"]}:
                    return

    async def stop(self) -> None:
        """End the reporter."""
        self._running.cancel()
        with suppress(asyncio.CancelledError):
            await self._running


def received(node: NodeUnderTest, run: RunRecord) -> None:
    """Have a run be one that node-2 handed over."""
    with node.store.transaction():
        node.store.peers.put(PEER)
        node.store.remotes.put(RemoteRun(run_id=run.run_id, role=RemoteRole.RECEIVED, peer_id=PEER.node_id))


def test_what_happens_while_the_store_cannot_be_read_is_told_afterwards(node: NodeUnderTest) -> None:
    run = node.changed(node.submitted({"id": "a"}, {"id": "b"}), RunState.RUNNING)
    received(node, run)

    async def report() -> None:
        telling = Telling(node)
        await telling.told()
        telling.handle.to_fail = 1
        node.ended(run, node.started(run, "a"))
        telling.reporter.wake()
        await telling.told("completed")
        assert telling.handle.failed == 1
        await telling.stop()

    asyncio.run(report())


def test_a_run_that_comes_while_the_store_cannot_be_read_is_told_of_afterwards(node: NodeUnderTest) -> None:
    run = node.changed(node.submitted({"id": "a"}), RunState.RUNNING)

    async def report() -> None:
        telling = Telling(node)
        await telling.handle.first_read.wait()
        received(node, run)
        telling.handle.to_fail = 1
        telling.reporter.add(run.run_id)
        await telling.told()
        assert telling.handle.failed == 1
        await telling.stop()

    asyncio.run(report())


def test_a_run_that_is_asked_for_while_the_store_cannot_be_read_is_told_from_its_beginning(node: NodeUnderTest) -> None:
    run = node.changed(node.submitted({"id": "a"}, {"id": "b"}), RunState.RUNNING)
    node.ended(run, node.started(run, "a"))
    received(node, run)

    async def report() -> None:
        telling = Telling(node)
        await telling.told("completed")
        telling.handle.to_fail = 1
        telling.reporter.add(run.run_id)
        await telling.told("completed")
        assert telling.handle.failed == 1
        await telling.stop()

    asyncio.run(report())


def test_a_run_whose_row_is_damaged_holds_up_no_other(node: NodeUnderTest, tmp_path: Path) -> None:
    damaged, sound = (node.changed(node.submitted({"id": "a"}), RunState.RUNNING) for _ in range(2))

    async def report() -> None:
        telling = Telling(node)
        await telling.handle.first_read.wait()
        for run in (damaged, sound):
            received(node, run)
        with closing(sqlite3.connect(tmp_path / "cis.db")) as database, database:
            database.execute(
                "UPDATE remote_runs SET event_id = CAST(x'ff' AS TEXT) WHERE run_id = ?", (damaged.run_id,)
            )
        for run in (damaged, sound):
            telling.reporter.add(run.run_id)
        await telling.told()
        await telling.stop()

    asyncio.run(report())
