"""32 threads and 8 processes racing to advance one run: exactly one wins each version, along legal arrows."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from cis.model.states import RunState, check_run_arrow
from cis.store import open_store
from cis.store.sqlite.store import SqliteStore
from tests.worlds.migrated import new_database
from tests.worlds.racing import ROUNDS, Step, read, step, target
from tests.worlds.rows import put_run

THREADS = 32
PROCESSES = 8


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with the run ``r``."""
    path = new_database(tmp_path)
    store = open_store(path)
    put_run(store, "r")
    store.close()
    return path


@pytest.fixture
def final(path: Path) -> Iterator[SqliteStore]:
    """The database as it is seen when all is over."""
    store = open_store(path)
    yield store
    store.close()


def assert_one_chain(won: list[Step], *, versions: int) -> None:
    """Assert that each version was made once, each from the state that the one before had left, by a legal arrow."""
    steps = sorted(won)
    assert [version for version, _, _ in steps] == list(range(2, versions + 1))
    state = str(RunState.PENDING)
    for _, old, new in steps:
        assert old == state
        check_run_arrow("r", RunState(old), RunState(new))
        state = new


def test_of_32_threads_that_read_the_same_version_exactly_one_changes_it(path: Path, final: SqliteStore) -> None:
    gate = threading.Barrier(THREADS, timeout=60)

    def racer(number: int) -> list[Step | None]:
        store = open_store(path)
        made: list[Step | None] = []
        for turn in range(ROUNDS):
            gate.wait()
            run = read(store)
            gate.wait()
            made.append(step(store, run, target(run, turn=turn, number=number)))
        store.close()
        return made

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(racer, range(THREADS)))
    winners = [sum(made[turn] is not None for made in results) for turn in range(ROUNDS)]

    assert winners == [1] * ROUNDS
    assert_one_chain([made for each in results for made in each if made], versions=ROUNDS + 1)
    assert read(final).version == ROUNDS + 1
    assert read(final).status.final


def start_racer(path: Path, number: int) -> subprocess.Popen[str]:
    """Start a process that does as ``race`` says."""
    script = (
        f"from pathlib import Path; from tests.worlds.racing import race; race(Path({str(path)!r}), number={number})"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )


def signal_all(racers: list[subprocess.Popen[str]]) -> list[str]:
    """Give every racer a signal, and return what each answers."""
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    return [racer.stdout.readline() for racer in racers if racer.stdout is not None]


def test_of_8_processes_that_read_the_same_version_exactly_one_changes_it(path: Path, final: SqliteStore) -> None:
    won: list[Step] = []
    with ExitStack() as stack:
        racers = [stack.enter_context(start_racer(path, number)) for number in range(PROCESSES)]
        for turn in range(ROUNDS):
            assert signal_all(racers) == [f"{turn + 1}\n"] * PROCESSES
            made = [tuple(answer) for line in signal_all(racers) if (answer := json.loads(line))]
            assert len(made) == 1
            won += made

    assert [racer.returncode for racer in racers] == [0] * PROCESSES
    assert_one_chain(won, versions=ROUNDS + 1)
    assert read(final).version == ROUNDS + 1
    assert read(final).status.final
