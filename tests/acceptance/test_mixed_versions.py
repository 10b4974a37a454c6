"""A node of an earlier commit and one of this one work together: push, room, status and control, both ways."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.worlds.cluster import ClusterNode, at_once, befriend, ended, make_nodes, running, statuses
from tests.worlds.harness import write_dag
from tests.worlds.homeserver import Homeserver
from tests.worlds.rooms import RoomCluster, make_room_nodes, start_in_room
from tests.worlds.versions import BEFORE_SIDES, earlier_source
from tests.worlds.waiting import wait_for

Pair = tuple[ClusterNode, ClusterNode]
BOTH_WAYS = pytest.mark.parametrize("now_is", ["origin", "executing"])
FINAL_ROWS = (
    "SELECT task_id, status, attempts, exit_code, outputs, error, blocked_by, started_at_us, finished_at_us"
    " FROM run_tasks WHERE run_id = ? ORDER BY task_no"
)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source of a node of before."""
    return earlier_source(BEFORE_SIDES, tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def pushing(earlier: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """node-1 of now and node-2 of before, which run and reach each other by HTTP."""
    one, two = make_nodes(tmp_path_factory.mktemp("pushing"), 2, sources={"node-2": earlier})
    befriend(one, two)
    with running(one, two):
        yield one, two


@pytest.fixture(scope="module")
def in_room(earlier: Path, homeserver: Homeserver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """node-1 of now and node-2 of before, which run and reach each other by a room alone; each has its own label."""
    cluster: RoomCluster = make_room_nodes(
        tmp_path_factory.mktemp("room"),
        homeserver,
        2,
        settings={"node-1": {"node.labels": '["now"]'}, "node-2": {"node.labels": '["before"]'}},
        sources={"node-2": earlier},
    )
    one, two = cluster.nodes
    try:
        start_in_room(cluster)
        yield one, two
    finally:
        at_once(node.stop for node in cluster.nodes)


def sides(pair: Pair, now_is: str) -> Pair:
    """Return the node that accepts a run, and the one that executes it."""
    one, two = pair
    return (one, two) if now_is == "origin" else (two, one)


def begun(origin: ClusterNode, document: dict[str, Any]) -> str:
    """Hand a DAG in, and return its run once its first task is seen to run."""
    run_id = str(origin.api.execute(document).body["run_id"])
    wait_for(lambda: origin.api.run(run_id)["tasks"][0]["status"] == "running", timeout_s=30, what="the first task")
    return run_id


def holding(dag_id: str, gate: Path, **fields: Any) -> dict[str, Any]:
    """Return a DAG whose first task waits for a file."""
    wait = f"until test -e {gate}; do sleep 0.05; done"
    return {"dag_id": dag_id, "tasks": [{"id": "a", "command": wait}, {"id": "b", "command": "echo b", "depends_on": ["a"]}], **fields}  # fmt: skip


def strict(dag_id: str, node_id: str) -> dict[str, Any]:
    """Return a DAG that fails where text is read by ``/bin/sh -e``."""
    return {"dag_id": dag_id, "target_node": node_id, "tasks": [{"id": "a", "command": "false\ntrue"}]}


def taken_at_once(origin: ClusterNode, document: dict[str, Any]) -> dict[str, Any]:
    """Hand a DAG in over HTTP until its answer says that the peer has it: a slow one answers after the first was told."""
    found: list[dict[str, Any]] = []

    def taken() -> bool:
        found.append(origin.api.execute(document).body)
        return bool(found[-1]["delivery"] == "pushed" or not ended(origin, found[-1]["run_id"]))

    wait_for(taken, timeout_s=60, what="an answer of the peer in time")
    return found[-1]


def paused_resumed_and_cancelled(origin: ClusterNode, executing: ClusterNode, folder: Path, **where: Any) -> None:
    """Control a run of *origin* at *executing* in each way, and see that both nodes have it so."""
    run_id = begun(origin, holding("held", folder / "gate", **where))
    origin.sandbox.json("dag", "pause", "held", "--run", run_id)
    wait_for(lambda: origin.api.run(run_id)["status"] == "paused", timeout_s=30, what="the pause")
    (folder / "gate").touch()
    wait_for(
        lambda: origin.api.run(run_id)["tasks"][0]["status"] == "completed", timeout_s=30, what="the first task's end"
    )
    assert origin.api.run(run_id)["tasks"][1]["status"] == "pending"
    origin.sandbox.json("dag", "resume", "held", "--run", run_id)
    assert ended(origin, run_id)["status"] == "completed"

    doomed = begun(origin, holding("doomed", folder / "never", **where))
    origin.sandbox.json("dag", "cancel", "doomed", "--run", doomed)
    assert ended(origin, doomed)["status"] == "cancelled"
    assert statuses(executing, [run_id, doomed]) == {run_id: "completed", doomed: "cancelled"}


@BOTH_WAYS
def test_a_run_that_is_pushed_is_the_same_on_both_nodes_row_by_row_and_line_by_line(
    pushing: Pair, now_is: str, tmp_path: Path
) -> None:
    origin, executing = sides(pushing, now_is)
    document = {
        "dag_id": f"whole-{now_is}",
        "target_node": executing.node_id,
        "tasks": [
            {"id": "many", "command": "seq 1 20000; echo to-err >&2; echo version=1.2 >> $CIS_OUTPUT"},
            {"id": "tried", "command": f"test -e {tmp_path}/mended", "max_retries": 1, "retry_delay": "100ms", "depends_on": ["many"]},
            {"id": "never", "command": "true", "depends_on": ["tried"]},
        ],
    }  # fmt: skip
    first = ended(origin, origin.api.execute(document).body["run_id"])
    rows = [node.sandbox.rows(FINAL_ROWS, (first["run_id"],)) for node in (origin, executing)]
    logs = [
        node.sandbox.json("dag", "logs", f"whole-{now_is}", "--run", first["run_id"]) for node in (origin, executing)
    ]
    (tmp_path / "mended").touch()
    again = origin.sandbox.json("dag", "rerun", f"whole-{now_is}", "--from-failed")["run_id"]
    second = ended(origin, again)

    assert (first["status"], first["owner_node"]) == ("failed", executing.node_id)
    assert rows[0] == rows[1]
    assert [row[:3] for row in rows[0]] == [("many", "completed", 1), ("tried", "failed", 2), ("never", "skipped", 0)]
    assert logs[0] == logs[1]
    assert second["status"] == "completed"
    assert second["tasks"][0]["outputs"] == {"version": "1.2"}
    kept = "SELECT status, attempts FROM run_tasks WHERE run_id = ? AND task_id = 'many'"
    assert executing.sandbox.rows(kept, (again,)) == [("completed", 0)]


@BOTH_WAYS
def test_a_run_that_was_pushed_is_paused_resumed_and_cancelled_from_its_origin(
    pushing: Pair, now_is: str, tmp_path: Path
) -> None:
    origin, executing = sides(pushing, now_is)
    paused_resumed_and_cancelled(origin, executing, tmp_path, target_node=executing.node_id)


def test_text_that_a_node_of_before_reads_or_sends_is_read_without_dash_e_and_who_hands_it_in_is_told(
    pushing: Pair, tmp_path: Path
) -> None:
    one, two = pushing
    told = [
        taken_at_once(one, strict("told-1", "node-2")),
        one.sandbox.json("dag", "run", write_dag(tmp_path, strict("told-2", "node-2")), "--wait"),
    ]
    listed = one.api.execute({"dag_id": "listed", "target_node": "node-2", "tasks": [{"id": "a", "command": ["true"]}]})
    done = [ended(one, answer["run_id"])["status"] for answer in (*told, listed.body)]
    sent = two.api.execute(strict("sent", "node-1")).body

    assert done == ["completed"] * 3
    for answer in told:
        (warning,) = answer["warnings"]
        assert warning.startswith("node node-2 runs an earlier program")
    assert listed.body["warnings"] == []
    assert ended(two, sent["run_id"])["status"] == "completed"


def test_what_a_node_of_before_does_not_know_it_refuses_by_name_and_the_origin_says_so(pushing: Pair) -> None:
    one, _ = pushing
    task = {"id": "a", "command": ["echo", "${params.word}"]}
    declared = {"dag_id": "given", "target_node": "node-2", "params": {"word": {"type": "string"}}, "tasks": [task]}
    run = ended(one, one.api.execute({"dag": declared, "params": {"word": "w"}}).body["run_id"])

    assert run["status"] == "failed"
    assert "node node-2 refused it" in run["error"]
    assert "params" in run["error"]
    for word, value in (("skip_codes", [9]), ("when", "node.id == 'node-2'"), ("trigger_rule", "all_done")):
        coded = {"id": "a", "command": "exit 9", word: value}
        run = ended(one, one.api.execute({"dag_id": "coded", "target_node": "node-2", "tasks": [coded]}).body["run_id"])
        assert (run["status"], word in run["error"]) == ("failed", True)


@BOTH_WAYS
def test_an_origin_that_its_executing_node_cannot_reach_asks_and_learns_all(
    pushing: Pair, now_is: str, tmp_path: Path
) -> None:
    origin, executing = sides(pushing, now_is)
    executing.sandbox.json("node", "untrust", origin.node_id)
    executing.trust(origin, url=None)
    try:
        run_id = begun(origin, holding("asked", tmp_path / "gate", target_node=executing.node_id))
        (tmp_path / "gate").touch()
        run = ended(origin, run_id)
    finally:
        executing.trust(origin)

    assert run["status"] == "completed"


@BOTH_WAYS
def test_a_dag_that_is_offered_in_the_room_is_claimed_granted_and_told_of(in_room: Pair, now_is: str) -> None:
    origin, executing = sides(in_room, now_is)
    label = "now" if executing is in_room[0] else "before"
    document = {"dag_id": "offered", "labels": [label], "tasks": [{"id": "a", "command": "echo v=1 >> $CIS_OUTPUT"}]}
    answer = origin.api.execute(document)
    run = ended(origin, answer.body["run_id"])

    assert answer.body["delivery"] == "broadcast"
    assert (run["status"], run["owner_node"]) == ("completed", executing.node_id)
    assert run["tasks"][0]["outputs"] == {"v": "1"}


@BOTH_WAYS
def test_a_run_that_the_room_carried_is_paused_resumed_and_cancelled_from_its_origin(
    in_room: Pair, now_is: str, tmp_path: Path
) -> None:
    origin, executing = sides(in_room, now_is)
    paused_resumed_and_cancelled(origin, executing, tmp_path, target_node=executing.node_id)
