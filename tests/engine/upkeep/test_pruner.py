"""The pruner forgets what is old, all of it and nothing else, wherever it is stopped."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cis.engine.logfiles import LogFiles
from cis.engine.observe.logreader import LogChoice, LogReader
from cis.engine.observe.logtext import LogStream
from cis.engine.upkeep import pruner as pruner_module
from cis.engine.upkeep.pruner import ORPHAN_S, YOUNG_S, Cutoff, Pruner, Retention
from cis.model.states import AttemptState, RunState
from cis.store import open_store
from cis.store.cluster import RemoteRole, RemoteRun
from cis.store.sqlite.store import SqliteStore
from tests.worlds.cluster_rows import message
from tests.worlds.migrated import new_database
from tests.worlds.rows import attempt, attempts_of, definition, item, put_run

NOW_US = 10**15
SECOND_US = 10**6
HOLDS = ("queued", "to be sent", "open")


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A run of a made-up world: which one is its parent, how long ago it ended (None: it has not), what holds it."""

    name: str
    dag_id: str
    parent: str | None
    ended_s: int | None
    hold: str | None


def worlds() -> st.SearchStrategy[list[Planned]]:
    """Runs of two DAGs, some of which are tasks of others, some live, some held."""

    def build(rows: list[tuple[int, str, int | None, str | None]]) -> list[Planned]:
        made: list[Planned] = []
        for number, (parent, dag_id, ended_s, hold) in enumerate(rows):
            above = made[parent % number].name if number and parent < 12 else None
            made.append(Planned(name=f"r{number:02}", dag_id=dag_id, parent=above, ended_s=ended_s, hold=hold))
        return made

    ages = st.one_of(st.none(), st.integers(-100, 1000), st.integers(100, 1000))
    holds = st.sampled_from([None, None, None, None, *HOLDS])
    return st.lists(st.tuples(st.integers(0, 24), st.sampled_from("ab"), ages, holds), max_size=14).map(build)


def fill(store: SqliteStore, logfiles: LogFiles, world: Sequence[Planned]) -> None:
    """Make a world."""
    for one in world:
        over: dict[str, Any] = (
            {} if one.ended_s is None else {"status": RunState.FAILED, "finished_at_us": ended_us(one)}
        )
        put_run(store, one.name, dag_id=one.dag_id, parent_run_id=one.parent, **over)
        logfiles.prepare(one.name)
        Path(logfiles.paths(one.name, 0, 1).stdout).write_text("said")
        with store.transaction():
            store.attempts.start([attempt(one.name, status=AttemptState.COMPLETED)])
            if one.hold == "queued":
                store.queue.add("n", item(one.name))
            if one.hold == "to be sent":
                store.outbox.add(message(f"m-{one.name}", run_id=one.name))
            if one.hold == "open":
                store.remotes.put(RemoteRun(run_id=one.name, role=RemoteRole.RECEIVED, peer_id="n2"))


def ended_us(one: Planned) -> int:
    """Return when a run ended."""
    assert one.ended_s is not None
    return NOW_US - one.ended_s * SECOND_US


def should_go(world: Sequence[Planned], keep: Retention) -> set[str]:
    """Return what a round has to forget: told from the rules, without the store."""
    members: dict[str, set[str]] = {}
    roots: dict[str, str] = {}
    for one in world:
        roots[one.name] = one.name if one.parent is None else roots[one.parent]
        members.setdefault(roots[one.name], set()).add(one.name)
    live = {roots[one.name] for one in world if one.ended_s is None or one.hold is not None}
    gone: set[str] = set()
    for dag_id in "ab":
        tops = [one for one in world if one.parent is None and one.dag_id == dag_id and one.ended_s is not None]
        tops.sort(key=lambda one: (ended_us(one), one.name), reverse=True)
        if keep.max_age_s is not None:
            gone |= {one.name for one in tops if ended_us(one) < NOW_US - keep.max_age_s * SECOND_US}
        if keep.max_runs is not None:
            counted = [one for one in tops if ended_us(one) <= NOW_US - YOUNG_S * SECOND_US]
            gone |= {one.name for one in counted[keep.max_runs :]}
    return {member for root in gone - live for member in members[root]}


def left(store: SqliteStore, world: Sequence[Planned]) -> Mapping[str, tuple[int, int]]:
    """Return the runs that are there, with how many tasks and attempts each has."""
    there = [one.name for one in world if store.runs.get(one.name) is not None]
    return {name: (len(store.tasks.of_run(name)), len(attempts_of(store, name))) for name in there}


@given(
    world=worlds(),
    max_age_s=st.one_of(st.none(), st.integers(1, 800)),
    max_runs=st.one_of(st.none(), st.integers(0, 4)),
    stop_after=st.integers(0, 6),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_live_is_never_touched_and_what_is_old_goes_whole(
    world: list[Planned],
    max_age_s: int | None,
    max_runs: int | None,
    stop_after: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pruner_module, "RUNS_AT_ONCE", 2)
    keep = Retention(max_age_s=max_age_s, max_runs=max_runs)
    cutoff = Cutoff(now_us=NOW_US)
    gone = should_go(world, keep)
    with tempfile.TemporaryDirectory() as folder:
        logfiles = LogFiles(Path(folder) / "logs")
        store = open_store(new_database(Path(folder)))
        try:
            fill(store, logfiles, world)

            for _ in islice(Pruner(store, logfiles, keep, elapsed_s=time.monotonic).runs(cutoff), stop_after):
                pass  # and then it dies
            stopped = left(store, world)
            assert all(whole == (2, 1) for whole in stopped.values())
            assert {one.name for one in world} - gone <= set(stopped)

            for _ in Pruner(store, logfiles, keep, elapsed_s=time.monotonic).runs(cutoff):
                pass
            assert left(store, world) == {one.name: (2, 1) for one in world if one.name not in gone}
            assert {one.name for one in world if one.name not in gone} <= {
                path.name for path in logfiles.root.glob("*")
            }
            assert not store.upkeep.faults()
        finally:
            store.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """An empty store."""
    store = open_store(new_database(tmp_path))
    yield store
    store.close()


@pytest.fixture
def logfiles(tmp_path: Path) -> LogFiles:
    """An empty folder of logs."""
    (tmp_path / "logs").mkdir()
    return LogFiles(tmp_path / "logs")


def swept(store: SqliteStore, logfiles: LogFiles, *, now_us: int, aged: bool = True, **keep: float) -> Pruner:
    """Do a whole round."""
    pruner = Pruner(store, logfiles, Retention(**keep), elapsed_s=time.monotonic)  # type: ignore[arg-type]
    cutoff = Cutoff(now_us=now_us, aged=aged)
    for steps in (pruner.runs(cutoff), pruner.leftovers(cutoff)):
        for _ in steps:
            pass
    return pruner


def test_a_folder_whose_run_is_gone_is_found_later_and_goes_once_it_is_a_day_old(
    store: SqliteStore, logfiles: LogFiles
) -> None:
    """Whoever deletes a run and dies before its files leaves such a folder."""
    orphan, foreign = "019ab1c2-0000-7000-8000-000000000001", "my-own-folder"
    for name in (orphan, foreign):
        logfiles.prepare(name)
        Path(logfiles.paths(name, 0, 1).stdout).write_text("said")
    now_us = time.time_ns() // 1000

    swept(store, logfiles, now_us=now_us)
    assert logfiles.folder(orphan).exists()
    swept(store, logfiles, now_us=now_us + round((ORPHAN_S + 60) * 1e6), aged=False)
    assert logfiles.folder(orphan).exists()
    swept(store, logfiles, now_us=now_us + round((ORPHAN_S + 60) * 1e6))
    assert not logfiles.folder(orphan).exists()
    assert logfiles.folder(foreign).exists()


def test_outputs_that_a_killed_worker_left_go_when_their_run_is_over_or_gone_for_a_day(
    store: SqliteStore, logfiles: LogFiles
) -> None:
    put_run(store, "over", status=RunState.COMPLETED, finished_at_us=time.time_ns() // 1000)
    put_run(store, "going.1", status=RunState.RUNNING, finished_at_us=None)
    logfiles.prepare_live()
    for run_id in ("over", "going.1", "unknown"):
        Path(logfiles.paths(run_id, 3, 1).outputs).write_text("x=1\n")
    now_us = time.time_ns() // 1000
    later_us = now_us + round((ORPHAN_S + 60) * 1e6)

    def left() -> list[str]:
        return sorted(path.name for path in logfiles.live.iterdir())

    swept(store, logfiles, now_us=now_us)
    swept(store, logfiles, now_us=later_us, aged=False)
    assert left() == ["going.1.3.1.outputs", "unknown.3.1.outputs"]
    swept(store, logfiles, now_us=later_us)
    assert left() == ["going.1.3.1.outputs"]


def test_logs_may_go_before_their_runs_whose_tails_remain(store: SqliteStore, logfiles: LogFiles) -> None:
    for run_id, status, finished_at_us in (
        ("old", RunState.COMPLETED, NOW_US - 50 * SECOND_US),
        ("young", RunState.COMPLETED, NOW_US - 5 * SECOND_US),
        ("going", RunState.RUNNING, None),
    ):
        put_run(store, run_id, status=status, finished_at_us=finished_at_us)
        logfiles.prepare(run_id)
        Path(logfiles.paths(run_id, 0, 1).stdout).write_text("said")

    pruner = swept(store, logfiles, now_us=NOW_US, max_log_age_s=10)

    assert sorted(path.name for path in logfiles.root.iterdir()) == ["going", "young"]
    assert store.runs.get("old") is not None
    assert (pruner.tally.runs, pruner.tally.folders) == (0, 1)


def test_nothing_goes_for_its_age_while_the_clock_is_not_trusted(store: SqliteStore, logfiles: LogFiles) -> None:
    for number in range(3):
        put_run(store, f"r{number}", status=RunState.COMPLETED, finished_at_us=NOW_US - (3 - number) * 100 * SECOND_US)

    swept(store, logfiles, now_us=NOW_US, aged=False, max_age_s=1, max_log_age_s=1)
    assert len(left_ids(store)) == 3
    swept(store, logfiles, now_us=NOW_US, aged=False, max_age_s=1, max_runs=2)
    assert left_ids(store) == ["r1", "r2"]


def left_ids(store: SqliteStore) -> list[str]:
    """Return the runs that are there."""
    return [run_id for (run_id,) in store._db.rows("SELECT run_id FROM dag_runs ORDER BY run_id")]


def test_runs_that_ended_in_the_future_push_none_out(store: SqliteStore, logfiles: LogFiles) -> None:
    """While the clock was a year ahead some ended; now that it is right they are not the newest for a year."""
    for number in range(4):
        put_run(store, f"ahead{number}", status=RunState.COMPLETED, finished_at_us=NOW_US + 10**13 + number)
        put_run(store, f"r{number}", status=RunState.COMPLETED, finished_at_us=NOW_US - (100 - number) * SECOND_US)

    swept(store, logfiles, now_us=NOW_US, max_runs=2)

    assert left_ids(store) == ["ahead0", "ahead1", "ahead2", "ahead3", "r2", "r3"]


def test_documents_of_pruned_runs_go_and_those_that_were_saved_stay(store: SqliteStore, logfiles: LogFiles) -> None:
    put_run(store, "r1", dag_id="once", status=RunState.COMPLETED, finished_at_us=1)
    put_run(store, "r2", dag_id="saved", status=RunState.COMPLETED, finished_at_us=1)
    with store.transaction():
        store.definitions.save(store.definitions.put(definition("saved")), at_us=1)

    pruner = swept(store, logfiles, now_us=NOW_US, max_age_s=5)

    assert store.definitions.current("once") is None
    assert store.definitions.current("saved") is not None
    assert (pruner.tally.runs, pruner.tally.documents) == (2, 1)


def test_a_transaction_is_short_however_many_attempts_there_are(store: SqliteStore, logfiles: LogFiles) -> None:
    put_run(store, "r1", status=RunState.COMPLETED, finished_at_us=1)
    with store.transaction():
        store.attempts.start(
            attempt("r1", status=AttemptState.COMPLETED, task_no=number, stdout_tail="x" * 1000)
            for number in range(20_000)
        )
    clock = iter(range(10**6))  # each look at it is a second, so each transaction ends after one delete
    pruner = Pruner(store, logfiles, Retention(max_age_s=5), elapsed_s=lambda: float(next(clock)))

    steps = sum(1 for _ in pruner.runs(Cutoff(now_us=NOW_US)))

    assert steps == 10
    assert left_ids(store) == []


def test_a_reader_of_a_log_that_is_pruned_is_told_so(store: SqliteStore, logfiles: LogFiles) -> None:
    put_run(store, "r1", status=RunState.COMPLETED, finished_at_us=1)
    with store.transaction():
        store.attempts.start([attempt("r1", status=AttemptState.COMPLETED)])
    logfiles.prepare("r1")
    Path(logfiles.paths("r1", 0, 1).stdout).write_bytes(b"line\n" * 2**19)
    reader = LogReader(logfiles, "r1", LogChoice(follow=True))
    assert reader.look(store)

    swept(store, logfiles, now_us=NOW_US, max_age_s=5)
    pieces = reader.look(store)

    assert reader.over
    assert pieces[-1].stream is LogStream.NOTE
    assert "removed while it was read" in pieces[-1].text


def test_a_folder_that_cannot_be_removed_stops_nothing(store: SqliteStore, logfiles: LogFiles) -> None:
    for run_id in ("r1", "r2"):
        put_run(store, run_id, status=RunState.COMPLETED, finished_at_us=1)
        logfiles.prepare(run_id)
    (logfiles.folder("r1") / "kept by hand").write_text("x")
    os.utime(logfiles.folder("r1"), (1, 1))

    pruner = swept(store, logfiles, now_us=NOW_US, max_age_s=5)

    assert left_ids(store) == []
    assert [path.name for path in logfiles.root.iterdir()] == ["r1"]
    assert pruner.tally.folders == 1
