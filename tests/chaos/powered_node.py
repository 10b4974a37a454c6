"""The work that a power cut interrupts: this node's own code over one database, with tasks that end at once.

Submissions and cancels go through the node's writer, runs through the loops of two workers, all in an order that a seed
decides, and on a clock of its own. Whatever the outside can know is noted as *acknowledged* at that very moment: a run
that was answered, a task whose process was started. Between, the log is checkpointed, the database backed up,
closed and opened again.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

import apsw

from cis.engine.accept.control import cancel
from cis.engine.accept.submit import SubmitRequest, submit
from cis.engine.logfiles import LogFiles
from cis.engine.ports import Exit, Fate, Launch, ProcessId, TakenUp
from cis.engine.run.attempts import AttemptMaker
from cis.engine.run.loop import WorkerLoop
from cis.engine.run.parts import LoopLimits, WorkerPorts
from cis.engine.this_node import Incarnation, ThisNode
from cis.engine.times import Instant
from cis.errors import IllegalStateError
from cis.model.dag import DagSpec, Json
from cis.model.document import dag_from_plain
from cis.model.scope import GLOBAL, Scope, ScopeType
from cis.node.store_threads import Writer
from cis.skills.registry import InstalledSkills
from cis.store import open_store
from cis.store.port import Store
from cis.store.records import RunFilter, WorkerRecord, WorkerState
from cis.store.sqlite.connection import translated
from cis.store.sqlite.store import SqliteStore

START_US = 1_700_000_000_000_000
NODE = "node-1"
SCOPES = (GLOBAL, Scope(ScopeType.PROJECT, "proj-a"))
SKILLS = InstalledSkills()
Attempt = tuple[str, str, int]
Acknowledged = str | Attempt  # a run that was answered, or an attempt whose process was started


class Clock:
    """Time that passes when somebody waits, and a little whenever it is read."""

    def __init__(self, start_us: int = START_US) -> None:
        self._us = start_us

    def __call__(self) -> Instant:
        self._us += 7
        return Instant(self._us, (self._us - START_US) / 1e6 + 1.0)

    def wall_us(self) -> int:
        return self().wall_us

    def pass_s(self, seconds: float) -> None:
        self._us += round(seconds * 1e6)


class EndingTasks:
    """An ``Executor`` whose processes end when a seed says so, with the status that their command names."""

    def __init__(self, random: Random, clock: Clock, *, started: Callable[[Attempt], None]) -> None:
        self._random = random
        self._clock = clock
        self._started = started
        self._running: dict[str, Exit] = {}

    def start(self, launch: Launch) -> str:
        env, handle = launch.env, launch.handle
        self._started((env["CIS_RUN_ID"], env["CIS_TASK_ID"], int(env["CIS_ATTEMPT"])))
        fails = launch.argv[-1] == "exit 1" or (launch.argv[-1] == "flaky" and env["CIS_ATTEMPT"] == "1")
        self._running[handle] = Exit(handle=handle, exit_code=int(fails), stdout_tail="said\n", stdout_bytes=5)
        return handle

    def foresee(self, launch: Launch) -> None:
        """Have nothing ready: nothing takes time here."""

    def shortage(self) -> str | None:
        return None

    def identity(self, handle: str) -> ProcessId:
        return ProcessId(1000, f"started-{handle}")

    def take_up(self, handle: str, *, marks: Mapping[str, str]) -> TakenUp:  # noqa: ARG002 - the port's names
        """Nothing outlives its worker here."""
        return TakenUp(Fate.GONE)

    def let_go(self, handle: str) -> bool:  # noqa: ARG002 - the port's name
        return False

    def forget(self, handle: str) -> None:
        """Nothing is kept here."""

    def wait(self, timeout_s: float) -> Sequence[Exit]:
        ended = [handle for handle in self._running if self._random.random() < 0.6]
        if not ended:
            self._clock.pass_s(timeout_s + 0.001)
        return [self._running.pop(handle) for handle in ended]

    def end(self, handle: str, *, force: bool) -> None:  # noqa: ARG002 - the port's name
        if handle in self._running:
            self._running[handle] = Exit(handle=handle, exit_code=-15)

    def close(self) -> None:
        self._running.clear()


class NoBell:
    """A bell that nobody rings: the loop looks around by itself."""

    def was_rung(self) -> bool:
        return False


class PoweredNode:
    """A node over the database in *folder*, one step after the other."""

    def __init__(
        self,
        folder: Path,
        random: Random,
        *,
        acknowledged: Callable[[Acknowledged], None],
        start_us: int = START_US,
        pragma: str = "",
    ) -> None:
        self._folder = folder
        self._random = random
        self._acknowledged = acknowledged
        self._pragma = pragma
        self.clock = Clock(start_us)
        self._ids = itertools.count(1)
        self._open()

    @property
    def this_node(self) -> ThisNode:
        return ThisNode(
            node_id=NODE,
            skills=SKILLS,
            clock_us=self.clock.wall_us,
            uptime_us=self.clock.wall_us,
            new_id=lambda: f"run-{self._random.randbytes(2).hex()}-{next(self._ids):04}",
        )

    def store(self) -> SqliteStore:
        """Open the database once more."""
        store = open_store(self._folder / "cis.db")
        if self._pragma:
            store._db.connection.execute(self._pragma)
        return store

    def submit(self, documents: Sequence[dict[str, Json]]) -> None:
        """Hand in DAGs at once: the writer groups what waits. Raises StoreError when one is refused."""
        with self._held_writer():
            futures = [self._hand_in(DagSpec.from_dict(document)) for document in documents]
        for future in futures:
            future.exception()  # all are answered before the next step
        for future in futures:
            future.result()

    @contextmanager
    def _held_writer(self) -> Iterator[None]:
        """Keep the writer busy in the block, so that all that is handed in there is one group, every time."""
        entered, go = threading.Event(), threading.Event()

        def hold(_: Store) -> None:
            entered.set()
            go.wait()

        held = self._writer.submit(hold)
        held.add_done_callback(lambda _: entered.set())
        entered.wait()
        try:
            yield
        finally:
            go.set()

    def _hand_in(self, spec: DagSpec) -> Future[str]:
        future = self._writer.submit(
            lambda store: submit(store, SubmitRequest(spec=spec), this_node=self.this_node).run.run_id
        )
        future.add_done_callback(self._answered)
        return future

    def _answered(self, done: Future[str]) -> None:
        if done.exception() is None:
            self._acknowledged(done.result())

    def cancel_one(self) -> None:
        """Cancel a run that is not over, if there is one."""

        def job(store: Store) -> None:
            found = store.runs.page(RunFilter(), limit=3).items
            if found:
                cancel(store, self._random.choice(found).run_id, now_us=self.clock.wall_us())

        with suppress(IllegalStateError):  # it was over
            self._writer.submit(job).result()

    def turn(self) -> None:
        """Let one of the workers do a turn, or all."""
        for loop in self._loops if self._random.random() < 0.3 else [self._random.choice(self._loops)]:
            loop.turn(at_most_s=0.2)

    def checkpoint(self) -> None:
        """Bring the log into the database, as SQLite does by itself when it is long."""
        modes = (apsw.SQLITE_CHECKPOINT_PASSIVE, apsw.SQLITE_CHECKPOINT_RESTART, apsw.SQLITE_CHECKPOINT_TRUNCATE)
        with translated(self._folder):
            self._stores[0]._db.connection.wal_checkpoint(mode=self._random.choice(modes))

    def reopen(self) -> None:
        """Close everything, which empties the log and deletes it, and begin again with the next epoch."""
        self.close()
        self._open()

    def finish(self, *, turns: int = 3000) -> None:
        """Go on until every run is over."""
        for _ in range(turns):
            self.turn()
            if not self._stores[0].runs.unfinished_counts():
                return
        raise AssertionError(f"not over after {turns} turns: {self._stores[0].runs.unfinished_counts()}")

    def close(self) -> None:
        """Close the writer and all stores, as a process that ends."""
        self._writer.close()
        for store in self._stores:
            store.close()

    def _open(self) -> None:
        self._writer = Writer(self.store)
        self._stores = [self.store() for _ in SCOPES]
        self._loops = [self._loop(store, scope) for store, scope in zip(self._stores, SCOPES, strict=True)]

    def _loop(self, store: SqliteStore, scope: Scope) -> WorkerLoop:
        now_us = self.clock.wall_us()
        with store.transaction():
            worker = store.workers.take(
                WorkerRecord(
                    worker_id=scope.worker_id,
                    node_id=NODE,
                    scope=scope,
                    status=WorkerState.IDLE,
                    pid=1,
                    pid_started=None,
                    epoch=0,
                    slots=3,
                    started_at_us=now_us,
                    heartbeat_at_us=now_us,
                    lease_until_us=now_us + 15_000_000,
                )
            )
        maker = AttemptMaker(
            skills=SKILLS,
            logfiles=LogFiles(self._folder / "logs"),
            base_env={},
            node_id=NODE,
            worker_id=scope.worker_id,
            workdir=self._folder,
        )
        parts = WorkerPorts(
            store=store,
            executor=EndingTasks(self._random, self.clock, started=self._acknowledged),
            maker=maker,
            this_node=self.this_node,
            bell=NoBell(),
            ring=lambda _: None,
            tell=lambda: None,
            clock=self.clock,
            jitter=lambda: 0.5,
            parse=dag_from_plain,
        )
        return WorkerLoop(
            parts, LoopLimits(slots=3, grace_s=1.0, lease_s=15.0), Incarnation(NODE, scope.worker_id, worker.epoch)
        )


def some_dag(random: Random) -> dict[str, Json]:
    """Return a DAG of up to five tasks: some depend on others, some fail, some at first only."""
    tasks: list[Json] = []
    for number in range(random.randint(1, 5)):
        task: dict[str, Json] = {"id": f"t{number}", "command": random.choice(["true", "true", "flaky", "exit 1"])}
        if task["command"] == "flaky":
            task |= {"max_retries": 2, "retry_delay": 0.1}
        if number and random.random() < 0.6:
            task["depends_on"] = [f"t{random.randrange(number)}"]
        tasks.append(task)
    name = random.choice(["build", "proj-a-build"])
    return {"dag_id": name, "description": "x" * random.choice([0, 0, 9000]), "tasks": tasks}


def work(node: PoweredNode, random: Random, *, steps: int) -> Iterator[None]:
    """Do a seed's work, step by step."""
    for _ in range(steps):
        match random.choices(["turn", "submit", "cancel", "checkpoint", "reopen"], [16, 3, 1, 1.0, 0.3])[0]:
            case "submit":
                node.submit([some_dag(random) for _ in range(random.randint(1, 4))])
            case "cancel":
                node.cancel_one()
            case "checkpoint":
                node.checkpoint()
            case "reopen":
                node.reopen()
            case _:
                node.turn()
        yield
