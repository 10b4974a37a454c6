"""STOP for three lease times, then CONT: a worker that slept through the loss of its id changes nothing any more.

Under a node, whose rescuer ends it and has another take up its run. And one that nobody minds: it is started by hand, its
id is taken over as another rescuer or worker would, but it is not killed, and wakes with all that it meant to write: a
heartbeat, the end of a task, its own goodbye.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cis.engine.accept.submit import SubmitRequest, submit
from cis.errors import StoreBusyError
from cis.model.document import dag_from_plain
from cis.model.scope import GLOBAL
from cis.node.clock import now_us
from cis.node.home import Home
from cis.node.settings import load_settings
from cis.node.this_node import make_this_node
from cis.skills.registry import InstalledSkills
from cis.store import open_store
from cis.store.sqlite.store import SqliteStore
from cis.worker.rescuer import bury
from tests.chaos.besieged import Besieged, besieged
from tests.worlds.battery import figures, first_seed, size
from tests.worlds.waiting import wait_for

STOPS = int(os.environ.get("CIS_STOPS", size(10, 200)))
LANES = size(2, 4)  # for each of the two ways
LEASE_S = 1.0
LEASES_STOPPED = 3
FOUND_WITHIN_S = 20.0
TABLES = ("dag_runs", "run_tasks", "task_executions", "worker_queue", "workers", "events")


def pause(seconds: float) -> None:
    """Let real time pass: here it is what is tested."""
    threading.Event().wait(seconds)


def rows_of(place: Besieged) -> dict[str, list[tuple[Any, ...]]]:
    """Return all that a worker may write."""
    return {table: place.sandbox.rows(f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in TABLES}  # noqa: S608


def rescued_lane(folder: Path, seed: int, examples: Iterable[int]) -> None:
    """Stop the worker of one run after another under a node, and see each replaced."""
    place = besieged(folder, lease_s=LEASE_S)
    place.start_node()
    try:
        accepted: dict[str, str] = {}
        for number in examples:
            accepted[str(number)] = stop_under_a_node(place, number, random.Random(f"{seed}-{number}"))  # noqa: S311
        assert place.stop() == 0
        place.check_nothing_is_left()
        place.check_once(accepted)
    finally:
        place.end_everything()


def stop_under_a_node(place: Besieged, number: int, chance: random.Random) -> str:
    """Stop a worker in mid-work, wait until it is replaced, and return the run, completed."""
    node = wait_for(place.reach, timeout_s=60, what="the node")
    assert node is not None
    run_id = node.execute(place.document(f"s{number}", (0.4, 0.4, 0.4))).body["run_id"]
    worker_id = f"worker-project-proj-s{number}"

    def served() -> int | None:
        found = place.sandbox.rows(
            "SELECT pid FROM workers WHERE worker_id = ? AND EXISTS (SELECT 1 FROM task_executions WHERE run_id = ?)",
            (worker_id, run_id),
        )
        return found[0][0] if found else None

    pid = wait_for(served, timeout_s=60, what="a worker")
    assert pid is not None
    descriptor = os.pidfd_open(pid)
    try:
        pause(chance.uniform(0.0, 0.7))
        signal.pidfd_send_signal(descriptor, signal.SIGSTOP)
        stopped_s = time.monotonic()
        wait_for(lambda: pid not in place.workers(), timeout_s=FOUND_WITHIN_S, what="the end of the stopped worker")
        pause(max(0.0, stopped_s + LEASES_STOPPED * LEASE_S - time.monotonic()))
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGCONT)
    finally:
        os.close(descriptor)
    assert node.finished(run_id)["status"] == "completed"
    return str(run_id)


def unminded_lane(folder: Path, seed: int, examples: Iterable[int]) -> None:
    """Stop a worker that was started by hand, take its id over, and wake it; again and again, each in a new home."""
    for number in examples:
        place = besieged(folder / str(number), lease_s=LEASE_S)
        try:
            stop_unminded(place, random.Random(f"{seed}-{number}"))  # noqa: S311 - chance that can be repeated
        finally:
            place.end_everything()


def stop_unminded(place: Besieged, chance: random.Random) -> None:
    """Let a worker sleep through the loss of its id, and see it change nothing, end its tasks and give up."""
    home = Home(place.home)
    settings = load_settings(home, environ=place.sandbox.env)
    with (place.home.parent / "worker.log").open("ab") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "cis", "worker", "run", "--id", GLOBAL.worker_id, "--scope", "global"],
            env=dict(place.sandbox.env),
            stderr=log,
        )
    home.ensure()
    store = open_store(home.db)
    try:
        wait_for(lambda: store.workers.get(settings.node_id, GLOBAL.worker_id), timeout_s=60, what="the worker")
        ends = chance.random() < 0.5
        document = {**place.document("x", (0.5 if ends else 600.0, 0.2, 0.2)), "scope": "global"}
        with store.transaction():
            this_node = make_this_node(settings, skills=InstalledSkills())
            submit(store, SubmitRequest(spec=dag_from_plain(document)), this_node=this_node)
        wait_for(place.tasks, timeout_s=60, what="a task")
        pause(chance.uniform(0.0, 0.4))
        stop_outside_a_transaction(worker, store)
        pause(LEASES_STOPPED * LEASE_S)
        row = store.workers.get(settings.node_id, GLOBAL.worker_id)
        assert row is not None
        if chance.random() < 0.5:
            assert bury(store, row, kill=lambda _: (), now_us=now_us())
        else:
            with store.transaction():
                taken = store.workers.take(row._replace(pid=os.getpid()))
                store.queue.hand_over(settings.node_id, GLOBAL.worker_id, epoch=taken.epoch)
        before = rows_of(place)
        if chance.random() < 0.3:
            worker.terminate()
        worker.send_signal(signal.SIGCONT)
        status = worker.wait(timeout=60)
    finally:
        worker.kill()
        worker.wait()
        store.close()
    assert rows_of(place) == before, "a late write"
    assert status == 4
    place.check_nothing_is_left()


def stop_outside_a_transaction(worker: subprocess.Popen[bytes], store: SqliteStore) -> None:
    """Stop a worker where its id can be taken over: as long as it holds the write lock nobody can, whoever it is."""
    store.wait_at_most(0.5)
    while True:
        worker.send_signal(signal.SIGSTOP)
        try:
            with store.transaction():
                return
        except StoreBusyError:
            worker.send_signal(signal.SIGCONT)
            pause(0.01)


@pytest.mark.timeout(3600)
def test_a_worker_that_was_stopped_for_three_leases_changes_nothing_when_it_wakes(tmp_path: Path) -> None:
    seed = first_seed()
    began_s = time.monotonic()
    rescued, unminded = STOPS // 2, STOPS - STOPS // 2
    with ThreadPoolExecutor(2 * LANES) as pool:
        lanes = [
            pool.submit(lane, tmp_path / f"{lane.__name__}-{number}", seed, range(number, count, LANES))
            for lane, count in ((rescued_lane, rescued), (unminded_lane, unminded))
            for number in range(LANES)
        ]
        for done in lanes:
            done.result()
    figures(
        "stop",
        seed=seed,
        seconds=round(time.monotonic() - began_s),
        stops=STOPS,
        rescued=rescued,
        taken_over_and_woken=unminded,
        late_writes=0,
    )
