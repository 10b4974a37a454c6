"""Unaddressed DAGs in a room of five nodes: each runs exactly once, whatever is killed meanwhile.

Each task makes a file that can be made once (``set -C``), named by run and attempt: a second node that ran the same
run would begin at attempt 1 as well, find the file there, and fail. ``CIS_LONG=1`` makes it the full 200 DAGs.
"""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.worlds.cluster import ClusterNode, all_over, at_once
from tests.worlds.homeserver import Homeserver
from tests.worlds.rooms import RoomCluster, make_room_nodes, start_in_room
from tests.worlds.waiting import wait_for

LONG = bool(os.environ.get("CIS_LONG"))
DAGS = 200 if LONG else 40
NODES = 5
KILL_EVERY_S = 2.0
TIMEOUT_S = 400.0 if LONG else 120.0
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def cluster(homeserver: Homeserver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RoomCluster]:
    """Give the tests five running nodes."""
    made = make_room_nodes(tmp_path_factory.mktemp("cluster"), homeserver, NODES, lines=("[worker]", 'grace = "2s"'))
    try:
        start_in_room(made)
        yield made
    finally:
        at_once(node.stop for node in made.nodes)


def submit(cluster: RoomCluster, folder: Path, *, pause: str = "") -> dict[str, list[str]]:
    """Hand DAGs in, in turn at each of the first two nodes; return their run ids by node."""
    command = f"set -C; echo $CIS_NODE_ID > {folder}/$CIS_RUN_ID.$CIS_ATTEMPT{pause}"
    document = {"dag_id": "any", "tasks": [{"id": "a", "command": command}]}
    found: dict[str, list[str]] = {}
    for number in range(DAGS):
        node = cluster.nodes[number % 2]
        answer = node.api.execute(document)
        assert answer.status == 202, answer.body
        found.setdefault(node.node_id, []).append(answer.body["run_id"])
    return found


def check(cluster: RoomCluster, folder: Path, submitted: dict[str, list[str]], *, lost: bool) -> Counter[str]:
    """Wait until all is over, check that each ran exactly once, and return how many each node ran."""
    holders: dict[str, str] = {}
    for node in cluster.nodes[:2]:
        ended = all_over(node, submitted[node.node_id], timeout_s=TIMEOUT_S)
        assert Counter(ended.values()) == {"completed": len(ended)}, _why(node, ended)
        holders |= dict(node.sandbox.rows("SELECT run_id, owner_node FROM dag_runs"))
    wanted = {run_id for run_ids in submitted.values() for run_id in run_ids}
    marks = [(path.stem, int(path.suffix[1:]), path.read_text().strip()) for path in folder.iterdir()]
    if not lost:
        assert sorted(run_id for run_id, _, _ in marks) == sorted(wanted)
    assert {run_id for run_id, _, _ in marks} == wanted
    assert [run_id for run_id, _, node_id in marks if node_id != holders[run_id]] == []
    for run_id in wanted:
        done = [node for node in cluster.nodes if _completed_here(node, run_id)]
        assert [node.node_id for node in done] == [holders[run_id]], run_id
    return Counter(holders[run_id] for run_id in wanted)


def _completed_here(node: ClusterNode, run_id: str) -> bool:
    sql = "SELECT 1 FROM task_executions WHERE run_id = ? AND status = 'completed' AND worker_id NOT LIKE '%/%'"
    return bool(node.sandbox.rows(sql, (run_id,)))


def _why(node: ClusterNode, ended: dict[str, str]) -> str:
    bad = [run_id for run_id, status in ended.items() if status != "completed"]
    return str(node.sandbox.rows("SELECT run_id, status, error, owner_node FROM dag_runs WHERE run_id = ?", (bad[0],)))


@contextmanager
def meanwhile(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Do *work* in a thread until the block ends; fail if it failed."""
    over, failed = threading.Event(), []

    def run() -> None:
        try:
            work(over)
        except BaseException as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if failed:
        raise failed[0]


def test_each_runs_exactly_once_and_they_are_spread(cluster: RoomCluster, tmp_path: Path) -> None:
    spread = check(cluster, tmp_path, submit(cluster, tmp_path), lost=False)

    print(f"spread: {dict(spread)}")  # noqa: T201 - a figure for whoever reads along
    assert len(spread) >= NODES - 1
    assert max(spread.values()) <= DAGS * 0.6


def test_each_runs_exactly_once_while_a_node_is_killed_every_two_seconds(cluster: RoomCluster, tmp_path: Path) -> None:
    """Any node, the offering ones too. A task that was cut short is tried again, by the same node."""
    chance = random.Random(7)  # noqa: S311 - not a secret
    kills: list[str] = []

    def kill(over: threading.Event) -> None:
        while not over.wait(KILL_EVERY_S):
            node = chance.choice(cluster.nodes)
            node.kill()
            kills.append(node.node_id)
            node.start()

    submitted = submit(cluster, tmp_path, pause="; sleep 0.2")
    with meanwhile(kill):
        wait_for(lambda: len(kills) >= 3, timeout_s=60, what="three kills")
        for node in cluster.nodes[:2]:
            all_over(node, submitted[node.node_id], timeout_s=TIMEOUT_S)
    spread = check(cluster, tmp_path, submitted, lost=True)

    print(f"kills: {len(kills)}, spread: {dict(spread)}")  # noqa: T201 - a figure for whoever reads along


def test_each_runs_exactly_once_while_the_homeserver_is_killed_three_times(
    cluster: RoomCluster, homeserver: Homeserver, tmp_path: Path
) -> None:
    kills: list[str] = []

    def kill(over: threading.Event) -> None:
        while len(kills) < 3 and not over.wait(1.5):
            homeserver.kill()
            kills.append("homeserver")
            homeserver.start()

    with meanwhile(kill):
        submitted = submit(cluster, tmp_path)
        wait_for(lambda: len(kills) >= 3, timeout_s=60, what="three kills")
    spread = check(cluster, tmp_path, submitted, lost=False)

    print(f"kills: {len(kills)}, spread: {dict(spread)}")  # noqa: T201 - a figure for whoever reads along
