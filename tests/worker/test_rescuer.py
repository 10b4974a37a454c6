"""Who hangs is fenced, killed and buried; who only seems to is left alone."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cis.engine.ports import Orphan
from cis.engine.times import Instant
from cis.errors import FencedError
from cis.executors.platform import process_started
from cis.model.scope import GLOBAL
from cis.store import open_store
from cis.store.records import Heartbeat, QueueDemand, WorkerRecord, WorkerState
from cis.store.sql.queue import QueueRows
from cis.store.sqlite.connection import Database
from cis.store.sqlite.store import SqliteStore
from cis.worker.lock import holder_of, worker_lock_path
from cis.worker.rescuer import START_DEADLINE_S, Rescuer, RescuerParts
from tests.worlds.deciding import START_US
from tests.worlds.descriptors import no_descriptors
from tests.worlds.migrated import new_database
from tests.worlds.rows import attempt, put_run
from tests.worlds.waiting import wait_for

NODE, WORKER, LEASE_S = "node-1", GLOBAL.worker_id, 15.0
HOLD = (
    "import os, sys; from pathlib import Path; from cis.executors.platform import process_started;"
    " from cis.worker.lock import acquire;"
    " lock = acquire(Path(sys.argv[1]), what='w', started=process_started(os.getpid()));"
    " print(flush=True); sys.stdin.read()"
)
HOLD_AND_WAIT = HOLD.replace(
    "sys.stdin.read()",
    "from cis.store import open_store; from cis.worker.lock import SignOfLife;"
    " store = open_store(Path(sys.argv[1]).parent / 'cis.db');"
    " store.wait_at_most(60.0, meanwhile=SignOfLife(lock)); sys.stdin.readline();"
    " store.transaction().__enter__(); sys.stdin.read()",
)
HOLD_ALL = HOLD.replace(
    "sys.stdin.read()",
    "sys.stdin.readline(); import apsw; db = apsw.Connection(os.path.dirname(sys.argv[1]) + '/cis.db');"
    " db.execute('BEGIN IMMEDIATE'); print(flush=True); sys.stdin.read()",
)


@dataclass(slots=True)
class Scene:
    """A node's rescuer, a process that holds the worker's lock, and a clock that the test sets."""

    store: SqliteStore
    run_dir: Path
    mono_s: float = 1000.0
    wall_us: int = START_US
    killed: list[int] = field(default_factory=list)
    refuses: bool = False
    short: bool = False
    rescuer: Rescuer = field(init=False)

    def __post_init__(self) -> None:
        parts = RescuerParts(
            store=self.store,
            node_id=NODE,
            run_dir=self.run_dir,
            kill_orphans=self._kill_orphans,
            kill_process=self._kill,
            clock=lambda: Instant(self.wall_us, self.mono_s),
            lease_s=LEASE_S,
        )
        self.rescuer = Rescuer(parts)

    @property
    def row(self) -> WorkerRecord:
        found = self.store.workers.get(NODE, WORKER)
        assert found is not None
        return found

    def serves(self, pid: int) -> WorkerRecord:
        """Take the worker's id for a process."""
        row = WorkerRecord(
            worker_id=WORKER,
            node_id=NODE,
            scope=GLOBAL,
            status=WorkerState.BUSY,
            pid=pid,
            pid_started="s",
            epoch=0,
            slots=1,
            started_at_us=self.wall_us,
            heartbeat_at_us=self.wall_us,
            lease_until_us=self.wall_us + round(LEASE_S * 1e6),
        )
        with self.store.transaction():
            return self.store.workers.take(row)

    def beat(self) -> None:
        """Renew the lease of the worker."""
        row = self.row
        with self.store.transaction():
            self.store.workers.beat(
                Heartbeat(
                    NODE,
                    WORKER,
                    epoch=row.epoch,
                    status=row.status,
                    now_us=self.wall_us,
                    lease_until_us=self.wall_us + round(LEASE_S * 1e6),
                    runs_done=0,
                    current_run=None,
                )
            )

    def look(self, times: int = 1, *, every_s: float = LEASE_S / 3, own: subprocess.Popen[bytes] | None = None) -> None:
        """Let time pass and look, so many times."""
        for _ in range(times):
            self.mono_s += every_s
            self.wall_us += round(every_s * 1e6)
            self.rescuer.look_around({} if own is None else {WORKER: own})

    def _kill_orphans(self, orphans: Sequence[Orphan]) -> Sequence[str]:
        del orphans
        if self.short:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return ()

    def _kill(self, pid: int, started: str) -> bool:
        assert process_started(pid) == started
        self.killed.append(pid)
        if not self.refuses:
            os.kill(pid, 9)
            wait_for(lambda: holder_of(worker_lock_path(self.run_dir, WORKER)) is None, what="the lock to be free")
        return not self.refuses


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    store = open_store(new_database(tmp_path))
    yield Scene(store, tmp_path)
    store.close()


@pytest.fixture
def holding(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that holds the worker's lock, and does nothing more."""
    with hanging(tmp_path, HOLD) as process:
        yield process


@contextmanager
def hanging(folder: Path, script: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that says when it holds what it is to hold."""
    arguments = [sys.executable, "-c", script, str(worker_lock_path(folder, WORKER))]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_a_worker_that_holds_its_lock_but_renews_no_lease_is_fenced_killed_and_buried(
    scene: Scene, holding: subprocess.Popen[bytes]
) -> None:
    scene.serves(holding.pid)
    scene.look(3)
    before = (scene.row.status, scene.row.epoch, list(scene.killed))
    scene.look()
    after = scene.row

    assert before == (WorkerState.BUSY, 1, [])
    assert scene.killed == [holding.pid]
    assert (after.status, after.epoch) == (WorkerState.DEAD, 2)
    with pytest.raises(FencedError):
        scene.store.workers.check_epoch(NODE, WORKER, 1)
    scene.look(10)
    assert scene.killed == [holding.pid]


def test_a_worker_that_waits_for_the_write_lock_gives_signs_of_life_and_is_left_alone(
    scene: Scene, tmp_path: Path
) -> None:
    path = worker_lock_path(tmp_path, WORKER)

    def touched_ns() -> int:
        found = holder_of(path)
        assert found is not None
        return found.touched_ns

    scene.store.wait_at_most(0.05)
    others = open_store(tmp_path / "cis.db")
    with hanging(tmp_path, HOLD_AND_WAIT) as process, ExitStack() as stack:
        scene.serves(process.pid)
        stack.enter_context(others.transaction())
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        for _ in range(12):
            before_ns = touched_ns()
            wait_for(lambda before_ns=before_ns: touched_ns() != before_ns, what="a sign of life")  # type: ignore[misc]
            scene.look()

        assert scene.killed == []
    others.close()


def test_a_worker_that_gives_a_sign_of_life_while_its_rescuer_waits_for_the_write_lock_is_not_fenced(
    tmp_path: Path, holding: subprocess.Popen[bytes]
) -> None:
    store = LateBeat(Database(tmp_path / "cis.db"))
    scene = Scene(store, tmp_path)
    scene.serves(holding.pid)
    scene.look(3)
    path = worker_lock_path(tmp_path, WORKER)
    store.begins = lambda: os.utime(path)
    scene.look()

    assert scene.killed == []
    assert scene.row.epoch == 1
    store.close()


@pytest.mark.parametrize("wall_s", [0.0, 86400.0, -86400.0])
def test_a_worker_that_beats_is_left_alone_whatever_the_wall_clock_does(
    scene: Scene, holding: subprocess.Popen[bytes], wall_s: float
) -> None:
    scene.serves(holding.pid)
    for number in range(12):
        scene.look()
        scene.wall_us += round(wall_s * 1e6) * (1 if number == 5 else 0)
        scene.beat()

    assert scene.killed == []
    assert scene.row.epoch == 1


def test_a_rescuer_that_was_stopped_itself_or_slept_condemns_nobody(
    scene: Scene, holding: subprocess.Popen[bytes]
) -> None:
    scene.serves(holding.pid)
    scene.look(2)
    scene.look(every_s=3600.0)
    scene.beat()
    scene.look(2)
    scene.look(every_s=3600.0)

    assert scene.killed == []


def test_a_worker_is_measured_by_its_own_lease(scene: Scene, holding: subprocess.Popen[bytes]) -> None:
    row = scene.serves(holding.pid)
    with scene.store.transaction():
        scene.store.workers.take(row._replace(lease_until_us=row.heartbeat_at_us + 60_000_000))
    scene.look(12)
    early = list(scene.killed)
    scene.look()

    assert early == []
    assert scene.killed == [holding.pid]


def test_a_process_that_took_the_lock_and_never_beat_is_killed_when_its_time_to_start_is_over(
    scene: Scene, holding: subprocess.Popen[bytes]
) -> None:
    scene.serves(4_000_000)  # the row is of the one before, who died
    looks = round(START_DEADLINE_S / (LEASE_S / 3))
    scene.look(looks)
    early = list(scene.killed)
    scene.look(2)

    assert early == []
    assert scene.killed == [holding.pid]
    assert scene.row.status is WorkerState.DEAD


def test_a_child_that_never_takes_the_lock_is_killed_when_its_time_to_start_is_over(scene: Scene) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        scene.look(round(START_DEADLINE_S / (LEASE_S / 3)), own=child)
        early = child.poll()
        scene.look(2, own=child)
        status = child.wait(10)

    assert early is None
    assert status == -9


def test_a_worker_that_cannot_be_killed_keeps_its_runs_but_can_write_nothing(
    scene: Scene, holding: subprocess.Popen[bytes]
) -> None:
    scene.serves(holding.pid)
    scene.refuses = True
    scene.look(4)
    fenced = scene.row
    scene.refuses = False
    scene.look(4)
    after = scene.row

    assert (fenced.status, fenced.epoch) == (WorkerState.BUSY, 2)
    assert scene.killed == [holding.pid] * 2
    assert after.status is WorkerState.DEAD


def test_two_rescuers_end_a_worker_once_and_only_one_buries_it(
    scene: Scene, holding: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    scene.serves(holding.pid)
    store = open_store(tmp_path / "cis.db")
    other = Scene(store, tmp_path)
    for _ in range(5):
        scene.look()
        other.look()
    events = scene.store.events.after(0, limit=100)
    store.close()

    assert scene.killed + other.killed == [holding.pid]
    assert [event.status for event in events] == ["dead"]


def test_a_worker_that_hangs_in_a_transaction_is_killed_unfenced_when_the_others_have_had_time_to_stop(
    scene: Scene, tmp_path: Path
) -> None:
    scene.store.wait_at_most(0.05)
    with hanging(tmp_path, HOLD_ALL) as process:
        scene.serves(process.pid)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        scene.look(6)
        early = list(scene.killed)
        scene.look()

    assert early == []
    assert scene.killed == [process.pid]
    assert scene.row.status is WorkerState.DEAD


class LateQueue(QueueRows):
    """A queue in which the worker renews its lease when it is asked for the demand."""

    beats: Callable[[], None] | None = None

    def demand(self, node_id: str, *, from_position: int = 0) -> Sequence[QueueDemand]:
        if self.beats is not None:
            self.beats()
        return super().demand(node_id, from_position=from_position)


class LateBeat(SqliteStore):
    """A store in which the worker renews its lease between a rescuer's look at it and what follows."""

    begins: Callable[[], None] | None = None

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self.queue: LateQueue = LateQueue(db)

    def transaction(self, *, wait: bool = True) -> AbstractContextManager[None]:
        if self.begins is not None:
            self.begins()
        return super().transaction(wait=wait)


def test_a_worker_that_beats_at_the_last_moment_is_not_fenced(tmp_path: Path, holding: subprocess.Popen[bytes]) -> None:
    store = LateBeat(Database(tmp_path / "cis.db"))
    scene = Scene(store, tmp_path)
    scene.serves(holding.pid)
    scene.look(3)
    store.queue.beats = scene.beat
    scene.look()

    assert scene.killed == []
    assert scene.row.epoch == 1
    store.close()


def test_a_worker_whose_orphans_cannot_be_looked_for_is_buried_when_there_are_descriptors_again(scene: Scene) -> None:
    epoch = scene.serves(os.getpid()).epoch  # whose lock is free
    put_run(scene.store, "r", worker_id=WORKER)
    with scene.store.transaction():
        scene.store.attempts.start([attempt("r", worker_id=WORKER, epoch=epoch)])
    scene.short = True
    scene.look(2)
    early = scene.row.status
    scene.short = False
    scene.look()

    assert early is WorkerState.BUSY
    assert scene.row.status is WorkerState.DEAD


def test_a_worker_is_neither_dead_nor_hung_for_want_of_a_descriptor_to_look_at_it(scene: Scene) -> None:
    scene.serves(os.getpid())  # whose lock is free, which nobody can see
    worker_lock_path(scene.run_dir, WORKER).touch()
    with no_descriptors():
        scene.look(20)
    early = scene.row
    scene.look(2)

    assert early.status is WorkerState.BUSY
    assert scene.killed == []
    assert scene.row.status is WorkerState.DEAD
