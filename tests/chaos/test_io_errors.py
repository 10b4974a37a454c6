"""I/O errors at any call of the disk: only our own errors, nothing that was acknowledged is lost, and work goes on."""

from __future__ import annotations

import logging
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from random import Random

import pytest

from cis.errors import StoreError
from cis.store import open_store
from tests.chaos.accounts import memory_folder, missing, not_in_order
from tests.chaos.failing_vfs import FAULTS, failing_disk
from tests.chaos.powered_node import Acknowledged, PoweredNode, some_dag
from tests.worlds.battery import figures, first_seed, size

STEPS = 80


def disturb(seed: int) -> tuple[int, list[str]]:
    """Do a seed's work over a disk that fails at times; return how often it did, and what is wrong in the end."""
    random = Random(seed)  # noqa: S311 - repeatable, not secret
    acknowledged: list[Acknowledged] = []
    with memory_folder() as folder, failing_disk(Random(seed)) as disk:  # noqa: S311
        node = PoweredNode(folder, random, acknowledged=acknowledged.append)
        for step in range(STEPS):
            if step % 5 == 0:
                disk.odds = random.choice([0.0, 0.02, 0.2, 1.0])
                disk.fault = random.choice(FAULTS)
            with suppress(StoreError):
                do(node, random)
        disk.odds = 0.0
        node.finish()
        node.close()
        faults = wrong_in_the_end(folder, acknowledged)
    return disk.failures, [f"seed {seed}: {fault}" for fault in faults]


def do(node: PoweredNode, random: Random) -> None:
    """Do one thing that a node does."""
    match random.choices(["turn", "submit", "cancel", "checkpoint"], [10, 4, 1, 2])[0]:
        case "submit":
            node.submit([some_dag(random) for _ in range(random.randint(1, 4))])
        case "cancel":
            node.cancel_one()
        case "checkpoint":
            node.checkpoint()
        case _:
            node.turn()


def wrong_in_the_end(folder: Path, acknowledged: list[Acknowledged]) -> list[str]:
    """Return what is lost, doubled or damaged."""
    with closing(open_store(folder / "cis.db")) as store:
        lost = [f"{what} is not there" for what in missing(store, acknowledged)]
        forgotten = store._db.rows("SELECT run_id, task_id, attempt FROM task_executions WHERE status = 'lost'")
        return [
            *lost,
            *(f"its end was seen and forgotten: {what}" for what in forgotten),
            *not_in_order(store, started=acknowledged),
        ]


@pytest.mark.timeout(1700)
def test_errors_of_the_disk_lose_nothing_and_work_goes_on_after_them() -> None:
    times, seed = size(200, 4_000), first_seed()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context, initializer=logging.disable) as pool:  # it would fill pages
        found = list(pool.map(disturb, range(seed, seed + times), chunksize=10))
    faults = [fault for _, faults in found for fault in faults]
    failures = sum(count for count, _ in found)
    figures("disk_errors", times=times, failed_calls=failures, faults=len(faults))

    assert faults[:10] == []
    assert failures > times
