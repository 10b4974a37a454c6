"""What the simulation found once, each as a short history of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cis.model.dag import DagSpec
from cis.worker.rescuer import bury
from tests.chaos.simulation.machine import NODE
from tests.chaos.simulation.world import World

WORKER = "worker-global"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Give a test a world in which nothing goes wrong by itself."""
    world = World(1, tmp_path)
    world.machine.calm()
    yield world
    world.close()


def submit(world: World, *tasks: dict[str, object]) -> None:
    """Hand in a DAG, and let its first process begin."""
    listed = [{"id": f"t{number}", "command": "true", **task} for number, task in enumerate(tasks)]
    plain = {"dag_id": "d", "scope": "global", "tasks": listed}
    world.script.submit("key", DagSpec.from_dict(plain))
    world.until(lambda: bool(world.machine.processes.live))


def statuses(world: World) -> list[str]:
    """Return how the attempts stand."""
    return [attempt.status for attempt in world.machine.watch.rows.attempts.values()]


def test_an_end_whose_commit_holds_though_it_was_reported_as_failed_is_not_recorded_twice(world: World) -> None:
    submit(world, {}, {"depends_on": ["t0"]})
    world.until(lambda: not world.machine.processes.live)

    world.machine.faults.late_p = 1.0
    world.until(lambda: statuses(world) == ["completed", "running"])
    world.machine.faults.late_p = 0.0
    world.play()

    assert statuses(world) == ["completed", "completed"]  # what that commit chose was begun by nobody, and is put back


def test_who_buries_a_worker_late_does_not_end_the_processes_of_its_successor(world: World) -> None:
    submit(world, {})
    (dead,) = world.machine.workers
    row = world.script.store.workers.get(NODE, WORKER)
    dead.crash()
    world.until(lambda: len(world.machine.processes.all) == 2)

    assert row is not None
    assert not bury(world.script.store, row, kill=world.machine.processes.kill_orphans, now_us=1)
    world.play()

    assert statuses(world) == ["lost", "completed"]
