"""A worker's whole loop over a real store, with processes that are real and a clock that a test sets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cis.engine.run.attempts import AttemptMaker
from cis.engine.run.loop import RETRY_STORE_S, WorkerLoop
from cis.engine.run.parts import LoopLimits, WorkerPorts
from cis.engine.run.task_places import NoBound, Places
from cis.engine.this_node import Incarnation
from cis.engine.times import Instant
from cis.errors import StoreError
from cis.executors.attempt_folder import DROP, AttemptFolders
from cis.executors.local import LocalExecutor
from cis.model.document import dag_from_plain
from cis.model.scope import GLOBAL
from cis.model.states import AttemptState
from cis.store.records import QueueState, TaskRecord, WorkerRecord, WorkerState
from cis.store.sqlite.connection import Database
from cis.store.sqlite.store import SqliteStore
from cis.worker.bell import FifoBell
from tests.worlds.deciding import SECOND_US, START_US, Decider
from tests.worlds.rows import attempts_of
from tests.worlds.waiting import wait_for


class MoodyStore(SqliteStore):
    """A store whose transactions fail while it is *broken*, as they do on a full disk, or at their very end, if *late*."""

    broken = False
    late = False

    def transaction(self, *, wait: bool = True) -> AbstractContextManager[None]:
        if self.broken and not self.late:
            raise StoreError("disk I/O error")
        return self._lost() if self.broken else super().transaction(wait=wait)

    @contextmanager
    def _lost(self) -> Iterator[None]:
        with super().transaction():
            yield
            raise StoreError("disk I/O error")


@dataclass(slots=True)
class Worker:
    """The worker of the global scope on node-1, turn by turn; each turn looks around."""

    node: Decider
    store: MoodyStore
    loop: WorkerLoop
    bell: FifoBell

    @property
    def pids(self) -> list[int]:
        """Return the processes that run, but for those of lasting attempts."""
        executor = self.loop._parts.executor
        assert isinstance(executor, LocalExecutor)
        return [
            executor._pids.get(handle, 0)
            for handle, live in self.loop._held.live._by_handle.items()
            if not live.lasting
        ]

    @property
    def handles(self) -> list[str]:
        """Return the attempts that run, by the executor's names for them."""
        return list(self.loop._held.live._by_handle)

    def turn(self) -> None:
        self.bell.ring()
        self.loop.turn(at_most_s=0.02)

    def see_all_end(self) -> None:
        """Wait for all processes to end, and take that in without a turn."""
        pids = self.pids
        wait_for(lambda: all(map(ended, pids)), what="the processes to end")
        self.loop.attend(at_most_s=0.0)

    def forget_plans(self) -> None:
        """Have a transaction fail, so that the next turn reads all rows anew."""
        self.store.broken = True
        self.turn()
        self.store.broken = False
        self.node.later(RETRY_STORE_S)

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Turn until *condition*."""

        def look() -> object:
            self.turn()
            return condition()

        wait_for(look, what=what)

    def task(self, run_id: str, task_id: str = "t0") -> TaskRecord:
        found = self.store.tasks.get(run_id, task_id)
        assert found is not None
        return found

    def queued(self, run_id: str) -> QueueState | None:
        """Return how a run stands in the queue."""
        item = self.store.queue.get(run_id)
        return None if item is None else item.status

    def attempts(self, run_id: str) -> list[tuple[int, AttemptState]]:
        return [(one.attempt, one.status) for one in attempts_of(self.store, run_id)]

    def child(self, run_id: str) -> str:
        """Return the id of the one run that is a task of a run."""
        (child,) = self.store.runs.children(run_id)
        return child.run_id


@contextmanager
def working(
    node: Decider,
    folder: Path,
    *,
    lease_s: float = 300.0,
    clock: Callable[[], Instant] | None = None,
    places: Places | None = None,
) -> Iterator[Worker]:
    """Let a worker serve node-1; it needs 10 s to end tasks, so 13 s before a grant's lease is over it begins to.

    *lease_s* is its own lease; without *clock* its two clocks go as the node's does.
    """
    store = MoodyStore(Database(node.store.path))
    attempts = AttemptFolders(folder / "attempts")
    bell = FifoBell(folder / "bell")
    executor = LocalExecutor(max_log_bytes=2**20, attempts=attempts.root, wake_up=bell)
    row = WorkerRecord(
        worker_id=GLOBAL.worker_id,
        node_id="node-1",
        scope=GLOBAL,
        status=WorkerState.IDLE,
        pid=os.getpid(),
        pid_started=None,
        epoch=0,
        slots=4,
        started_at_us=node.now_us,
        heartbeat_at_us=node.now_us,
        lease_until_us=node.now_us,
    )
    with store.transaction():
        epoch = store.workers.take(row).epoch
    parts = WorkerPorts(
        store=store,
        executor=executor,
        maker=AttemptMaker(
            skills=node.this_node.skills,
            logfiles=node.logfiles,
            base_env={"PATH": os.environ["PATH"]},
            node_id="node-1",
            worker_id=GLOBAL.worker_id,
            workdir=folder,
        ),
        this_node=node.this_node,
        bell=bell,
        ring=lambda _: None,
        tell=lambda: None,
        clock=clock or (lambda: Instant(node.now_us, 1000.0 + (node.now_us - START_US) / SECOND_US)),
        jitter=lambda: 0.0,
        parse=dag_from_plain,
        places=places or NoBound(),
    )
    loop = WorkerLoop(
        parts, LoopLimits(slots=4, grace_s=10.0, lease_s=lease_s), Incarnation("node-1", GLOBAL.worker_id, epoch)
    )
    worker = Worker(node, store, loop, bell)
    try:
        yield worker
    finally:
        loop.kill()
        pids = worker.pids
        wait_for(lambda: all(map(ended, pids)), what="the processes to be gone")
        executor.close()
        bell.close()
        store.close()


def end_lasting(folder: Path) -> None:
    """End the attempts that go on without a worker of this folder."""
    folders = AttemptFolders(folder / "attempts")
    for handle in folders.handles():
        folders.order(handle, DROP)
    wait_for(lambda: not any(map(folders.lives, folders.handles())), what="nothing to go on")


def ended(pid: int) -> bool:
    """Whether a process is over; it is left for its worker to find."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def watch(monkeypatch: pytest.MonkeyPatch, seen: list[str], kind: type, name: str, word: str) -> None:
    """Have a method say *word* whenever it is called."""
    usual = getattr(kind, name)

    def method(self: Any, *args: Any, **named: Any) -> Any:
        seen.append(word)
        return usual(self, *args, **named)

    monkeypatch.setattr(kind, name, method)
