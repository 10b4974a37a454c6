"""Runs, tasks, queue, epochs and leases under any sequence of changes: no illegal state can be stored."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.store.office_rules import OfficeRules
from tests.store.run_rules import RunRules
from tests.worlds.battery import LONG, figures, first_seed, size


@pytest.mark.timeout(1800 if LONG else 300)
@pytest.mark.parametrize("machine", [RunRules, OfficeRules])
def test_no_sequence_of_changes_stores_an_illegal_state(machine: type[RunRules | OfficeRules]) -> None:
    first, count = first_seed(), size(200, 5000)
    machine.examples = machine.steps = 0
    began_s = time.monotonic()

    run_state_machine_as_test(
        seed(first)(machine),
        settings=settings(
            max_examples=count,
            stateful_step_count=25,
            deadline=None,
            database=None,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        ),
    )

    seconds = round(time.monotonic() - began_s, 1)
    name = f"states-{machine.__name__.removesuffix('Rules').lower()}"
    figures(name, examples=machine.examples, steps=machine.steps, seed=first, seconds=seconds)
