"""Power loss: whatever the disk did not sync is gone, half there or out of order, and nothing acknowledged is lost.

One seed's work is done once over a recording VFS, then cut at many moments (``tests.chaos.power_cut``). Each image that is
left is opened by the product with the system's own VFS. It must be sound; hold every run that was answered and
every attempt whose process was started; be exactly what some commit left, at or after the last one that anybody
has seen; and go on to the end of every run, no attempt started twice.
"""

from __future__ import annotations

import hashlib
import multiprocessing
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from cis.errors import StoreError
from cis.store import open_store
from cis.store.sqlite.store import SqliteStore
from tests.chaos.accounts import memory_folder, missing, not_in_order
from tests.chaos.cutting_vfs import Kind, Operation, recording
from tests.chaos.power_cut import Disk, Fate, write_image
from tests.chaos.powered_node import START_US, Acknowledged, PoweredNode, work
from tests.worlds.battery import figures, first_seed, size

STEPS = 90
POINTS_OF_A_SEED = 50
FATES = (Fate.LOST, Fate.KEPT, Fate.SOME, Fate.TORN, Fate.TORN)
LATER_US = START_US + 3600 * 1_000_000


@dataclass(frozen=True, slots=True)
class Trace:
    """What was done to the disk, and after how many operations something was acknowledged (None: a step was done)."""

    operations: Sequence[Operation]
    acknowledged: Sequence[tuple[int, Acknowledged | None]]

    def seen(self, point: int) -> list[Acknowledged]:
        """Return what had been acknowledged after *point* operations."""
        return [what for position, what in self.acknowledged if position <= point and what is not None]


@dataclass(slots=True)
class Found:
    """What the cuts of some seeds brought to light; each fault names what repeats it."""

    points: int = 0
    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    half_done: list[str] = field(default_factory=list)
    did_not_go_on: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        return self.lost + self.damaged + self.half_done + self.did_not_go_on

    def add(self, other: Found) -> None:
        """Take in what was found elsewhere."""
        self.points += other.points
        self.acknowledged += other.acknowledged
        self.lost += other.lost
        self.damaged += other.damaged
        self.half_done += other.half_done
        self.did_not_go_on += other.did_not_go_on


def record(seed: int, *, pragma: str = "") -> Trace:
    """Do a seed's work, and return the trace of it."""
    random = Random(seed)  # noqa: S311 - repeatable, not secret
    acknowledged: list[tuple[int, Acknowledged | None]] = []
    with memory_folder() as folder, recording(Random(seed)) as recorder:  # noqa: S311

        def note(what: Acknowledged | None) -> None:
            acknowledged.append((len(recorder.operations), what))

        node = PoweredNode(folder, random, acknowledged=note, pragma=pragma)
        for _ in work(node, random, steps=STEPS):
            note(None)
        operations = tuple(recorder.operations)
        node.close()
    return Trace(operations, acknowledged)


def cut(seed: int, points: int, *, pragma: str = "", lies: bool = False, whole: bool = True) -> Found:
    """Cut the power at *points* moments of a seed's work, and return what that did.

    Without *whole* only what was acknowledged and the soundness of the file are looked at.
    """
    trace = record(seed, pragma=pragma)
    random = Random(seed)  # noqa: S311
    moments = Counter(random.randrange(len(trace.operations) + 1) for _ in range(points))
    disk, found = Disk(lies=lies), Found()
    with memory_folder() as folder:
        states = _committed_states(trace, folder) if whole else None
        for point in range(len(trace.operations) + 1):
            for number in range(moments[point]):
                fate = FATES[(point + number) % len(FATES)]
                where = f"seed {seed}, after {point} operations, unsynced {fate}"
                image = disk.after_cut(Random(f"{seed}/{point}/{number}"), fate)  # noqa: S311
                write_image(folder, image)
                _judge(folder, trace, point, where=where, found=found, states=states)
            if point < len(trace.operations):
                disk.take(trace.operations[point])
    return found


@dataclass(frozen=True, slots=True)
class States:
    """What the database was after each commit: the position at which that was synced, and a digest of all rows."""

    positions: list[int]
    digests: list[str]

    def possible(self, seen: int, point: int) -> set[str]:
        """Return what may be left at *point* when all up to position *seen* was acknowledged."""
        return set(
            self.digests[max(0, bisect_right(self.positions, seen) - 1) : bisect_left(self.positions, point) + 1]
        )


def _committed_states(trace: Trace, folder: Path) -> States:
    disk, states = Disk(), States([0], [])
    with _opened(folder, {}) as store:
        states.digests.append(_digest(store))
    for position, operation in enumerate(trace.operations, 1):
        disk.take(operation)
        if operation.kind is Kind.SYNC and operation.file.endswith("-wal"):
            with _opened(folder, disk.after_cut(Random(0), Fate.KEPT)) as store:  # noqa: S311
                states.positions.append(position)
                states.digests.append(_digest(store))
    return states


@contextmanager
def _opened(folder: Path, image: dict[str, bytes]) -> Iterator[SqliteStore]:
    write_image(folder, image)
    with closing(open_store(folder / "cis.db")) as store:
        yield store


def _digest(store: SqliteStore) -> str:
    connection = store._db.connection
    tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall()
    digest = hashlib.sha256()
    for (name,) in tables:
        rows = connection.execute(f"SELECT * FROM {name}").fetchall()  # noqa: S608 - our own tables
        digest.update(repr((name, rows)).encode())
    return digest.hexdigest()


def _judge(folder: Path, trace: Trace, point: int, *, where: str, found: Found, states: States | None) -> None:
    found.points += 1
    seen = trace.seen(point)
    found.acknowledged += len(seen)
    try:
        store = open_store(folder / "cis.db")
    except StoreError as error:
        found.damaged.append(f"{where}: {error}")
        return
    with closing(store):
        faults = store.upkeep.faults()
        if faults:
            found.damaged.append(f"{where}: {faults[0]}")
            return
        found.lost += [f"{where}: {what} is not there" for what in missing(store, seen)]
        if states is None:
            return
        last = max((position for position, _ in trace.acknowledged if position <= point), default=0)
        if _digest(store) not in states.possible(last, point):
            found.half_done.append(f"{where}: it is not what a commit left")
    found.did_not_go_on += [f"{where}: {fault}" for fault in _go_on(folder, seen)]


def _go_on(folder: Path, seen: Sequence[Acknowledged]) -> list[str]:
    """Go on as after the power is back, and return what is wrong in the end."""
    started: list[Acknowledged] = []
    random = Random(1)  # noqa: S311
    node = PoweredNode(folder, random, acknowledged=started.append, start_us=LATER_US)
    try:
        node.submit([{"dag_id": "after", "tasks": [{"id": "t", "command": "true"}]}])
        node.finish()
    except AssertionError as error:
        return [str(error)]
    finally:
        node.close()
    with closing(open_store(folder / "cis.db")) as store:
        return not_in_order(store, started=[*seen, *started])


def in_two_processes(calls: Sequence[int], attack: Callable[[int, int], Found]) -> Found:
    """Attack once for each seed, in processes of their own, since the VFS is the whole process's."""
    found = Found()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        for each in pool.map(attack, calls, [POINTS_OF_A_SEED] * len(calls)):
            found.add(each)
    return found


@pytest.mark.timeout(3600)
def test_no_power_cut_loses_what_was_acknowledged_or_leaves_half_of_a_commit() -> None:
    points = size(300, 10_000)
    seed = first_seed()
    found = in_two_processes(range(seed, seed + points // POINTS_OF_A_SEED), cut)
    figures(
        "power", points=found.points, acknowledged=found.acknowledged, lost=len(found.lost), damaged=len(found.damaged)
    )

    assert found.faults[:10] == []
    assert found.points == points


def cut_normal(seed: int, points: int) -> Found:
    """Cut with SQLite told not to wait for the disk at each commit."""
    return cut(seed, points, pragma="PRAGMA synchronous = NORMAL", whole=False)


def cut_lying_disk(seed: int, points: int) -> Found:
    """Cut with a disk that says that it has synced, and has not."""
    return cut(seed, points, lies=True)


def test_the_attack_sees_the_loss_when_commits_do_not_wait_for_the_disk() -> None:
    found = in_two_processes(range(1, 3), cut_normal)

    assert found.lost
    assert not found.damaged


def test_the_attack_sees_the_damage_that_a_lying_disk_makes() -> None:
    found = in_two_processes(range(1, 3), cut_lying_disk)

    assert found.lost
    assert found.damaged
    assert found.half_done
