"""Real nodes in a room whose homeserver lies: a run that was granted is never executed by two of them at once."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from cis.node.identity import set_text
from tests.worlds.cluster import ClusterNode, at_once, make_nodes
from tests.worlds.lying_homeserver import ROOM_ID, Event, LyingHomeserver, lying_homeserver
from tests.worlds.waiting import wait_for

LEASE_S = 10.0
GRANT, STATUS, CLAIM = "io.cis.dag.grant", "io.cis.dag.status", "io.cis.dag.claim"


@pytest.fixture
def homeserver() -> Iterator[LyingHomeserver]:
    """Give a test a homeserver that does what it is told."""
    with lying_homeserver() as homeserver:
        yield homeserver


@pytest.fixture
def nodes(homeserver: LyingHomeserver, tmp_path: Path) -> Iterator[list[ClusterNode]]:
    """Give a test three nodes in its room: node-1 offers and takes nothing; the others do not run yet."""
    made = make_nodes(tmp_path, 3)
    for node in made:
        toml, user = node.sandbox.home / "cis.toml", f"@{node.node_id}:cis.test"
        homeserver.users[f"token-{node.node_id}"] = user
        for key, value in (("homeserver", homeserver.url), ("user_id", user), ("room_id", ROOM_ID)):
            set_text(toml, section="matrix", key=key, value=value)
        broadcast = "" if node is not made[0] else "accept_broadcast = false\n"
        text = toml.read_text().replace("[node]\n", f"[node]\n{broadcast}", 1)
        text = text.replace("[matrix]\n", f'[matrix]\nlease = "{LEASE_S:g}s"\n', 1)
        toml.write_text(f'{text}\n[worker]\ngrace = "1s"\n')
        token = node.sandbox.home / "matrix.token"
        token.write_text(f"token-{node.node_id}")
        token.chmod(0o600)
    for node in made:
        for other in made:
            if other is not node:
                user = f"@{other.node_id}:cis.test"
                node.sandbox.json("node", "trust", other.node_id, other.public_key, "--matrix-user", user)
    try:
        yield made
    finally:
        at_once(node.stop for node in made)


def enter(*nodes: ClusterNode) -> None:
    """Start nodes, and wait until each has entered the room."""
    at_once(node.start for node in nodes)
    for node in nodes:
        wait_for(partial(_has_entered, node), timeout_s=30, what=f"{node.node_id} to enter the room")


def _has_entered(node: ClusterNode) -> bool:
    return bool(node.sandbox.rows("SELECT 1 FROM room_cursors"))


def offered(node: ClusterNode, folder: Path) -> str:
    """Offer a DAG whose task writes who runs it, and when, until it is told to stop."""
    beat = f'while ! test -e {folder}/stop; do echo "$CIS_NODE_ID $(date +%s.%N)" >> {folder}/beats; sleep 0.1; done'
    answer = node.api.execute({"dag_id": "beats", "tasks": [{"id": "beat", "command": beat}]})
    return str(answer.body["run_id"])


def beats(folder: Path) -> dict[str, list[float]]:
    """Return when each node ran the task."""
    path, found = folder / "beats", dict[str, list[float]]()
    for line in path.read_text().splitlines() if path.exists() else []:
        node_id, _, at_s = line.partition(" ")
        found.setdefault(node_id, []).append(float(at_s))
    return found


def assert_never_at_once(folder: Path) -> None:
    """Check that each node that ran the task had stopped before another began."""
    spans = sorted((min(times), max(times), node_id) for node_id, times in beats(folder).items())
    assert all(one[1] < other[0] for one, other in itertools.pairwise(spans)), spans


@pytest.mark.timeout(240)
def test_a_holder_whose_word_the_homeserver_took_and_kept_stops_before_another_begins(
    homeserver: LyingHomeserver, nodes: list[ClusterNode], tmp_path: Path
) -> None:
    """It answers 200 to each status event, and shows it to nobody: only the arbiter's answer renews the lease."""
    arbiter, first, second = nodes
    enter(arbiter, first)
    run_id = offered(arbiter, tmp_path)
    wait_for(lambda: beats(tmp_path), timeout_s=60, what="the task to run")
    holder = f"@{first.node_id}:cis.test"
    homeserver.withholds = lambda user, event: (
        event.sender == holder and event.type in (STATUS, CLAIM) and user != holder
    )
    enter(second)
    wait_for(lambda: second.node_id in beats(tmp_path), timeout_s=90, what="the other node to run it")
    began_s = min(beats(tmp_path)[second.node_id])
    wait_for(lambda: time.time() > began_s + 3, what="three seconds of the other node")
    kept = homeserver.said(STATUS, sender=first.node_id)
    (tmp_path / "stop").touch()

    assert arbiter.api.finished(run_id, timeout_s=90)["status"] == "completed"
    assert len(kept) > 2
    assert_never_at_once(tmp_path)


@pytest.mark.timeout(240)
def test_a_grant_that_was_withheld_and_comes_late_as_if_it_were_new_is_not_taken_up(
    homeserver: LyingHomeserver, nodes: list[ClusterNode], tmp_path: Path
) -> None:
    """The run went elsewhere meanwhile, and its offer was shown once more, so that nothing says how old the grant is."""
    arbiter, first, second = nodes
    enter(arbiter, first)
    reader = f"@{first.node_id}:cis.test"

    def withheld(user: str, event: Event) -> bool:
        return user == reader and event.type == GRANT and event.age_ms is None

    homeserver.withholds = withheld
    run_id = offered(arbiter, tmp_path)
    wait_for(lambda: homeserver.said(GRANT, node_id=first.node_id, epoch=1), timeout_s=60, what="the first grant")
    (grant, *_) = homeserver.said(GRANT, node_id=first.node_id, epoch=1)
    first.kill()  # so that the other one takes what is offered again; its home is as it was
    enter(second)
    wait_for(lambda: second.node_id in beats(tmp_path), timeout_s=90, what="the other node to run it")
    enter(first)
    before = len(homeserver.said(CLAIM, sender=first.node_id))
    for _ in range(3):
        homeserver.repeat(grant, age_ms=0)
    dealt_with = "SELECT 1 FROM room_events WHERE event_id = ? AND state != 'new'"
    last = homeserver.events[-1].event_id
    wait_for(lambda: first.sandbox.rows(dealt_with, (last,)), timeout_s=30, what="the grant to be read")
    read_s = time.time()
    wait_for(lambda: time.time() > read_s + 2, what="two seconds in which it could begin")
    (tmp_path / "stop").touch()

    assert arbiter.api.finished(run_id, timeout_s=90)["status"] == "completed"
    assert list(beats(tmp_path)) == [second.node_id]
    assert before >= 1
