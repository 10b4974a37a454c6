"""Whom the supervisor asks to go when there is no room for one more worker, and whom it brings back."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cis.engine.times import Instant
from cis.model.scope import Scope, ScopeType
from cis.store import open_store
from cis.store.records import QueueState, WorkerRecord, WorkerState
from cis.store.sqlite.store import SqliteStore
from cis.worker import supervisor as supervising
from cis.worker.bell import FifoBell, bell_path
from cis.worker.process import Reporter
from cis.worker.supervisor import Supervisor, SupervisorParts
from tests.worlds.deciding import SECOND_US, START_US
from tests.worlds.descriptors import no_descriptors
from tests.worlds.migrated import new_database
from tests.worlds.rows import item, put_run
from tests.worlds.waiting import wait_for

NODE = "n"
SCOPES = {name: Scope(ScopeType.PROJECT, name) for name in "abc"}


@dataclass(slots=True)
class Scene:
    """A supervisor that may have two workers; each is a process that sleeps, and the test speaks for it."""

    store: SqliteStore
    bell: FifoBell
    run_dir: Path
    mono_s: float = 1000.0
    set_s: float = 0.0  # what the wall clock was set ahead
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    reporters: dict[str, Reporter] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    supervisor: Supervisor = field(init=False)

    def __post_init__(self) -> None:
        self.supervisor = Supervisor(
            SupervisorParts(
                store=self.store,
                node_id=NODE,
                run_dir=self.run_dir,
                bell=self.bell,
                spawn=self._spawn,
                kill_orphans=lambda _: (),
                kill_process=lambda _pid, _started: True,
                clock=lambda: Instant(self.wall_us, self.mono_s),
                retire_signal=signal.SIGTERM,
                dismiss_signal=signal.SIGTERM,
                max_workers=2,
                lease_s=15.0,
                told=lambda: None,
                reap=lambda _: None,
                holds=self.held.__contains__,
            )
        )

    @property
    def wall_us(self) -> int:
        """What the wall clock says."""
        return START_US + round((self.mono_s - 1000.0 + self.set_s) * SECOND_US)

    def park(self, name: str, *, for_s: float) -> None:
        """Have a run of a scope wait that is due in a while, and has no worker."""
        worker_id = SCOPES[name].worker_id
        put_run(self.store, f"r-{name}")
        with self.store.transaction():
            self.store.queue.add(NODE, item(f"r-{name}", worker_id=worker_id))
            self.store.queue.claim(NODE, worker_id, epoch=1, limit=1)
            self.store.queue.move(
                f"r-{name}",
                QueueState.PARKED,
                only=QueueState.CLAIMED,
                due_at_us=self.wall_us + round(for_s * SECOND_US),
            )

    def want(self, name: str) -> None:
        """Have a run of a scope wait, and the supervisor look, a second later."""
        scope = SCOPES[name]
        put_run(self.store, f"r-{name}")
        with self.store.transaction():
            self.store.queue.add(NODE, item(f"r-{name}", worker_id=scope.worker_id))
        self.bell.ring()
        self.turn()

    def turn(self) -> None:
        """Let a second pass, and have the supervisor look."""
        self.mono_s += 1.0
        self.supervisor.turn(at_most_s=0.1)

    def rest(self, name: str) -> None:
        """Have a worker take its run, end it, and be idle."""
        scope = SCOPES[name]
        with self.store.transaction():
            self.store.queue.remove(f"r-{name}")
            self.store.workers.take(
                WorkerRecord(
                    worker_id=scope.worker_id,
                    node_id=NODE,
                    scope=scope,
                    status=WorkerState.IDLE,
                    pid=self.processes[name].pid,
                    pid_started="s",
                    epoch=0,
                    slots=1,
                    started_at_us=START_US,
                    heartbeat_at_us=START_US,
                    lease_until_us=START_US + 10**9,
                )
            )
        self.reporters[name].say(Reporter.READY)
        self.turn()

    def _spawn(self, _worker_id: str, scope: Scope, report_fd: int) -> subprocess.Popen[bytes]:
        self.reporters[scope.id] = Reporter(os.dup(report_fd))
        process = self.processes[scope.id] = subprocess.Popen(["sleep", "60"])
        return process


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """No worker lives yet."""
    store, bell = open_store(new_database(tmp_path)), FifoBell(bell_path(tmp_path, "node"))
    scene = Scene(store, bell, tmp_path)
    yield scene
    for process in scene.processes.values():
        process.kill()
        process.wait()
    bell.close()
    store.close()


@pytest.mark.parametrize(("worked_last", "goes"), [("a", "b"), ("b", "a")])
def test_when_there_is_no_room_the_idle_worker_goes_that_stored_something_longest_ago(
    scene: Scene, worked_last: str, goes: str
) -> None:
    """A worker that is rung by others than the supervisor is used all the same."""
    for name in "ab":
        scene.want(name)
        scene.rest(name)
    scene.reporters[worked_last].say(Reporter.STORED)
    scene.turn()
    scene.want("c")

    gone = scene.processes[goes]
    wait_for(lambda: gone.poll() is not None, what=f"the end of {goes}")
    assert scene.processes[worked_last].poll() is None


def test_a_worker_that_closes_its_pipe_and_does_not_end_takes_the_supervisor_not_down(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "REAP_S", 0.05)
    for name in "ab":
        scene.want(name)
    pipe = scene.reporters["a"]._descriptor
    assert pipe is not None
    os.close(pipe)
    scene.turn()

    assert [child.worker_id for child in scene.supervisor.children] == [SCOPES["b"].worker_id]
    assert scene.processes["a"].poll() is None


def test_a_worker_that_has_to_wait_for_a_word_is_not_started_until_it_need_not(scene: Scene) -> None:
    scene.held.add(SCOPES["a"].worker_id)
    scene.want("a")
    scene.want("b")
    before = set(scene.processes)
    scene.held.clear()
    scene.turn()

    assert (before, set(scene.processes)) == ({"b"}, {"a", "b"})


def test_a_supervisor_without_descriptors_goes_on_and_says_what_is_short(scene: Scene) -> None:
    scene.want("a")
    with no_descriptors():
        scene.want("b")
    early = len(list(scene.supervisor.children))
    (short,) = [row for row in scene.store.workers.all() if row.short_of is not None]
    for _ in range(10):
        scene.turn()

    assert early == 1
    assert short.worker_id == SCOPES["b"].worker_id
    assert "too many open files" in (short.short_of or "")
    assert len(list(scene.supervisor.children)) == 2


def test_a_scope_whose_runs_were_parked_gets_a_worker_when_one_of_them_is_due_and_not_before(scene: Scene) -> None:
    scene.park("a", for_s=3.5)
    scene.turn()
    scene.turn()
    early = list(scene.processes)
    scene.turn()
    scene.turn()

    assert early == []
    assert list(scene.processes) == ["a"]


def test_what_is_parked_is_looked_at_anew_when_the_clock_was_set_back(scene: Scene) -> None:
    """Else it would wait for as long as the clock was set back, and what it waits for besides."""
    scene.park("a", for_s=3600.0)
    scene.turn()
    early = list(scene.processes)
    scene.set_s = -86_400.0
    scene.turn()

    assert early == []
    assert list(scene.processes) == ["a"]
