"""The node's own pruning: it goes on by itself, stops at once, and no clock that is set makes it forget anything."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cis.engine.logfiles import LogFiles
from cis.engine.times import Instant
from cis.engine.upkeep.pruner import Retention
from cis.errors import StoreError
from cis.model.states import RunState
from cis.node.clock import SETTLE_S
from cis.node.node import Maintenance
from cis.store import open_store
from cis.store.port import Store
from cis.store.sqlite.store import SqliteStore
from tests.worlds.migrated import new_database
from tests.worlds.rows import put_run
from tests.worlds.waiting import wait_for

START_US = 1_700_000_000_000_000
HOUR_S = 3600
DAY_S = 86400


class SetClock:
    """Two clocks that a test moves, and a count of how often they were looked at: once for each round."""

    def __init__(self) -> None:
        self.wall_s = 0.0
        self.mono_s = 0.0
        self.looks = 0
        self._lock = threading.Lock()

    def __call__(self) -> Instant:
        """Return this moment."""
        with self._lock:
            self.looks += 1
            return Instant(START_US + round(self.wall_s * 1e6), self.mono_s)

    def passes(self, seconds: float, *, jump_s: float = 0.0) -> None:
        """Let time pass, with the wall clock set by so much besides; return when a whole round has gone by since."""
        with self._lock:
            self.wall_s += seconds + jump_s
            self.mono_s += seconds
            seen = self.looks
        wait_for(lambda: self.looks >= seen + 2, what="a round of pruning")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """An empty store."""
    store = open_store(new_database(tmp_path))
    yield store
    store.close()


@contextmanager
def maintained(
    store: SqliteStore, *, clock: Callable[[], Instant], opened: Callable[[], Store] | None = None, **keep: float
) -> Iterator[Maintenance]:
    """Prune all the time while the block runs."""
    maintenance = Maintenance(
        opened or (lambda: open_store(store.path)),
        LogFiles(store.path.parent / "logs"),
        Retention(**keep),  # type: ignore[arg-type]
        every_s=0.01,
        clock=clock,
    )
    try:
        yield maintenance
    finally:
        maintenance.stop()


def ended(store: SqliteStore, run_id: str, at_s: float) -> None:
    """Store a run that ended at a time of the test's clock."""
    put_run(store, run_id, status=RunState.COMPLETED, finished_at_us=START_US + round(at_s * 1e6))


def there(store: SqliteStore) -> list[str]:
    """Return the runs that are there."""
    return [run_id for (run_id,) in store._db.rows("SELECT run_id FROM dag_runs ORDER BY run_id")]


def test_a_clock_that_jumps_a_day_forward_deletes_nothing_young_and_what_is_old_goes_all_the_same(
    store: SqliteStore,
) -> None:
    clock = SetClock()
    ended(store, "old", -2 * HOUR_S)
    ended(store, "young", -60)
    with maintained(store, clock=clock, max_age_s=HOUR_S):
        clock.passes(60)
        assert there(store) == ["old", "young"]  # the clock is not trusted yet

        clock.passes(60, jump_s=DAY_S)
        for _ in range(4):
            clock.passes(SETTLE_S / 2)
        assert there(store) == ["young"]

        clock.passes(HOUR_S)
        clock.passes(1)
        assert there(store) == []


def test_a_clock_that_was_wrong_when_the_node_began_has_time_to_be_set_right(store: SqliteStore) -> None:
    clock = SetClock()
    ended(store, "young", -60)
    clock.wall_s = 30 * DAY_S
    with maintained(store, clock=clock, max_age_s=HOUR_S):
        clock.passes(SETTLE_S - 10)
        clock.passes(5, jump_s=-30 * DAY_S)
        for _ in range(3):
            clock.passes(SETTLE_S / 2)

        assert there(store) == ["young"]


def test_a_clock_that_jumps_makes_no_run_too_young_to_be_waited_for_look_old(store: SqliteStore) -> None:
    clock = SetClock()
    for number in range(3):
        ended(store, f"r{number}", number)
    with maintained(store, clock=clock, max_runs=1):
        clock.passes(10, jump_s=DAY_S)
        assert there(store) == ["r0", "r1", "r2"]

        clock.passes(100)
        assert there(store) == ["r2"]


def test_while_the_database_fails_pruning_waits_and_then_goes_on(store: SqliteStore) -> None:
    clock = SetClock()
    failures = itertools.count()

    def flaky() -> Store:
        if next(failures) < 3:
            raise StoreError("the disk is gone")
        return open_store(store.path)

    for number in range(3):
        ended(store, f"r{number}", -1000 + number)
    with maintained(store, clock=clock, opened=flaky, max_runs=1):
        wait_for(lambda: there(store) == ["r2"], what="the disk to be back")


def test_pruning_stops_in_the_middle_when_the_node_does(store: SqliteStore) -> None:
    for number in range(400):
        ended(store, f"r{number:03}", -1000 + number)
    with maintained(store, clock=SetClock(), max_runs=1) as maintenance:
        wait_for(lambda: len(there(store)) < 400, what="pruning to begin")
        begun_s = time.monotonic()
        maintenance.stop()

        assert time.monotonic() - begun_s < 2.0
