"""The rules of trust in other nodes: what a second word of trust keeps, and what becomes of runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from cis.app.actor import Actor
from cis.app.trust import Trusted, trust, untrust
from cis.errors import NotFoundError
from cis.model.message import MessageKind
from cis.model.scope_rules import given_patterns
from cis.model.states import RunState
from cis.store.cluster import PeerRecord
from tests.worlds.deciding import Decider, decider, spec_of

ALICE = Actor(name="user:alice", source="cli")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Decider]:
    with decider(tmp_path) as node:
        yield node


def trusted(node: Decider, *, keep: tuple[str, ...] = (), **changes: Any) -> Trusted:
    peer = PeerRecord(node_id="node-2", public_key="key-2", may=("execute",), trusted_at_us=node.now_us)
    with node.store.transaction():
        return trust(node.store, replace(peer, **changes), key_id="0123", keep=keep, by=ALICE)


def audited(node: Decider) -> list[tuple[str, str]]:
    return [(one.action, one.subject) for one in node.store.audit.page(limit=99) if one.actor == "user:alice"]


def test_what_is_not_given_again_stays_and_what_is_given_empty_goes(node: Decider) -> None:
    kept = trusted(node, keep=("url", "matrix_user", "scopes")).peer
    emptied = trusted(node, keep=("matrix_user",)).peer

    assert (kept.url, kept.matrix_user) == ("http://127.0.0.1:1", "@node-2:x")
    assert (emptied.url, emptied.matrix_user) == (None, "@node-2:x")
    assert node.store.peers.get("node-2") == emptied


def test_what_was_learnt_of_a_node_stays_when_it_is_trusted_again(node: Decider) -> None:
    said = {"node_id", "public_key", "may", "trusted_at_us", "url", "matrix_user", "scopes"}
    learnt = {"contact_at_us": 5, "clock_ahead_us": 7, "fault": "no route"}
    assert {field.name for field in fields(PeerRecord)} == said | learnt.keys()
    old = node.store.peers.get("node-2")
    assert old is not None
    with node.store.transaction():
        node.store.peers.put(replace(old, **learnt))  # type: ignore[arg-type]

    same = trusted(node, keep=("url",)).peer
    elsewhere = trusted(node, url="http://127.0.0.1:2").peer

    assert {name: getattr(same, name) for name in learnt} == learnt
    assert (elsewhere.contact_at_us, elsewhere.fault) == (5, None)


def test_runs_of_scopes_that_a_node_may_use_no_more_are_cancelled_and_their_workers_woken(node: Decider) -> None:
    for name in ("a", "b"):
        spec = spec_of(scope=f"project:{name}", target_node="node-1")
        node.hears(MessageKind.EXECUTE, "node-2", f"run-{name}", requested=spec)

    found = trusted(node, keep=("url",), scopes=given_patterns("project:a"))

    assert found.wake == {"worker-project-b"}
    assert [node.run(f"run-{name}").status for name in ("a", "b")] == [RunState.PENDING, RunState.CANCELLED]
    assert audited(node) == [("node.trust", "node-2 0123 may execute, in scopes project:a")]


def test_a_node_that_may_execute_nothing_any_more_has_no_run_left_here(node: Decider) -> None:
    node.hears(MessageKind.EXECUTE, "node-2", "run-a", requested=spec_of(target_node="node-1"))

    trusted(node, may=("read",))

    assert node.run("run-a").status is RunState.CANCELLED


def test_trust_that_ends_fails_what_the_node_has_and_cancels_what_it_sent(node: Decider) -> None:
    sent = node.submitted(target_node="node-2")
    node.hears(MessageKind.EXECUTE, "node-2", "run-a", requested=spec_of(scope="project:a", target_node="node-1"))

    with node.store.transaction():
        found = untrust(node.store, "node-2", by=ALICE, now_us=node.now_us)

    assert (found.failed, found.cancelled, set(found.wake)) == ((sent.run_id,), ("run-a",), {"worker-project-a"})
    assert node.run(sent.run_id).error == "node node-2 has it, and is not trusted any more"
    assert node.store.peers.get("node-2") is None
    assert audited(node) == [("node.untrust", "node-2")]


def test_a_node_that_is_not_trusted_cannot_be_trusted_less(node: Decider) -> None:
    with pytest.raises(NotFoundError), node.store.transaction():
        untrust(node.store, "node-9", by=ALICE, now_us=node.now_us)

    assert audited(node) == []
