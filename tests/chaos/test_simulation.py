"""Thousands of histories of engine, workers and store under virtual time, with whatever can go wrong in them.

A seed is a history: what is submitted and controlled, how processes behave, which transaction fails, who crashes
where, who sleeps through his own burial, how the wall clock jumps. After a while nothing goes wrong any more, and all
has to come to rest. What must hold is in ``tests.chaos.simulation.watch`` (always) and ``.verdict`` (at rest).
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from tests.chaos.simulation.world import Played, play
from tests.worlds.battery import LONG, figures, first_seed, size

ROOT = Path(__file__).parents[2]
PROCESSES = 2
LAST_LINES = 80


@pytest.mark.timeout(3600 if LONG else 600)
def test_whatever_goes_wrong_nothing_accepted_is_lost_or_done_twice_and_all_comes_to_rest() -> None:
    first, count = first_seed(), size(500, 20_000)
    began_s = time.monotonic()
    total: Counter[str] = Counter()

    for played in _played(range(first, first + count)):
        if played.broken is not None:
            pytest.fail(_told(played))
        total.update(played.counts)
    assert min(total["taken_up"], total["ends_found"]) > 0, "no attempt went on without its worker"

    figures("simulation", seeds=count, first_seed=first, **total, seconds=round(time.monotonic() - began_s, 1))


@pytest.mark.parametrize("seed", [1, 5, 10, 689])
def test_a_seed_gives_the_same_history_again_in_any_process(seed: int) -> None:
    digest = play(seed).digest

    assert play(seed).digest == digest
    for hash_seed in ("1", "2"):
        assert _digest_elsewhere(seed, hash_seed) == digest


def _played(seeds: range) -> Iterator[Played]:
    if not LONG:
        yield from map(play, seeds)
        return
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(play, seeds, chunksize=50)


def _told(played: Played) -> str:
    return "\n".join([f"CIS_SEED={played.seed} repeats it: {played.broken}", *played.history[-LAST_LINES:]])


def _digest_elsewhere(seed: int, hash_seed: str) -> str:
    command = [sys.executable, "-m", "tests.chaos.simulation.world", str(seed)]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()
