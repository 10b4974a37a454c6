"""Push: a DAG is typed on one node and runs on another, whatever the network and the machines do meanwhile."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cis.model.message import Message, MessageKind
from cis.model.states import Priority
from cis.node.clock import new_id, now_us
from cis.node.identity import KeyFile
from cis.store import open_store
from cis.store.cluster import OutboxItem, Route
from cis.transports.envelope import MEDIA_TYPE, MESSAGES_PATH, frame, seal
from tests.worlds.cluster import (
    ClusterNode,
    Proxy,
    Weather,
    all_over,
    at_once,
    befriend,
    ended,
    make_nodes,
    running,
    statuses,
)
from tests.worlds.harness import write_dag
from tests.worlds.waiting import wait_for

LONG = os.environ.get("CIS_LONG") == "1"
PROMPT_S = 3.0  # for an answer that should take one second at most, on a machine that is busy

Pair = tuple[ClusterNode, ClusterNode]


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
    stores: Callable[[str, int], list[str]],
) -> Iterator[Pair]:
    """node-1 and node-2, which run and trust each other; each test leaves them so."""
    one, two = make_nodes(tmp_path_factory.mktemp("pair"), 2, stores=stores(request.param, 2))
    befriend(one, two)
    with running(one, two):
        yield one, two


@pytest.fixture
def half(tmp_path: Path) -> Iterator[Pair]:
    """node-2 runs, node-1 does not; they trust each other."""
    one, two = make_nodes(tmp_path, 2)
    befriend(one, two)
    with running(two):
        yield one, two
        if one.process is not None:
            one.stop()


def dag(dag_id: str, *tasks: Mapping[str, Any] | str, **fields: Any) -> dict[str, Any]:
    """Return a document for node-1; a task that is a text is a command, and depends on the one before it."""
    full: list[dict[str, Any]] = []
    for number, task in enumerate(tasks):
        if isinstance(task, str):
            before = {"depends_on": [full[-1]["id"]]} if full else {}
            full.append({"id": f"t{number}", "command": task, **before})
        else:
            full.append(dict(task))
    return {"dag_id": dag_id, "target_node": "node-1", "tasks": full, **fields}


def until(path: Path) -> str:
    """Return a command that waits until a file is there."""
    return f"until test -e {path}; do sleep 0.02; done"


def posted(node: ClusterNode, document: Mapping[str, Any], *, delivery: str = "pushed") -> str:
    """Post a DAG, and return its run's id once it is known to have set out as it should."""
    answer = node.api.execute(document)
    assert (answer.status, answer.body.get("delivery")) == (202, delivery), answer.body
    return str(answer.body["run_id"])


def test_who_asks_hears_on_which_node_a_run_is_and_who_is_told_to_end_it(pair: Pair, tmp_path: Path) -> None:
    _, two = pair
    run_id = posted(two, dag("there", until(tmp_path / "go")))
    try:
        shown = wait_for(
            lambda: [line for line in two.sandbox.cis("dag", "status", run_id).stdout.splitlines() if "heard" in line],
            what="word of it",
        )
        (seen,) = two.sandbox.json("dag", "status", run_id)["runs"]
        cancelled = two.sandbox.cis("dag", "cancel", run_id).stdout
    finally:
        (tmp_path / "go").touch()
        ended(two, run_id)

    assert "on node-1, heard " in shown[0]
    assert seen["last_contact"] is not None
    assert "tasks are being ended" not in cancelled
    assert "cancelled" in cancelled or "node node-1 is told to end it when it can be reached (on node-1" in cancelled


def test_a_dag_for_node_1_runs_there_alone_and_node_2_shows_all_of_it(pair: Pair, tmp_path: Path) -> None:
    """Status, list and logs are the same on both nodes: owner, tasks, outputs, exit codes, every line."""
    _, two = pair
    marker = tmp_path / "worker"
    document = dag(
        "proj-a-whole",
        {"id": "many", "command": f"echo $PPID > {marker}; seq 1 20000; echo to-err >&2; echo version=1.2 >> $CIS_OUTPUT"},
        {"id": "seen", "command": 'echo "$SEEN"; exit 3', "env": {"SEEN": "${tasks.many.outputs.version}"}, "depends_on": ["many"]},
        {"id": "never", "command": "true", "depends_on": ["seen"]},
    )  # fmt: skip

    run_id = posted(two, document)
    ended(two, run_id)
    there, here = (node.sandbox.json("dag", "status", "proj-a-whole")["runs"][0] for node in pair)
    logs_there, logs_here = (node.sandbox.json("dag", "logs", "proj-a-whole") for node in pair)
    listed = [run for run in two.sandbox.json("dag", "list") if run["run_id"] == run_id]
    workers = {node.node_id: node.sandbox.rows("SELECT pid FROM workers") for node in pair}

    assert (here["status"], here["owner_node"], here["node_id"]) == ("failed", "node-1", "node-2")
    assert (here["delivery"], there["delivery"]) == ("pushed", "local")
    assert [(task["status"], task["exit_code"]) for task in here["tasks"]] == [
        ("completed", 0),
        ("failed", 3),
        ("skipped", None),
    ]
    assert here["tasks"][0]["outputs"] == {"version": "1.2"}
    assert here["tasks"] == there["tasks"]
    assert here["error"] == there["error"]
    assert logs_here[0]["output"] == "".join(f"{number}\n" for number in range(1, 20001))
    assert logs_here[0]["error"] == "to-err\n"
    assert logs_here == logs_there
    assert [(run["owner_node"], run["status"]) for run in listed] == [("node-1", "failed")]
    assert (int(marker.read_text()),) in workers["node-1"]
    assert workers["node-2"] == []


def test_values_and_the_words_for_them_cross_to_another_node(pair: Pair) -> None:
    _, two = pair
    declared = {"x": {"type": "number"}, "list": {"type": "array"}}
    document = dag("given", {"id": "t", "command": ["echo", "${params.x}", "${params.list[0]}"]}, params=declared)
    answer = two.api.execute({"dag": document, "params": {"x": 0.1, "list": ["a b"]}})
    run = ended(two, answer.body["run_id"])
    logs = two.api.call("GET", f"/api/v1/runs/{run['run_id']}/logs").body["items"]

    assert (run["status"], run["params"]) == ("completed", {"x": 0.1, "list": ["a b"]})
    assert [log["output"] for log in logs] == ["0.1 a b\n"]


def test_what_exit_statuses_mean_is_known_on_both_nodes(pair: Pair) -> None:
    _, two = pair
    document = dag(
        "codes",
        {"id": "lint", "command": "exit 3", "allow_failure": True},
        {"id": "none", "command": "echo $CIS_TRIGGER; exit 9", "skip_codes": [9], "depends_on": "lint"},
        {"id": "after", "command": "true", "depends_on": "none"},
    )
    run = ended(two, two.api.execute(document).body["run_id"])
    logs = two.api.call("GET", f"/api/v1/runs/{run['run_id']}/logs?task=none").body["items"]

    assert (run["status"], [log["output"] for log in logs]) == ("completed", ["manual\n"])
    assert [
        (one["status"], one["failure_allowed"], one["skip_reason"], one["skipped_because"]) for one in run["tasks"]
    ] == [
        ("failed", True, None, None),
        ("skipped", False, "code", None),
        ("skipped", False, "upstream_skipped", "none"),
    ]


def test_who_follows_the_log_on_node_2_reads_lines_while_the_task_runs_on_node_1(pair: Pair, tmp_path: Path) -> None:
    _, two = pair
    gate, seen = tmp_path / "gate", tmp_path / "seen"
    run_id = posted(two, dag("proj-a-live", f"echo first; {until(gate)}; echo last"))

    with seen.open("wb") as file:
        follower = subprocess.Popen(
            [sys.executable, "-m", "cis", "dag", "logs", "proj-a-live", "--follow"],
            env=dict(two.sandbox.env),
            stdout=file,
        )
    wait_for(lambda: seen.read_text() == "first\n", timeout_s=20, what="the first line")
    wait_for(lambda: two.api.run(run_id)["status"] == "running", what="the run to be seen running")
    gate.touch()
    status = follower.wait(timeout=20)

    assert status == 0
    assert seen.read_text() == "first\nlast\n"


def test_pause_resume_and_cancel_typed_on_node_2_act_on_node_1(pair: Pair, tmp_path: Path) -> None:
    one, two = pair
    gate = tmp_path / "gate"
    run_id = posted(two, dag("proj-b-paused", until(gate), "true"))
    wait_for(lambda: two.api.run(run_id)["status"] == "running", what="the start")

    two.sandbox.json("dag", "pause", "proj-b-paused")
    wait_for(lambda: statuses(one, [run_id])[run_id] == "paused", what="the pause on node-1")
    wait_for(lambda: two.api.run(run_id)["status"] == "paused", what="the pause on node-2")
    gate.touch()
    wait_for(lambda: two.api.run(run_id)["tasks"][0]["status"] == "completed", what="the end of the first task")
    resumed_at = datetime.now(UTC)
    answer = two.api.call("POST", f"/api/v1/runs/{run_id}/resume")
    resumed = ended(two, run_id)
    doomed_id = posted(two, dag("proj-b-doomed", until(tmp_path / "never")))
    wait_for(lambda: two.api.run(doomed_id)["status"] == "running", what="the start of the one to be cancelled")
    two.sandbox.json("dag", "cancel", "proj-b-doomed")
    cancelled = ended(two, doomed_id)

    assert answer.status == 200
    assert resumed["status"] == "completed"
    assert datetime.fromisoformat(resumed["tasks"][1]["started_at"]) >= resumed_at
    assert (cancelled["status"], cancelled["tasks"][0]["status"]) == ("cancelled", "cancelled")
    assert statuses(one, [run_id, doomed_id]) == {run_id: "completed", doomed_id: "cancelled"}


def test_rerun_on_node_2_starts_anew_on_node_1_and_from_failed_keeps_what_was_done(pair: Pair, tmp_path: Path) -> None:
    one, two = pair
    mended, ran = tmp_path / "mended", tmp_path / "ran"
    document = dag(
        "proj-b-again",
        {"id": "once", "command": f"echo once >> {ran}; echo size=7 >> $CIS_OUTPUT"},
        {"id": "then", "command": f"echo then-$N >> {ran}; test -e {mended}", "env": {"N": "${tasks.once.outputs.size}"}, "depends_on": ["once"]},
    )  # fmt: skip
    first = ended(two, posted(two, document))

    mended.touch()
    second_id = two.sandbox.json("dag", "rerun", "proj-b-again", "--from-failed")["run_id"]
    second = ended(two, second_id)
    after_second = ran.read_text().split()
    third_id = two.api.call("POST", f"/api/v1/runs/{second_id}/rerun").body["run_id"]
    third = ended(two, third_id)

    assert [run["status"] for run in (first, second, third)] == ["failed", "completed", "completed"]
    assert after_second == ["once", "then-7", "then-7"]
    assert ran.read_text().split() == ["once", "then-7", "then-7", "once", "then-7"]
    assert second["tasks"][0]["outputs"] == {"size": "7"}
    assert second["rerun_of"] == first["run_id"]
    assert {run["owner_node"] for run in (second, third)} == {"node-1"}
    assert set(statuses(one, [second_id, third_id]).values()) == {"completed"}


def test_a_dag_with_a_skill_that_node_1_lacks_fails_on_node_2_with_the_reason(pair: Pair) -> None:
    one, two = pair

    run = ended(two, two.api.execute(dag("proj-c-skill", {"id": "t", "skill": "nonesuch"})).body["run_id"])

    assert run["status"] == "failed"
    assert run["error"].startswith("node node-1 refused it: ")
    assert "nonesuch" in run["error"]
    assert run["tasks"][0]["status"] == "cancelled"
    assert statuses(one, [run["run_id"]]) == {}
    assert one.audited("refused.execute")[0]["actor"] == "node:node-2"


def test_a_node_that_may_only_read_is_refused_and_the_run_fails_with_the_reason(pair: Pair) -> None:
    one, two = pair
    one.trust(two, may="read,control")
    try:
        run = ended(two, two.api.execute(dag("proj-c-right", "true")).body["run_id"])
    finally:
        one.trust(two)

    assert (run["status"], run["error"]) == ("failed", "node node-1 refused it: node 'node-2' may not execute here")
    assert statuses(one, [run["run_id"]]) == {}


def test_a_cancel_that_is_refused_is_not_shown_as_asked_for_and_the_run_goes_on(pair: Pair, tmp_path: Path) -> None:
    one, two = pair
    gate = tmp_path / "gate"
    run_id = posted(two, dag("proj-c-cancel", until(gate)))
    one.trust(two, may="execute,read")
    try:
        two.api.call("POST", f"/api/v1/runs/{run_id}/cancel")
        wait_for(lambda: one.audited("refused.control"), timeout_s=20, what="the refusal")
        wait_for(lambda: not two.api.run(run_id)["cancel_requested"], timeout_s=20, what="the refusal to be known")
    finally:
        one.trust(two)
        gate.touch()

    assert ended(two, run_id)["status"] == "completed"


def test_one_worker_on_two_nodes_is_a_conflict_on_either_node_and_an_unknown_node_is_named(
    pair: Pair, tmp_path: Path
) -> None:
    """Row 2.2 across nodes: node-2 knows what it handed over, node-1 what it was handed."""
    one, two = pair
    gate = tmp_path / "gate"
    run_id = posted(two, dag("proj-d-first", until(gate)))
    other = {**dag("proj-d-second", "true"), "target_node": "node-2"}
    path = write_dag(tmp_path, other)
    try:
        answers = [node.api.execute(other) for node in pair]
        typed = two.sandbox.cis("dag", "run", path)
        unknown = two.api.execute({**dag("proj-e-x", "true"), "target_node": "node-9"})
        typed_unknown = two.sandbox.cis("dag", "run", path, "--target-node", "node-9", "--scope", "project:e")
    finally:
        gate.touch()
    ended(two, run_id)

    assert [(answer.status, answer.body["code"]) for answer in answers] == [(409, "scope.worker_conflict")] * 2
    assert all(run_id in answer.body["detail"] for answer in answers)
    assert typed.returncode == 4
    assert (unknown.status, unknown.body["code"]) == (422, "node.unknown")
    assert typed_unknown.returncode == 5
    assert "node-9" in typed_unknown.stderr
    assert one.api.execute(other).status == 202


@pytest.mark.timeout(300 if LONG else 120)
def test_thousands_of_tasks_cross_and_all_of_them_are_known_completed_where_they_were_asked_for(pair: Pair) -> None:
    """``CIS_LONG=1``: 5,000 tasks; else 1,000."""
    one, two = pair
    wide = 250 if LONG else 50
    tasks = [
        {"id": f"l{layer}-{number}", "command": "true", **({"depends_on": [f"l{layer - 1}-{number}"]} if layer else {})}
        for layer in range(20)
        for number in range(wide)
    ]

    answer = two.api.execute(dag("proj-f-large", *tasks))
    ended_as = all_over(two, [answer.body["run_id"]], timeout_s=200 if LONG else 100)
    here, there = (
        node.sandbox.rows(
            "SELECT task_id, status, attempts, exit_code, started_at_us, finished_at_us, version FROM run_tasks"
            " WHERE run_id = ? ORDER BY task_no",
            (answer.body["run_id"],),
        )
        for node in (two, one)
    )

    assert list(ended_as.values()) == ["completed"]
    assert len(here) == 20 * wide
    assert {row[1] for row in here} == {"completed"}
    assert here == there


def test_an_origin_that_node_1_cannot_reach_asks_and_learns_everything(pair: Pair, tmp_path: Path) -> None:
    """As a laptop behind NAT: node-1 trusts node-2, and knows no address of it."""
    one, two = pair
    gate = tmp_path / "gate"
    one.sandbox.json("node", "untrust", "node-2")
    one.trust(two, url=None)
    try:
        run_id = posted(two, dag("proj-g-asked", f"echo begun; {until(gate)}; seq 1 20000", "exit 7"))
        wait_for(
            lambda: two.api.run(run_id)["status"] == "running", timeout_s=20, what="the start, as it was asked for"
        )
        gate.touch()
        run = ended(two, run_id)
        logs_there, logs_here = (node.sandbox.json("dag", "logs", "proj-g-asked") for node in pair)
    finally:
        one.trust(two)

    assert (run["status"], run["owner_node"]) == ("failed", "node-1")
    assert [(task["status"], task["exit_code"]) for task in run["tasks"]] == [("completed", 0), ("failed", 7)]
    assert logs_here == logs_there
    assert logs_here[0]["output"].startswith("begun\n1\n2\n")


def test_a_new_key_is_followed_without_a_hand_and_the_old_one_is_refused_from_then_on(pair: Pair) -> None:
    one, two = pair
    old = KeyFile(two.sandbox.home / "node.key").signer()

    new_key = two.sandbox.json("node", "rotate-key")["public_key"]
    one_key = one.sandbox.json("node", "rotate-key")["public_key"]
    run = ended(two, posted(two, dag("proj-h-rotated", "true")))
    known = one.peer("node-2")["public_key"]
    with_old_key = Message(
        kind=MessageKind.PING,
        message_id=new_id(),
        sender="node-2",
        target="node-1",
        created_at_us=now_us(),
        expires_at_us=now_us() + 60_000_000,
    )
    request = urllib.request.Request(  # noqa: S310 - loopback
        one.url + MESSAGES_PATH,
        data=frame(seal(with_old_key, old), with_old_key),
        headers={"Content-Type": MEDIA_TYPE},
        method="POST",
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=20)  # noqa: S310 - loopback
    refused.value.close()
    two.public_key, one.public_key = new_key, one_key

    assert run["status"] == "completed"
    assert known == new_key
    assert refused.value.code == 401
    assert one.audited("refused.message")[0]["actor"] == "unverified:node-2"
    assert [entry["actor"] for entry in one.audited("node.new_key")] == ["node:node-2"]


def test_what_an_untrusted_node_sends_is_refused_until_it_is_trusted_again(pair: Pair) -> None:
    one, two = pair
    one.sandbox.json("node", "untrust", "node-2")
    try:
        run_id = posted(two, dag("proj-h-untrusted", "true"), delivery="queued")
        warning = wait_for(lambda: two.peer("node-1")["warning"], what="the reason in the list")
        depth = two.peer("node-1")["outbox"]
        refused = one.audited("refused.message")[0]
        known = statuses(one, [run_id])
    finally:
        one.trust(two)
    run = ended(two, run_id)

    assert "not trusted" in warning
    assert depth == 1
    assert refused["actor"] == "unverified:node-2"
    assert known == {}
    assert run["status"] == "completed"


def test_runs_that_a_node_has_are_given_up_when_it_is_not_trusted_any_more(pair: Pair, tmp_path: Path) -> None:
    one, two = pair
    gate = tmp_path / "gate"
    run_id = posted(two, dag("proj-h-given-up", until(gate)))
    wait_for(lambda: two.api.run(run_id)["status"] == "running", what="the start")
    try:
        told = two.sandbox.json("node", "untrust", "node-1")
        run = two.api.run(run_id)
    finally:
        gate.touch()
        two.trust(one)
    ended(one, run_id)

    assert told["failed_runs"] == [run_id]
    assert (run["status"], run["tasks"][0]["status"]) == ("failed", "cancelled")
    assert "not trusted any more" in run["error"]


def test_a_dag_for_a_node_that_is_down_is_queued_at_once_and_delivered_by_itself_when_it_comes_up(
    half: Pair, tmp_path: Path
) -> None:
    """Twice: the first post finds out that the node is down, the second knows."""
    one, two = half
    ids = []
    took_s = []
    for number in range(2):
        began = datetime.now(UTC)
        ids.append(posted(two, dag(f"proj-a-late{number}", f"set -C; : > {tmp_path}/$CIS_RUN_ID"), delivery="queued"))
        took_s.append((datetime.now(UTC) - began).total_seconds())
    waiting = [two.api.run(run_id)["status"] for run_id in ids]
    down = two.peer("node-1")

    one.start()
    runs = [ended(two, run_id) for run_id in ids]

    assert max(took_s) < PROMPT_S
    assert waiting == ["pending", "pending"]
    assert (down["reachable"], down["outbox"]) == (False, 2)
    assert [(run["status"], run["delivery"], run["owner_node"]) for run in runs] == [
        ("completed", "pushed", "node-1")
    ] * 2
    assert two.peer("node-1")["outbox"] == 0
    assert {run["tasks"][0]["attempts"] for run in runs} == {1}


def test_cancel_and_pause_asked_while_the_node_is_down_hold_when_it_comes_up(half: Pair, tmp_path: Path) -> None:
    """The one that is cancelled was tried, so it may have arrived for all that node-2 knows; it never starts."""
    one, two = half
    tried = posted(two, dag("proj-a-tried", f"touch {tmp_path}/tried"), delivery="queued")
    paused = posted(two, dag("proj-b-paused", until(tmp_path / "gate"), "true"), delivery="queued")
    for action, run_id in (("cancel", tried), ("pause", paused)):
        assert two.api.call("POST", f"/api/v1/runs/{run_id}/{action}").status == 200
    later = posted(two, dag("proj-c-later", "true"), delivery="queued")

    one.start()
    ended(two, later)
    cancelled = ended(two, tried)
    wait_for(lambda: two.api.run(paused)["status"] == "paused", timeout_s=30, what="the pause")
    (tmp_path / "gate").touch()
    two.api.call("POST", f"/api/v1/runs/{paused}/resume")
    resumed = ended(two, paused)

    assert (cancelled["status"], cancelled["tasks"][0]["status"]) == ("cancelled", "cancelled")
    assert not (tmp_path / "tried").exists()
    assert resumed["status"] == "completed"
    assert statuses(one, [tried]).get(tried) in (None, "cancelled")


def test_what_is_cancelled_while_its_node_is_dead_is_not_begun_again_when_it_comes_back(
    half: Pair, tmp_path: Path
) -> None:
    one, two = half
    one.start()
    gate, tries = tmp_path / "gate", tmp_path / "tries"
    run_id = posted(two, dag("proj-a-long", f"echo $CIS_ATTEMPT >> {tries}; {until(gate)}"))
    wait_for(tries.exists, timeout_s=30, what="the task")
    one.kill()
    assert two.api.call("POST", f"/api/v1/runs/{run_id}/cancel").status == 200

    one.start()
    run = ended(two, run_id)
    alone = ended(one, run_id)

    assert (run["status"], alone["status"]) == ("cancelled", "cancelled")
    assert tries.read_text().split() == ["1"]


def test_a_dag_that_expires_before_its_node_is_up_fails_as_expired_and_is_never_run(half: Pair, tmp_path: Path) -> None:
    """That whose first try finds out that the node is down, and one that waits behind another, which does not expire."""
    one, two = half
    one.start()
    ended(two, posted(two, dag("proj-a-warm", "true")))
    one.stop()
    first = posted(two, dag("proj-b-late", f"touch {tmp_path}/ran", expires="1s"), delivery="queued")
    urgent = posted(two, dag("proj-a-urgent", "true", priority="high"), delivery="queued")
    behind = posted(two, dag("proj-c-late", f"touch {tmp_path}/ran", expires="1s"), delivery="queued")

    runs = [ended(two, run_id, timeout_s=30) for run_id in (first, behind)]
    one.start()
    ended(two, urgent)

    assert [(run["status"], run["tasks"][0]["status"]) for run in runs] == [("failed", "cancelled")] * 2
    assert all(run["error"].startswith("expired: node node-1 was not reached in time") for run in runs)
    assert statuses(one, [first, behind]) == {}
    assert not (tmp_path / "ran").exists()
    assert statuses(two, [first, behind]) == {first: "failed", behind: "failed"}


def test_without_a_node_of_its_own_a_run_is_stored_and_sent_when_that_node_starts(tmp_path: Path) -> None:
    one, two = make_nodes(tmp_path, 2)
    befriend(one, two)
    path = write_dag(tmp_path, {"dag_id": "proj-a-stored", "tasks": [{"id": "t", "command": "true"}]})
    with running(one):
        typed = two.sandbox.json("dag", "run", path, "--target-node", "node-1")
        with running(two):
            run = ended(two, typed["run_id"])

    assert (typed["status"], typed["delivery"]) == ("pending", "queued")
    assert (run["status"], run["owner_node"], run["delivery"]) == ("completed", "node-1", "pushed")


@pytest.mark.timeout(1200 if LONG else 120)
def test_through_a_bad_network_each_of_many_dags_runs_exactly_once_and_both_ends_agree(tmp_path: Path) -> None:
    """The peer is down for half of them; both ways drop, lose answers, delay, double and reorder.

    ``CIS_LONG=1``: 500 DAGs; else 60. A second execution would find the file of the first, and fail.
    """
    count = 500 if LONG else 60
    one, two = make_nodes(tmp_path, 2)
    markers = tmp_path / "ran"
    markers.mkdir()

    def post(number: int) -> str:
        command = f"echo run-$CIS_RUN_ID; set -C; : > {markers}/$CIS_RUN_ID"
        answer = two.api.execute(dag(f"proj-{'abcd'[number % 4]}-{number}", command))
        assert answer.status == 202, answer.body
        return str(answer.body["run_id"])

    with (
        Proxy(one.url, seed=1, weather=Weather.foul()) as there,
        Proxy(two.url, seed=2, weather=Weather.foul()) as back,
    ):
        at_once([lambda: one.trust(two, url=back.url), lambda: two.trust(one, url=there.url)])
        with running(two):
            there.off()
            ids = [post(number) for number in range(count // 2)]
            there.on()
            with running(one):
                ids += [post(number) for number in range(count // 2, count)]
                as_told = all_over(two, ids, timeout_s=1000 if LONG else 60)
                as_run = all_over(one, ids, timeout_s=10)
    rows = [
        node.sandbox.rows(
            "SELECT run_id, task_id, attempt, status, exit_code, stdout_tail, started_at_us, finished_at_us"
            " FROM task_executions ORDER BY run_id"
        )
        for node in (one, two)
    ]

    sys.stdout.write(f"{count} DAGs; requests there {dict(there.done)}, back {dict(back.done)}\n")
    assert {"drop_before", "drop_after", "double", "hold", "delay", "passed"} <= set(there.done)
    assert {"drop_before", "drop_after", "double", "hold", "delay", "passed"} <= set(back.done)
    assert there.done["overtaken"] + back.done["overtaken"] > 0
    assert as_told == as_run
    assert set(as_run.values()) == {"completed"}
    assert sorted(path.name for path in markers.iterdir()) == sorted(ids)
    assert len(rows[0]) == count
    assert rows[0] == rows[1]


def test_with_both_nodes_killed_in_the_middle_every_run_ends_completed_and_they_agree(tmp_path: Path) -> None:
    """node-2 is killed while a message of its is under way, node-1 while it runs what it was given."""
    one, two = make_nodes(tmp_path, 2)
    markers = tmp_path / "ran"
    markers.mkdir()
    gate = tmp_path / "gate"
    command = f"set -C; : > {markers}/$CIS_RUN_ID.$CIS_ATTEMPT; {until(gate)}"
    with Proxy(one.url, seed=3) as there:
        at_once([lambda: one.trust(two), lambda: two.trust(one, url=there.url)])
        with running(one, two):
            ids = [posted(two, dag(f"proj-{name}-x", command)) for name in "abc"]
            wait_for(lambda: len(list(markers.iterdir())) == len(ids), timeout_s=30, what="the tasks to begin")
            there.weather = Weather(hold=1.0, hold_s=60.0)
            ids.append(posted(two, dag("proj-d-x", command), delivery="queued"))  # it is under way, and held
            two.kill()
            there.off()  # what was held never arrives
            there.weather = Weather()
            there.on()
            one.kill()
            one.start()
            two.start()
            wait_for((markers / f"{ids[3]}.1").exists, timeout_s=30, what="what was under way to begin")
            gate.touch()
            as_told, as_run = (all_over(node, ids, timeout_s=60) for node in (two, one))
            tasks = [
                node.sandbox.rows("SELECT run_id, status, attempts, exit_code FROM run_tasks ORDER BY run_id")
                for node in (one, two)
            ]

    assert as_told == as_run
    assert set(as_run.values()) == {"completed"}
    assert tasks[0] == tasks[1]
    assert {path.name.rpartition(".")[0] for path in markers.iterdir()} == set(ids)
    assert [path.name for path in markers.iterdir() if path.name.startswith(ids[3])] == [f"{ids[3]}.1"]


def test_nothing_stays_in_the_outbox_for_a_run_that_is_over_or_a_node_that_is_unknown(tmp_path: Path) -> None:
    """node-2 cannot reach node-1, which tells it the end of a run all the same; the pause comes too late, with the answer."""
    one, two = make_nodes(tmp_path, 2)
    gate = tmp_path / "gate"
    with Proxy(one.url, seed=4) as there:
        at_once([lambda: one.trust(two), lambda: two.trust(one, url=there.url)])
        with running(one, two):
            run_id = posted(two, dag("proj-a-x", until(gate)))
            wait_for(lambda: two.api.run(run_id)["tasks"][0]["status"] == "running", timeout_s=30, what="the task")
            there.off()
            two.api.call("POST", f"/api/v1/runs/{run_id}/pause")
            asked = two.sandbox.rows("SELECT kind FROM outbox")
            gate.touch()
            run = ended(two, run_id)
            left = two.sandbox.rows("SELECT kind FROM outbox")
            with contextlib.closing(open_store(two.sandbox.home / "cis.db")) as store, store.transaction():
                store.outbox.add(_control_of(run_id, node_id="node-9"))
            wait_for(lambda: not two.sandbox.rows("SELECT kind FROM outbox"), what="an empty outbox")

    assert run["status"] == "completed"
    assert asked == [("io.cis.dag.control",)]
    assert left == []


def test_what_is_asked_of_a_run_reaches_a_node_that_cannot_be_reached_with_the_answers_to_its_reports(
    tmp_path: Path,
) -> None:
    one, two = make_nodes(tmp_path, 2)
    gates = [tmp_path / "first", tmp_path / "second"]
    with Proxy(one.url, seed=5) as there:
        at_once([lambda: one.trust(two), lambda: two.trust(one, url=there.url)])
        with running(one, two):
            run_id = posted(two, dag("proj-a-x", until(gates[0]), until(gates[1]), "true"))
            wait_for(lambda: two.api.run(run_id)["tasks"][0]["status"] == "running", timeout_s=30, what="the task")
            there.off()
            two.api.call("POST", f"/api/v1/runs/{run_id}/cancel")
            gates[0].touch()
            run = ended(two, run_id)

    assert run["status"] == "cancelled"
    assert run["tasks"][2]["status"] == "cancelled"


def _control_of(run_id: str, *, node_id: str) -> OutboxItem:
    return OutboxItem(
        message_id=new_id(),
        kind=MessageKind.CONTROL,
        run_id=run_id,
        node_id=node_id,
        route=Route.PUSH,
        priority=Priority.NORMAL,
        created_at_us=now_us(),
        expires_at_us=now_us() + 3_600_000_000,
        due_at_us=now_us(),
        fields={"action": "pause", "seq": 1},
    )
