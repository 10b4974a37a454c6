"""A homeserver that lies about order, age and delivery never has a run executed on two nodes at once.

Each seed is a history under virtual time (``tests.chaos.lying``): real decisions of three nodes over real stores.
"""

from __future__ import annotations

import time
from collections import Counter

import pytest

from tests.chaos.lying.room import play
from tests.worlds.battery import LONG, figures, first_seed, size

LAST_LINES = 60


@pytest.mark.timeout(3600 if LONG else 600)
def test_a_homeserver_that_lies_never_has_a_run_executed_on_two_nodes_at_once() -> None:
    first, count = first_seed(), size(12, 1000)
    began_s = time.monotonic()
    total: Counter[str] = Counter()

    for seed in range(first, first + count):
        played = play(seed)
        if played.broken is not None:
            pytest.fail("\n".join([f"CIS_SEED={seed} repeats it: {played.broken}", *played.history[-LAST_LINES:]]))
        total.update(played.counts)

    figures("lying", seeds=count, first_seed=first, **total, seconds=round(time.monotonic() - began_s, 1))
    assert total["late"] > count  # it did lie
    assert total["executing"] > count  # and nodes worked all the same
