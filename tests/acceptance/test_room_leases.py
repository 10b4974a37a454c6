"""A run that the room granted to a node is never executed by two at once, and never forgotten, whoever vanishes."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.worlds.cluster import ClusterNode, at_once, ended
from tests.worlds.homeserver import Homeserver
from tests.worlds.rooms import RoomCluster, make_room_nodes, start_in_room
from tests.worlds.waiting import wait_for

LEASE_S = 10.0
GONE_S = 3 * LEASE_S


@pytest.fixture(scope="module")
def cluster(homeserver: Homeserver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RoomCluster]:
    """Give the tests three nodes: node-1 offers and takes nothing itself."""
    made = make_room_nodes(
        tmp_path_factory.mktemp("cluster"),
        homeserver,
        3,
        lines=("[worker]", 'grace = "1s"'),
        settings={"node-1": {"matrix.lease": f'"{LEASE_S:g}s"', "node.accept_broadcast": "false"}},
    )
    try:
        start_in_room(made)
        yield made
    finally:
        at_once(node.stop for node in made.nodes)


def offered(cluster: RoomCluster, folder: Path) -> str:
    """Offer a DAG whose second task writes who runs it, and when, until it is told to stop; wait until it runs."""
    beat = f'while ! test -e {folder}/stop; do echo "$CIS_NODE_ID $(date +%s.%N)" >> {folder}/beats; sleep 0.1; done'
    document = {
        "dag_id": "beats",
        "tasks": [
            {"id": "once", "command": f"echo $CIS_NODE_ID >> {folder}/once"},
            {"id": "beat", "command": beat, "depends_on": ["once"]},
        ],
    }
    run_id = str(cluster.nodes[0].api.execute(document).body["run_id"])
    wait_for(lambda: beats(folder), timeout_s=30, what="the task to run")
    wait_for(lambda: cluster.nodes[0].api.run(run_id)["status"] == "running", timeout_s=10, what="the first report")
    return run_id


def beats(folder: Path) -> list[tuple[str, float]]:
    """Return who ran the task, and when."""
    path = folder / "beats"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(line.split()[0], float(line.split()[1])) for line in lines if len(line.split()) == 2]


def holder(cluster: RoomCluster, run_id: str) -> ClusterNode:
    """Return the node to which a run is granted now."""
    owner = cluster.nodes[0].api.run(run_id)["owner_node"]
    return next(node for node in cluster.nodes if node.node_id == owner)


def finished(cluster: RoomCluster, folder: Path, run_id: str) -> Any:
    """Let the task end, and return the run."""
    (folder / "stop").touch()
    return ended(cluster.nodes[0], run_id, timeout_s=60)


def assert_one_at_a_time(folder: Path) -> None:
    """Check that whoever ran the task last began only when the others had stopped for good."""
    seen = beats(folder)
    names = [name for name, _ in sorted(seen, key=lambda beat: beat[1])]
    changes = sum(one != other for one, other in itertools.pairwise(names))
    assert changes == len(set(names)) - 1, names


def test_a_holder_that_died_is_followed_by_another_which_keeps_what_was_done(
    cluster: RoomCluster, tmp_path: Path
) -> None:
    run_id = offered(cluster, tmp_path)
    first = holder(cluster, run_id)
    wait_for(
        lambda: cluster.nodes[0].api.run(run_id)["tasks"][0]["status"] == "completed", timeout_s=10, what="the report"
    )
    first.kill()
    try:
        wait_for(
            lambda: {name for name, _ in beats(tmp_path)} != {first.node_id}, timeout_s=GONE_S, what="another node"
        )
        run = finished(cluster, tmp_path, run_id)
    finally:
        first.start()

    assert run["status"] == "completed"
    assert run["owner_node"] not in (first.node_id, "node-1")
    assert (tmp_path / "once").read_text().split() == [first.node_id]
    assert_one_at_a_time(tmp_path)
    wait_for(
        lambda: first.sandbox.rows("SELECT status FROM dag_runs WHERE run_id = ?", (run_id,)) == [("cancelled",)],
        timeout_s=30,
        what="the old holder to let go",
    )


def test_a_holder_whose_node_sleeps_stops_by_itself_before_another_begins(cluster: RoomCluster, tmp_path: Path) -> None:
    """Its worker goes on without the node; nobody tells it to stop but the lease."""
    run_id = offered(cluster, tmp_path)
    first = holder(cluster, run_id)
    assert first.process is not None
    first.process.send_signal(signal.SIGSTOP)
    try:
        wait_for(
            lambda: {name for name, _ in beats(tmp_path)} != {first.node_id}, timeout_s=GONE_S, what="another node"
        )
        new_at_s = min(at_s for name, at_s in beats(tmp_path) if name != first.node_id)
        wait_for(lambda: time.time() > new_at_s + 2, what="two seconds of the new holder")
    finally:
        first.process.send_signal(signal.SIGCONT)
    run = finished(cluster, tmp_path, run_id)

    assert run["status"] == "completed"
    assert_one_at_a_time(tmp_path)
    assert run["owner_node"] != first.node_id


def test_a_homeserver_that_was_gone_for_long_delays_a_run_and_never_doubles_it(
    cluster: RoomCluster, homeserver: Homeserver, tmp_path: Path
) -> None:
    run_id = offered(cluster, tmp_path)
    first = holder(cluster, run_id)
    homeserver.stop()
    try:
        suspended = "SELECT 1 FROM worker_queue WHERE run_id = ? AND status = 'suspended'"
        wait_for(lambda: first.sandbox.rows(suspended, (run_id,)), timeout_s=GONE_S, what="the holder to stop")
        still = len(beats(tmp_path))
        wait_for(lambda: time.time() > beats(tmp_path)[-1][1] + 2, timeout_s=30, what="two quiet seconds")
        quiet = len(beats(tmp_path))
    finally:
        homeserver.start()
    wait_for(lambda: len(beats(tmp_path)) > quiet, timeout_s=GONE_S, what="the run to go on")
    run = finished(cluster, tmp_path, run_id)

    assert quiet - still <= 12
    assert run["status"] == "completed"
    assert_one_at_a_time(tmp_path)
