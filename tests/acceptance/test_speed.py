"""The short form of the benchmark suite: fails when the product is twice as far from its bars as it may be.

``make bench`` measures; this only catches what was lost by accident. Other tests run beside it on a machine that has
perhaps two cores, so limit and product are measured in turn, and the best of several rounds counts. The home of the
thousand tasks lies in memory: how long a flush takes is a matter of the disk, which other tests keep busy as well.
"""

from __future__ import annotations

import time
from itertools import pairwise

import pytest

from tests.bench import documents
from tests.bench.history import KEEP_ALL, make_history
from tests.bench.homes import run_here
from tests.bench.limit import spawn_rate
from tests.bench.querying import COMMAND_MS, PYTHONS, command_figures
from tests.bench.spawning import BARS
from tests.chaos.accounts import memory_folder
from tests.worlds.harness import Sandbox, make_sandbox

ROUNDS = 12
WITHIN_S = 90.0
TASKS = 1000
RUNS = 20_000
STEADY = 1.3  # a round counts if the limit before it and the one after it differ by no more than this factor


@pytest.mark.timeout(300)
def test_a_thousand_tasks_reach_half_of_the_bar_for_their_part_of_bare_spawning() -> None:
    bar = BARS["layered"] / 2
    limits, rates = [spawn_rate(TASKS, in_flight=2)], list[float]()

    deadline_s = time.monotonic() + WITHIN_S
    with memory_folder() as folder:
        sandbox = make_sandbox(folder)
        while len(rates) < ROUNDS and best_ratio(limits, rates) < bar and time.monotonic() < deadline_s:
            took_s, _ = run_here(sandbox, documents.layered(TASKS), timeout_s=60)
            rates.append(TASKS / took_s)
            limits.append(spawn_rate(TASKS, in_flight=2))

    assert best_ratio(limits, rates) >= bar, f"limits {limits}, the product between them {rates}"


@pytest.mark.timeout(300)
def test_each_command_answers_within_twice_its_bar_on_a_long_history(sandbox: Sandbox) -> None:
    make_history(sandbox, RUNS)
    bare_ms: list[float] = []
    took_ms: dict[str, list[float]] = {}

    deadline_s = time.monotonic() + WITHIN_S
    with sandbox.node(**KEEP_ALL):
        while (not bare_ms or times_of_bar(took_ms, bare_ms) > 2) and time.monotonic() < deadline_s:
            *commands, python = command_figures(sandbox, rounds=3)
            bare_ms += python.values
            for each in commands:
                took_ms.setdefault(each.what, []).extend(each.values)

    assert times_of_bar(took_ms, bare_ms) <= 2, f"python -c pass {bare_ms}, commands {took_ms}"


def times_of_bar(took_ms: dict[str, list[float]], bare_ms: list[float]) -> float:
    """Return how many times its bar the slowest command takes, each and the limit at their best."""
    return max(map(min, took_ms.values())) / max(COMMAND_MS, PYTHONS * min(bare_ms))


def best_ratio(limits: list[float], rates: list[float]) -> float:
    """Return the highest ratio of the rounds whose load was steady, of all where that was never so; 0 of none."""
    around = list(zip(pairwise(limits), rates, strict=True))
    steady = [(pair, rate) for pair, rate in around if max(pair) <= STEADY * min(pair)]
    return max((2 * rate / sum(pair) for pair, rate in steady or around), default=0.0)
