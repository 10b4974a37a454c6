"""Rows 4.2, 4.3 and 7.3: nodes that reach each other by a room alone, on a real homeserver."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.worlds.cluster import ClusterNode, all_over, at_once, ended, free_port
from tests.worlds.homeserver import Homeserver
from tests.worlds.rooms import Person, RoomCluster, make_room_nodes, start_in_room
from tests.worlds.waiting import wait_for

EXECUTE = "io.cis.dag.execute"
MANY_TASKS = 5000


@pytest.fixture(scope="module")
def cluster(
    homeserver: Homeserver,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
    stores: Callable[[str, int], list[str]],
) -> Iterator[RoomCluster]:
    """Give the tests three running nodes; node-1 alone has the label gpu, and answers alice."""
    folder = tmp_path_factory.mktemp("cluster")
    made = make_room_nodes(
        folder,
        homeserver,
        3,
        stores=stores(request.param, 3),
        settings={
            "node-1": {"node.labels": '["gpu"]'},
            "node-2": {"matrix.fall_back_after": '"1s"'},
            "node-3": {"node.accept_broadcast": "false"},
        },
    )
    made.people["alice"] = made.newcomer("alice")
    made.people["bob"] = made.newcomer("bob")
    made.people["carol"] = made.newcomer("carol")
    toml = made.nodes[0].sandbox.home / "cis.toml"
    allow = "\n[[matrix.allow]]\nuser_id = {!r}\nmay = {}\n"
    toml.write_text(
        toml.read_text()
        + allow.format(made.people["alice"].user_id, '["read", "execute", "control"]').replace("'", '"')
        + allow.format(made.people["bob"].user_id, '["read"]').replace("'", '"')
        + allow.format(made.people["carol"].user_id, '["read", "execute", "control"]').replace("'", '"')
        + 'scopes = ["project:carols"]\n'
    )
    try:
        start_in_room(made)
        yield made
    finally:
        at_once(node.stop for node in made.nodes)


def hello(tmp_path: Path, **fields: Any) -> dict[str, Any]:
    """Return a DAG whose task leaves a mark that can be made once, and says on which node it ran."""
    command = f"set -C; echo $CIS_NODE_ID > {tmp_path}/$CIS_RUN_ID.$CIS_ATTEMPT; echo ran on $CIS_NODE_ID; echo e >&2"
    return {"dag_id": "hello", "tasks": [{"id": "a", "command": command}], **fields}


def marks(tmp_path: Path) -> list[str]:
    """Return where tasks have run."""
    return [path.read_text().strip() for path in sorted(tmp_path.iterdir())]


def known(node: ClusterNode, run_id: str) -> bool:
    """Whether a node's database has a run."""
    return bool(node.sandbox.rows("SELECT 1 FROM dag_runs WHERE run_id = ?", (run_id,)))


def test_a_dag_that_node_2_puts_into_the_room_runs_on_node_1_alone(cluster: RoomCluster, tmp_path: Path) -> None:
    """Row 7.3."""
    one, two, three = cluster.nodes
    answer = two.api.execute(hello(tmp_path, target_node="node-1"))
    run_id = answer.body["run_id"]
    run = ended(two, run_id)
    logs = two.sandbox.json("dag", "logs", "hello", "--run", run_id)
    status = two.sandbox.json("dag", "status", "hello", "--run", run_id)["runs"][0]
    cluster.synced()

    assert (answer.status, answer.body["delivery"], answer.body["target_node"]) == (202, "queued", "node-1")
    assert (run["status"], run["owner_node"]) == ("completed", "node-1")
    assert marks(tmp_path) == ["node-1"]
    assert (logs[0]["output"], logs[0]["error"]) == ("ran on node-1\n", "e\n")
    assert [(task["id"], task["status"], task["exit_code"]) for task in status["tasks"]] == [("a", "completed", 0)]
    assert ended(one, run_id)["status"] == "completed"
    assert not known(three, run_id)


def test_the_event_has_what_the_contract_names_and_no_float(cluster: RoomCluster, tmp_path: Path) -> None:
    """Row 4.2."""
    two = cluster.nodes[1]
    document = hello(tmp_path, target_node="node-1", scope="project:proj-a", priority="high")
    document["tasks"][0] |= {"timeout": "90.5s", "retry_delay": "500ms"}
    run_id = two.api.execute(document).body["run_id"]
    ended(two, run_id)
    event = next(one for one in cluster.events(EXECUTE) if one["content"].get("run_id") == run_id)
    content = event["content"]

    assert event["sender"] == cluster.person(two).user_id
    assert content["dag_id"] == "hello"
    assert content["tasks"][0]["id"] == "a"
    assert content["scope"] == {"type": "project", "id": "proj-a"}
    assert content["target_node"] == "node-1"
    assert content["priority"] == "high"
    assert isinstance(content["timestamp"], int)
    assert content["timestamp"] < content["expires_at"]
    assert content["signatures"]["node-2"]


def test_a_dag_without_a_target_runs_on_exactly_one_node_that_takes_such(cluster: RoomCluster, tmp_path: Path) -> None:
    """Row 4.3; node-3 has accept_broadcast = false."""
    three = cluster.nodes[2]
    answers = [three.api.execute(hello(tmp_path)) for _ in range(6)]
    runs = [ended(three, answer.body["run_id"]) for answer in answers]

    assert {answer.body["delivery"] for answer in answers} == {"broadcast"}
    assert {run["status"] for run in runs} == {"completed"}
    assert len(marks(tmp_path)) == 6
    assert set(marks(tmp_path)) <= {"node-1", "node-2"}
    assert sorted(run["owner_node"] for run in runs) == sorted(marks(tmp_path))


def test_a_dag_that_asks_for_a_label_runs_where_it_is(cluster: RoomCluster, tmp_path: Path) -> None:
    two = cluster.nodes[1]
    runs = [ended(two, two.api.execute(hello(tmp_path, labels=["gpu"])).body["run_id"]) for _ in range(3)]

    assert [run["owner_node"] for run in runs] == ["node-1"] * 3
    assert marks(tmp_path) == ["node-1"] * 3


def test_an_offer_that_nobody_can_take_says_so_and_can_be_cancelled(cluster: RoomCluster, tmp_path: Path) -> None:
    two = cluster.nodes[1]
    run_id = two.api.execute(hello(tmp_path, labels=["quantum"])).body["run_id"]
    waiting = wait_for(
        lambda: (two.api.run(run_id)["waiting"] or {}).get("message") == "is on offer in the room", what="the offer"
    )
    cancelled = two.api.call("POST", f"/api/v1/runs/{run_id}/cancel").body

    assert waiting
    assert cancelled["status"] == "cancelled"
    assert marks(tmp_path) == []


def test_an_offer_that_expired_is_reported_as_expired_and_not_executed(cluster: RoomCluster, tmp_path: Path) -> None:
    two = cluster.nodes[1]
    run_id = two.api.execute(hello(tmp_path, labels=["quantum"], expires="1s")).body["run_id"]
    run = ended(two, run_id)

    assert run["status"] == "failed"
    assert "expired" in run["error"]
    assert marks(tmp_path) == []


def test_a_dag_of_many_tasks_crosses_as_a_reference_and_its_state_comes_back(cluster: RoomCluster) -> None:
    two = cluster.nodes[1]
    tasks = [
        {"id": f"t{n}", "command": "true", "depends_on": [f"t{n - 50}"] if n >= 50 else []} for n in range(MANY_TASKS)
    ]
    run_id = two.api.execute({"dag_id": "many", "target_node": "node-1", "tasks": tasks}).body["run_id"]
    all_over(two, [run_id], timeout_s=90)  # not by the API: the page of such a run is of a megabyte
    run = two.api.run(run_id)
    content = next(one["content"] for one in cluster.events(EXECUTE) if one["content"].get("run_id") == run_id)

    assert run["status"] == "completed"
    assert {task["status"] for task in run["tasks"]} == {"completed"}
    assert len(run["tasks"]) == MANY_TASKS
    assert content["dag_ref"]["mxc"].startswith("mxc://")
    assert "tasks" not in content


def test_cancel_pause_and_resume_work_through_the_room(cluster: RoomCluster, tmp_path: Path) -> None:
    one, two, _ = cluster.nodes
    document = {
        "dag_id": "slow",
        "target_node": "node-1",
        "tasks": [
            {"id": "a", "command": f"while ! test -e {tmp_path}/go; do sleep 0.05; done"},
            {"id": "b", "command": "sleep 60", "depends_on": ["a"]},
        ],
    }
    run_id = two.api.execute(document).body["run_id"]
    wait_for(lambda: two.api.run(run_id)["tasks"][0]["status"] == "running", timeout_s=30, what="the first task")
    two.sandbox.json("dag", "pause", "slow")
    wait_for(lambda: two.api.run(run_id)["status"] == "paused", timeout_s=30, what="the pause")
    (tmp_path / "go").touch()
    wait_for(
        lambda: two.api.run(run_id)["tasks"][0]["status"] == "completed", timeout_s=30, what="the first task's end"
    )
    held = two.api.run(run_id)["tasks"][1]["status"]
    two.sandbox.json("dag", "resume", "slow")
    wait_for(lambda: two.api.run(run_id)["tasks"][1]["status"] == "running", timeout_s=30, what="the second task")
    two.sandbox.json("dag", "cancel", "slow")
    run = ended(two, run_id)

    assert held == "pending"
    assert run["status"] == "cancelled"
    assert ended(one, run_id)["status"] == "cancelled"


def test_a_dag_that_its_node_refuses_fails_with_the_reason(cluster: RoomCluster) -> None:
    two = cluster.nodes[1]
    document = {"dag_id": "odd", "target_node": "node-1", "tasks": [{"id": "a", "skill": "no-such-skill"}]}
    run = ended(two, two.api.execute(document).body["run_id"])

    assert run["status"] == "failed"
    assert "node-1 refused it" in run["error"]
    assert "no-such-skill" in run["error"]


def answers_to(cluster: RoomCluster, event_id: str) -> list[str]:
    """Return what was said in the thread of a message."""
    found = []
    for event in cluster.events("m.room.message"):
        relation = event["content"].get("m.relates_to", {})
        if relation.get("rel_type") == "m.thread" and relation.get("event_id") == event_id:
            assert event["content"]["msgtype"] == "m.notice"
            found.append(event["content"]["body"])
    return found


def asked(cluster: RoomCluster, person: Person, text: str) -> str:
    """Say something and return the first answer."""
    event_id = person.say(cluster.room_id, text)
    found = wait_for(lambda: answers_to(cluster, event_id), timeout_s=20, what=f"an answer to {text}")
    return found[0]


def test_people_on_the_list_may_ask_and_run_what_is_stored(cluster: RoomCluster, tmp_path: Path) -> None:
    one = cluster.nodes[0]
    alice, bob = cluster.people["alice"], cluster.people["bob"]
    path = tmp_path / "greet.yaml"
    path.write_text("dag_id: greet\ntarget_node: node-1\ntasks:\n  - {id: a, command: 'echo good day; exit 3'}\n")
    one.sandbox.json("dag", "save", str(path))
    event_id = alice.say(cluster.room_id, "!dag run greet")

    def told() -> list[str] | None:
        said = answers_to(cluster, event_id)
        return said if any(text.startswith("greet failed") for text in said) else None

    thread = wait_for(told, timeout_s=30, what="the end of the run in the thread") or []

    assert thread[0].startswith("run ")
    assert any(text.startswith("greet started on node-1") for text in thread)
    assert any(text.startswith("a: exit status 3") and "good day" in text for text in thread)
    assert " after " in next(text for text in thread if text.startswith("greet failed"))
    assert "greet — 1 task" in asked(cluster, bob, "!dag list")
    assert "greet failed" in asked(cluster, bob, "!dag status greet")
    assert "good day" in asked(cluster, alice, "!dag logs greet a")
    assert "worker-global" in asked(cluster, alice, "!dag workers")
    begun = one.sandbox.json("dag", "status", "greet")["runs"][0]["trigger"]
    assert (begun["kind"], begun["id"], begun["by"]) == ("room", event_id, alice.user_id)
    assert "node-2" in asked(cluster, alice, "!dag nodes")
    assert "!dag run DAG" in asked(cluster, alice, "!dag help")
    assert asked(cluster, bob, "!dag run greet") == "you may not execute here"
    assert "did you mean" in asked(cluster, alice, "!dag stauts")
    assert asked(cluster, alice, "!dag run greet; touch x").startswith("!dag run cannot be read like this")


def test_a_person_of_some_scopes_sees_and_runs_nothing_of_others(cluster: RoomCluster, tmp_path: Path) -> None:
    one, carol = cluster.nodes[0], cluster.people["carol"]
    task = [{"id": "a", "command": "echo secret words"}]
    inner = {"dag_id": "child", "scope": "project:others", "tasks": task}
    for document in (
        {"dag_id": "not-hers", "target_node": "node-1", "tasks": task},
        {"dag_id": "hers", "target_node": "node-1", "scope": "project:carols", "tasks": task},
        {
            "dag_id": "reaches-out",
            "target_node": "node-1",
            "scope": "project:carols",
            "tasks": [{"id": "c", "skill": "dag", "params": {"document": inner}}],
        },
    ):
        path = tmp_path / "stored.json"
        path.write_text(json.dumps(document))
        one.sandbox.json("dag", "save", str(path))
    others = one.api.execute({"dag_id": "not-hers", "target_node": "node-1", "tasks": task}).body["run_id"]
    ended(one, others)

    listed = asked(cluster, carol, "!dag list")
    assert "hers — 1 task" in listed
    assert "not-hers" not in listed
    for words in ("run not-hers", "status not-hers", "logs not-hers", "cancel not-hers"):
        answer = asked(cluster, carol, f"!dag {words}")
        assert "no DAG 'not-hers'" in answer
        assert "'cis " not in answer  # she may have no shell there
        assert "secret words" not in answer
    run_id = asked(cluster, carol, "!dag run hers").split()[1]
    assert ended(one, run_id)["status"] == "completed"
    status = asked(cluster, carol, "!dag status")
    assert run_id in status
    assert others not in status
    assert "worker-global" not in asked(cluster, carol, "!dag workers")
    reached = ended(one, asked(cluster, carol, "!dag run reaches-out").split()[1])
    assert reached["status"] == "failed"
    assert "may not run DAGs of scope project:others" in reached["tasks"][0]["error"]


def test_a_cancel_in_the_room_ends_a_run(cluster: RoomCluster, tmp_path: Path) -> None:
    one, alice = cluster.nodes[0], cluster.people["alice"]
    path = tmp_path / "long.yaml"
    path.write_text("dag_id: long\ntarget_node: node-1\ntasks:\n  - {id: a, command: sleep 60}\n")
    one.sandbox.json("dag", "save", str(path))
    run_id = asked(cluster, alice, "!dag run long --node node-1").split()[1]
    wait_for(lambda: one.api.run(run_id)["status"] == "running", timeout_s=20, what="the run to begin")

    assert run_id in asked(cluster, alice, "!dag cancel long")
    assert ended(one, run_id)["status"] == "cancelled"


def test_what_a_stranger_or_an_edit_says_is_passed_over(cluster: RoomCluster) -> None:
    one, alice = cluster.nodes[0], cluster.people["alice"]
    stranger = cluster.newcomer("stranger")
    plain = {"msgtype": "m.text", "body": "!dag run greet"}
    first = alice.say(cluster.room_id, "good morning")
    edit = {**plain, "m.relates_to": {"rel_type": "m.replace", "event_id": first}, "m.new_content": plain}
    said = [
        stranger.say(cluster.room_id, "!dag list"),
        alice.send(cluster.room_id, "m.room.message", edit).json()["event_id"],
        alice.send(cluster.room_id, "m.room.message", {"msgtype": "m.notice", "body": "!dag list"}).json()["event_id"],
    ]
    runs = len(one.sandbox.rows("SELECT 1 FROM dag_runs"))
    cluster.synced()
    asked(cluster, alice, "!dag help")

    assert [answers_to(cluster, event_id) for event_id in said] == [[], [], []]
    assert len(one.sandbox.rows("SELECT 1 FROM dag_runs")) == runs
    assert any(entry["actor"] == f"matrix:{stranger.user_id}" for entry in one.audited("refused.chat"))


def test_a_push_that_fails_for_long_goes_by_the_room_under_the_same_run_id(
    cluster: RoomCluster, tmp_path: Path
) -> None:
    one, two, _ = cluster.nodes
    trust = ["node", "trust", "node-1", one.public_key]
    two.sandbox.json(*trust, "--url", f"http://127.0.0.1:{free_port()}")  # where nobody listens
    try:
        answer = two.api.execute(hello(tmp_path, target_node="node-1")).body
        run = ended(two, answer["run_id"])
    finally:
        two.sandbox.json(*trust, "--url", "")

    assert answer["delivery"] == "queued"
    assert (run["status"], run["owner_node"]) == ("completed", "node-1")
    assert marks(tmp_path) == ["node-1"]
    assert two.sandbox.rows("SELECT 1 FROM outbox WHERE run_id = ?", (answer["run_id"],)) == []


def test_a_node_that_was_away_catches_up_and_reports_what_expired(cluster: RoomCluster, tmp_path: Path) -> None:
    one, two, _ = cluster.nodes
    one.stop()
    try:
        expired_s = time.time() + 1.0
        late = two.api.execute(hello(tmp_path, target_node="node-1", expires="900ms")).body["run_id"]
        good = two.api.execute(hello(tmp_path, target_node="node-1")).body["run_id"]
        wait_for(
            lambda: {late, good} <= {event["content"].get("run_id") for event in cluster.events(EXECUTE)},
            timeout_s=20,
            what="both in the room",
        )
        wait_for(lambda: time.time() > expired_s, what="the first to expire")
    finally:
        start_in_room(cluster, one)
    runs = [ended(two, run_id) for run_id in (late, good)]

    assert [run["status"] for run in runs] == ["failed", "completed"]
    assert "expired" in runs[0]["error"]
    assert len(marks(tmp_path)) == 1
    assert not known(one, late)
