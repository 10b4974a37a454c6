"""A node that was restored from a backup asks before it does anything that it may have done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cis.engine.accept import control
from cis.engine.observe.views import read_run
from cis.federation import restored
from cis.federation.executing import claiming
from cis.federation.origin import arbiter
from cis.federation.origin.outbox import message_of
from cis.federation.restored import Restored, mark_restored
from cis.model.message import MessageKind, Reply, Result
from cis.model.states import RunState, TaskState
from cis.store.cluster import RemoteRole, Route
from cis.store.records import RunRecord
from tests.worlds.deciding import SECOND_US, Decider, decider, spec_of

EXECUTE, CONTROL, STATUS, CLAIM, GRANT = (
    MessageKind.EXECUTE,
    MessageKind.CONTROL,
    MessageKind.STATUS,
    MessageKind.CLAIM,
    MessageKind.GRANT,
)
RUN_ID = "run-of-node-2"
LEASE_S = 60.0


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Decider]:
    """Give a test node-1, which knows what time node-2 has."""
    with decider(tmp_path) as node:
        with node.store.transaction():
            node.store.peers.note_contact("node-2", now_us=node.now_us, clock_ahead_us=0)
        yield node


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[Decider]:
    """Give a test another node-1, which sends runs to node-2."""
    (tmp_path / "origin").mkdir()
    with decider(tmp_path / "origin") as origin:
        yield origin


def restore(node: Decider) -> Restored:
    """Put a backup in place that is as the node is now, an hour later."""
    node.later(3600)
    with node.store.transaction():
        return mark_restored(node.store, node_id="node-1", lease_s=LEASE_S, now_us=node.now_us)


def hears_execute(node: Decider, *, made_s_ago: float = 0.0, in_room: bool = False, **fields: Any) -> Reply:
    """Hear node-2 hand a DAG in, in a message that was made a while ago."""
    wanted = spec_of(target_node="node-1")
    return node.hears(EXECUTE, "node-2", RUN_ID, requested=wanted, in_room=in_room, made_s_ago=made_s_ago, **fields)


def words(node: Decider, run_id: str) -> str:
    """Return why a run waits, in words for people."""
    view: Any = read_run(node.store, run_id)
    return str(view["waiting"]["message"])


# What comes to it.


def test_a_message_of_before_the_restore_is_not_acted_upon_until_its_origin_confirms_it(node: Decider) -> None:
    """It may be read again in the room, or repeated by somebody on the network."""
    restore(node)
    replayed = hears_execute(node, made_s_ago=7200)
    guessed = hears_execute(node, made_s_ago=7200, confirms="a-guess")
    nothing = node.store.runs.get(RUN_ID)
    confirmed = hears_execute(node, made_s_ago=7200, confirms=replayed.fields["confirm"])

    assert (replayed.result, replayed.code) == (Result.LATER, "run.unconfirmed")
    assert (guessed.result, nothing) == (Result.LATER, None)
    assert confirmed.result is Result.ACCEPTED


def test_a_message_of_after_the_restore_is_acted_upon_at_once_where_its_senders_clock_is_known(node: Decider) -> None:
    restore(node)
    node.later(600)
    with node.store.transaction():
        peer = node.store.peers.get("node-2")
        assert peer is not None
        node.store.peers.put(replace(peer, clock_ahead_us=None))
    unknown = hears_execute(node)
    with node.store.transaction():
        node.store.peers.put(replace(peer, clock_ahead_us=3 * 3600 * SECOND_US))
    ahead = hears_execute(node, expires_in_s=36_000.0)
    with node.store.transaction():
        node.store.peers.put(replace(peer, clock_ahead_us=0))

    assert (unknown.result, ahead.result) == (Result.LATER, Result.LATER)
    assert hears_execute(node).result is Result.ACCEPTED


def test_in_the_room_the_origin_is_asked_and_a_message_of_before_is_refused_to_nobody(node: Decider) -> None:
    """A refusal would fail the run at its origin."""
    restore(node)
    reply = hears_execute(node, made_s_ago=7200, in_room=True)
    (question,) = node.posted(RUN_ID, STATUS)

    assert reply.result is Result.DUPLICATE
    assert node.store.offers.ask(RUN_ID, question.fields["confirm"]) is not None
    assert question.node_id == "node-2"


def test_what_was_typed_before_the_restore_is_past(node: Decider) -> None:
    never = restored.is_past(node.store.restores, node.now_us)
    restore(node)

    assert not never
    assert restored.is_past(node.store.restores, node.now_us)
    assert not restored.is_past(node.store.restores, node.now_us + SECOND_US)


# The origin's side.


def sent(origin: Decider) -> RunRecord:
    """Hand a run to node-2."""
    return origin.submitted({}, {}, target_node="node-2")


def test_an_origin_sends_a_run_again_in_answer_to_a_question_unless_it_has_heard_of_its_beginning(
    origin: Decider,
) -> None:
    run, begun = sent(origin), sent(origin)
    origin.change(begun.run_id, applied_version=1)
    for one in (run, begun):
        reply = origin.hears(STATUS, "node-2", one.run_id, epoch=0, state="unconfirmed", confirm="nonce-7")
        assert reply.result is Result.ACCEPTED
    (item,) = origin.posted(run.run_id, EXECUTE)
    message = message_of(origin.store, item, sender="node-1", lease_s=LEASE_S)

    assert message.fields["confirms"] == "nonce-7"
    assert "confirms" not in origin.posted(begun.run_id, EXECUTE)[0].fields


def asks(origin: Decider, run_id: str, *, version: int = 1, steps: int = 2, paused: bool = False) -> list[str]:
    """Hear node-2, which was restored, ask about a run; return what it is told to do."""
    told = {"version": version, "steps": steps, "paused": paused}
    reply = origin.hears(STATUS, "node-2", run_id, epoch=0, state="paused", restored=told)
    assert reply.result is Result.ACCEPTED, reply
    return [item.fields["action"] for item in origin.posted(run_id, CONTROL)]


def test_a_restored_node_is_told_to_go_on_with_what_its_origin_knows_no_more_of(origin: Decider) -> None:
    assert asks(origin, sent(origin).run_id) == ["resume"]
    assert asks(origin, sent(origin).run_id, paused=True) == []


def test_a_restored_node_is_told_to_let_go_of_what_is_over(origin: Decider) -> None:
    run = sent(origin)
    with origin.store.transaction():
        origin.store.runs.set_aside(run.run_id, error="", now_us=origin.now_us, status=RunState.COMPLETED)

    assert asks(origin, run.run_id) == ["cancel"]
    assert origin.run(run.run_id).status is RunState.COMPLETED


@pytest.mark.parametrize("of", ["run", "task"])
def test_a_run_that_went_on_after_the_backup_is_failed_with_what_is_known_and_let_go_of(
    origin: Decider, of: str
) -> None:
    """Its node would do again what is completed; 'rerun --from-failed' keeps that."""
    run = sent(origin)
    if of == "run":
        origin.change(run.run_id, applied_version=4)
    else:
        (first, _) = origin.store.tasks.of_run(run.run_id)
        with origin.store.transaction():
            origin.store.tasks.mirror([first._replace(status=TaskState.COMPLETED, version=3)])

    assert asks(origin, run.run_id) == ["cancel"]
    assert origin.run(run.run_id).status is RunState.FAILED
    assert "--from-failed" in (origin.run(run.run_id).error or "")


@pytest.mark.parametrize(
    "told", [None, [], {}, {"version": True, "steps": 1, "paused": False}, {"version": 1, "steps": 1}]
)
def test_a_question_that_is_malformed_is_refused(origin: Decider, told: Any) -> None:
    run = sent(origin)
    reply = origin.hears(STATUS, "node-2", run.run_id, epoch=0, restored=told or "odd")

    assert (reply.result, reply.code) == (Result.REFUSED, "message.malformed")


# What it had.


def test_a_run_of_its_own_is_held_until_somebody_decides(node: Decider) -> None:
    run = node.submitted(target_node="node-1")
    found = restore(node)
    held, why = node.run(run.run_id).status, words(node, run.run_id)
    with node.store.transaction():
        control.resume(node.store, run.run_id, now_us=node.now_us)

    assert (found.held, found.asked) == (1, 0)
    assert held is RunState.PAUSED
    assert "restored from a backup" in why
    assert "cis dag resume" in why
    assert node.run(run.run_id).status is RunState.PENDING
    assert node.store.restores.doubted() == 0


def test_a_run_of_another_node_is_held_and_that_node_is_asked_and_obeyed(node: Decider) -> None:
    hears_execute(node)
    found = restore(node)
    (question,) = node.posted(RUN_ID, STATUS)
    held = node.run(RUN_ID).status
    node.hears(CONTROL, "node-2", RUN_ID, action="resume", seq=5)

    assert (found.held, found.asked) == (0, 1)
    assert (question.route, question.node_id) == (Route.PUSH, "node-2")
    assert question.fields["restored"] == {"version": 1, "steps": 1, "paused": False}
    assert held is RunState.PAUSED
    assert node.run(RUN_ID).status is RunState.PENDING
    assert node.store.restores.doubted() == 0


def test_a_run_that_the_room_granted_is_let_go_and_no_nonce_of_before_counts(node: Decider) -> None:
    fields: dict[str, Any] = {"labels": [], "priority": "normal", "lease_ms": 60_000, "nonces": True}
    node.hears(EXECUTE, "node-2", RUN_ID, target=None, epoch=0, **fields)
    with node.store.transaction():
        claim = claiming.make_claim(node.store.offers, node.offer(RUN_ID), free=1, this_node=node.this_node)
    assert claim is not None
    nonce = claim.fields["nonce"]
    node.hears(
        GRANT,
        "node-2",
        RUN_ID,
        target=None,
        node_id="node-1",
        epoch=1,
        lease_ms=60_000,
        nonce=nonce,
        requested=spec_of(),
    )
    found = restore(node)
    again = node.hears(GRANT, "node-2", RUN_ID, target=None, node_id="node-1", epoch=2, lease_ms=60_000, nonce=nonce)

    assert found.let_go == 1
    assert (node.run(RUN_ID).status, node.remote(RUN_ID).open) == (RunState.CANCELLED, False)
    assert node.store.queue.get(RUN_ID) is None
    assert again.result is Result.LATER


def test_an_offer_of_its_own_is_granted_to_nobody_until_a_lease_is_over_and_then_under_an_epoch_that_is_new(
    node: Decider,
) -> None:
    """Others may hold it, under epochs that this node has forgotten."""
    run = node.submitted()
    node.change(run.run_id, event_id="$offer")
    found = restore(node)
    claimed = node.hears(CLAIM, "node-3", run.run_id, node_id="node-3", epoch=0, nonce="n")
    seen = node.remote(run.run_id)
    why = words(node, run.run_id)
    with node.store.transaction():
        taken_back = arbiter.take_back(node.store, seen, this_node=node.this_node)

    assert found.offers == 1
    assert claimed.result is Result.DUPLICATE
    assert seen.lease_until_us == node.now_us + 60 * SECOND_US
    assert "the room is read" in why
    assert taken_back
    assert node.remote(run.run_id).role is RemoteRole.OFFERED
    assert node.remote(run.run_id).epoch == 1_000_000


def test_whoever_says_that_it_holds_a_run_of_a_restored_arbiter_is_believed_and_the_last_one_counts(
    node: Decider,
) -> None:
    run = node.submitted()
    stranger = node.hears(STATUS, "node-3", run.run_id, epoch=2, report=None).result
    restore(node)
    first = node.hears(STATUS, "node-2", run.run_id, epoch=1, report=report_of(run, "running")).result
    between = node.remote(run.run_id)
    node.hears(STATUS, "node-3", run.run_id, epoch=2, report=report_of(run, "running"))
    old = node.hears(STATUS, "node-2", run.run_id, epoch=1, report=report_of(run, "completed")).result
    still = node.run(run.run_id).status
    node.hears(STATUS, "node-3", run.run_id, epoch=2, report=report_of(run, "completed"))

    assert (stranger, first, old) == (Result.REFUSED, Result.ACCEPTED, Result.REFUSED)
    assert (between.peer_id, between.epoch) == ("node-2", 1)
    assert still is RunState.RUNNING
    assert (node.remote(run.run_id).peer_id, node.run(run.run_id).status) == ("node-3", RunState.COMPLETED)


def report_of(run: RunRecord, status: str) -> dict[str, Any]:
    """Return a report of a run of one task."""
    over = status == "completed"
    task = {
        "no": 0,
        "id": "t0",
        "status": status,
        "version": 3 if over else 2,
        "attempts": 1,
        "failures": 0,
        "exit_code": 0 if over else None,
        "started_at_us": 1,
        "finished_at_us": 2 if over else None,
        "outputs": {},
        "error": None,
        "blocked_by": None,
        "retry_at_us": None,
    }
    head = {
        "version": 3 if over else 2,
        "status": status,
        "worker_id": run.worker_id,
        "started_at_us": 1,
        "finished_at_us": 2 if over else None,
        "error": None,
        "cancel_requested": False,
    }
    return {"run": head, "tasks": [task], "attempts": [], "logs": []}


def test_a_control_that_is_asked_for_after_the_restore_is_newer_than_any_that_was_forgotten(node: Decider) -> None:
    run = node.submitted(target_node="node-2")
    node.change(run.run_id, control_seq=3)
    restore(node)
    with node.store.transaction():
        node.store.outbox.begin_sending([node.posted(run.run_id, EXECUTE)[0].message_id], due_at_us=0)
        control.cancel(node.store, run.run_id, now_us=node.now_us)

    assert node.posted(run.run_id, CONTROL)[0].fields["seq"] > 1_000_000
