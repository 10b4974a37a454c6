"""What messages do to runs that cross from node to node: execute, control, status, expiry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cis.engine.accept import control
from cis.engine.accept.dispatch import also_by_room, delivered, expire, mark_sending, on_its_way
from cis.engine.accept.submit import Origin, SubmitRequest, submit
from cis.engine.this_node import MAX_DEPTH
from cis.errors import DocumentError, OverloadedError
from cis.federation.executing import accept
from cis.federation.records import run_fields
from cis.model.message import MessageKind, Result
from cis.model.states import RunState
from cis.store.cluster import RemoteRole, Route
from cis.store.records import Delivery
from cis.store.upkeep_port import Pruned
from tests.worlds.deciding import Decider, decider, spec_of

EXECUTE, CONTROL, ASK = MessageKind.EXECUTE, MessageKind.CONTROL, MessageKind.ASK


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Decider]:
    """Give a test node-1."""
    with decider(tmp_path) as node:
        yield node


def test_a_run_is_taken_on_once_and_known_for_good_whatever_has_become_of_time_and_rights(node: Decider) -> None:
    spec = spec_of(target_node="node-1")
    first = node.hears(EXECUTE, "node-2", "r", requested=spec, in_room=False)
    late = node.hears(EXECUTE, "node-2", "r", requested=spec, in_room=False, expires_in_s=-10)
    with node.store.transaction():
        peer = node.store.peers.get("node-2")
        assert peer is not None
        node.store.peers.put(replace(peer, may=("read",)))
    without_right = node.hears(EXECUTE, "node-2", "r", requested=spec, in_room=False)

    assert [reply.result for reply in (first, late, without_right)] == [
        Result.ACCEPTED,
        Result.DUPLICATE,
        Result.DUPLICATE,
    ]


def test_a_run_id_is_used_once_for_one_document_of_one_node(node: Decider) -> None:
    spec = spec_of(target_node="node-1")
    node.hears(EXECUTE, "node-2", "r", requested=spec)
    other_document = node.hears(EXECUTE, "node-2", "r", requested=replace(spec, description="another"))
    other_sender = node.hears(EXECUTE, "node-3", "r", requested=spec)

    assert (other_document.result, other_document.code) == (Result.REFUSED, "run.known")
    assert (other_sender.result, other_sender.code) == (Result.REFUSED, "run.known")


def test_what_expired_or_is_not_allowed_is_refused_and_written_down(node: Decider) -> None:
    spec = spec_of(target_node="node-1")
    expired = node.hears(EXECUTE, "node-2", "r", requested=spec, expires_in_s=-1)
    misaddressed = node.hears(EXECUTE, "node-2", "r", target="node-9", requested=spec)

    assert (expired.code, misaddressed.code) == ("message.expired", "message.misaddressed")
    assert node.store.runs.get("r") is None
    assert [entry.action for entry in node.store.audit.page(limit=9)] == ["refused.execute"] * 2


def test_expiry_is_judged_by_the_senders_clock_as_far_as_it_is_known(node: Decider) -> None:
    spec = spec_of(target_node="node-1")
    with node.store.transaction():
        node.store.peers.note_contact("node-2", now_us=node.now_us, clock_ahead_us=-7_200_000_000)

    assert node.hears(EXECUTE, "node-2", "r", requested=spec, expires_in_s=-3600).result is Result.ACCEPTED


def test_a_dag_that_comes_from_the_deepest_level_nests_no_deeper(node: Decider) -> None:
    origin = Origin(node_id="node-2", run_id="r", created_at_us=1, depth=MAX_DEPTH + 1)
    request = SubmitRequest(spec=spec_of(target_node="node-1"), origin=origin)

    with pytest.raises(DocumentError, match="nested"), node.store.transaction():
        submit(node.store, request, this_node=node.this_node)


def test_controls_are_done_in_their_order_and_an_older_one_does_nothing(node: Decider) -> None:
    node.hears(EXECUTE, "node-2", "r", requested=spec_of(target_node="node-1"))
    pause = node.hears(CONTROL, "node-2", "r", action="pause", seq=2)
    older = node.hears(CONTROL, "node-2", "r", action="cancel", seq=1)
    foreign = node.hears(CONTROL, "node-3", "r", action="cancel", seq=3)

    assert [pause.result, older.result, foreign.result] == [Result.ACCEPTED, Result.DUPLICATE, Result.REFUSED]
    assert node.run("r").status is RunState.PAUSED


def test_a_cancel_that_overtakes_its_run_keeps_it_from_being_taken_on(node: Decider) -> None:
    node.hears(CONTROL, "node-2", "r", action="cancel", seq=1)
    reply = node.hears(EXECUTE, "node-2", "r", requested=spec_of(target_node="node-1"))

    assert (reply.result, reply.code) == (Result.REFUSED, "run.withdrawn")
    assert node.store.runs.get("r") is None


def test_a_peer_that_cancels_runs_which_never_come_is_put_off_at_a_bound_and_no_other_is(
    node: Decider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accept, "MAX_WITHDRAWN", 3)
    replies = [node.hears(CONTROL, "node-2", f"r{number}", action="cancel", seq=1) for number in range(5)]
    again = node.hears(CONTROL, "node-2", "r0", action="cancel", seq=1)
    other = node.hears(CONTROL, "node-3", "r9", action="cancel", seq=1)

    assert [reply.result for reply in replies] == [Result.ACCEPTED] * 3 + [Result.LATER] * 2
    assert replies[-1].code == "overloaded"
    assert [again.result, other.result] == [Result.ACCEPTED] * 2
    assert node.store.remotes.withdrawal_count("node-2", at_most=9) == 3


def test_a_run_that_was_pruned_is_not_taken_on_again_by_the_message_that_brought_it(node: Decider) -> None:
    """Whoever has recorded a signed message must not have it run a second time because the first is forgotten."""
    spec = spec_of(target_node="node-1")
    node.hears(EXECUTE, "node-2", "r", requested=spec, in_room=False)
    remote = node.store.remotes.get("r")
    assert remote is not None
    with node.store.transaction():
        control.cancel(node.store, "r", now_us=node.now_us)
        node.store.remotes.put(replace(remote, open=False))
        assert node.store.pruning.prune("r", at_most=10) is Pruned.GONE
    again = node.hears(EXECUTE, "node-2", "r", requested=spec, in_room=False)

    assert (again.result, again.code) == (Result.REFUSED, "run.withdrawn")
    assert node.store.runs.get("r") is None


def test_when_the_outbox_is_full_no_run_for_another_node_is_accepted_but_one_for_this_node_is(node: Decider) -> None:
    this_node = replace(node.this_node, max_queued=2)
    with node.store.transaction():
        for number in range(2):
            submit(
                node.store,
                SubmitRequest(spec=spec_of(dag_id=f"proj-{number}-d", target_node="node-2")),
                this_node=this_node,
            )
    with pytest.raises(OverloadedError) as caught, node.store.transaction():
        submit(node.store, SubmitRequest(spec=spec_of(target_node="node-2")), this_node=this_node)
    with node.store.transaction():
        here = submit(
            node.store, SubmitRequest(spec=spec_of(target_node="node-1", dag_id="proj-b-x")), this_node=this_node
        )

    assert caught.value.retry_after_s >= 1
    assert node.store.outbox.count(at_most=9) == 2
    assert here.created


def test_pause_of_a_run_that_is_elsewhere_is_asked_for_and_changes_nothing_here(node: Decider) -> None:
    run = node.submitted(target_node="node-2")
    with node.store.transaction():
        control.pause(node.store, run.run_id, now_us=node.now_us)

    assert [item.fields["action"] for item in node.posted(run.run_id, CONTROL)] == ["pause"]
    assert node.run(run.run_id).status is RunState.PENDING


def test_who_reports_a_run_is_told_in_the_answer_what_was_asked_of_it_and_has_not_arrived(node: Decider) -> None:
    run = node.submitted(target_node="node-2")
    with node.store.transaction():
        delivered(node.store, run.run_id, now_us=node.now_us)
    report = {"run": run_fields(run._replace(version=2), final=False), "tasks": [], "attempts": [], "logs": []}
    before = node.hears(MessageKind.STATUS, "node-2", run.run_id, report=report, epoch=0)
    with node.store.transaction():
        control.cancel(node.store, run.run_id, now_us=node.now_us)
    after = node.hears(MessageKind.STATUS, "node-2", run.run_id, report=report, epoch=0)

    assert (before.result, before.fields) == (Result.ACCEPTED, {})
    assert (after.result, after.fields) == (Result.ACCEPTED, {"control": {"action": "cancel", "seq": 1}})


def test_resume_of_a_run_that_is_elsewhere_is_asked_for_and_the_last_word_is_what_counts(node: Decider) -> None:
    run = node.submitted(target_node="node-2")
    with node.store.transaction():
        control.pause(node.store, run.run_id, now_us=node.now_us)
        control.resume(node.store, run.run_id, now_us=node.now_us)
    (item,) = node.posted(run.run_id, CONTROL)

    assert (item.fields["action"], item.fields["seq"]) == ("resume", 2)
    assert node.run(run.run_id).status is RunState.PENDING


def test_a_run_that_cannot_have_arrived_fails_when_its_time_is_over_though_a_control_waits_too(node: Decider) -> None:
    run = node.submitted(target_node="node-2")
    with node.store.transaction():
        control.pause(node.store, run.run_id, now_us=node.now_us)
        ended = expire(node.store, node.posted(run.run_id, EXECUTE), now_us=node.now_us)

    assert [one.run_id for one in ended] == [run.run_id]
    assert node.run(run.run_id).status is RunState.FAILED
    assert "expired" in (node.run(run.run_id).error or "")
    assert not node.remote(run.run_id).open


def test_a_run_that_may_have_arrived_waits_for_word_of_its_node(node: Decider) -> None:
    run = node.submitted(target_node="node-2")
    with node.store.transaction():
        mark_sending(node.store, run, now_us=node.now_us)
        ended = expire(node.store, node.posted(run.run_id, EXECUTE), now_us=node.now_us)

    assert ended == []
    assert (node.run(run.run_id).status, node.run(run.run_id).delivery) == (RunState.PENDING, Delivery.PUSHED)
    assert on_its_way(node.store, run.run_id) == "waits for word of node node-2"


def test_a_run_that_was_never_sent_is_taken_back_by_a_cancel_and_its_item_is_not_there_to_be_sent(
    node: Decider,
) -> None:
    run = node.submitted(target_node="node-2")
    (item,) = node.posted(run.run_id, EXECUTE)
    with node.store.transaction():
        control.cancel(node.store, run.run_id, now_us=node.now_us)
        still_there = node.store.outbox.begin_sending([item.message_id], due_at_us=1)

    assert node.run(run.run_id).status is RunState.CANCELLED
    assert still_there == set()


def test_a_cancel_goes_by_the_room_too_when_a_push_fails_for_long_though_the_room_has_the_run(node: Decider) -> None:
    run = node.submitted(target_node="node-2")
    node.change(run.run_id, event_id="$execute")
    with node.store.transaction():
        (execute,) = node.posted(run.run_id, EXECUTE)
        node.store.outbox.begin_sending([execute.message_id], due_at_us=1)
        control.cancel(node.store, run.run_id, now_us=node.now_us)
        (cancel,) = node.posted(run.run_id, CONTROL)
        carried = [
            also_by_room(node.store, item, message_id=f"{item.kind}-r", now_us=1) for item in (execute, cancel, cancel)
        ]

    assert carried == [False, True, False]
    assert {item.route for item in node.posted(run.run_id, CONTROL)} == {Route.PUSH, Route.ROOM}


def test_what_is_asked_for_in_the_room_is_told_from_its_beginning_and_an_unknown_run_is_said_to_be(
    node: Decider,
) -> None:
    node.hears(EXECUTE, "node-2", "r", requested=spec_of(target_node="node-1"))
    node.change("r", open=False)
    known, unknown = node.hears(ASK, "node-2", "r"), node.hears(ASK, "node-2", "never")

    assert (known.result, node.remote("r").open) == (Result.ACCEPTED, True)
    assert (unknown.result, unknown.code) == (Result.REFUSED, "not_found")


def test_a_status_of_a_node_that_does_not_hold_the_run_changes_nothing(node: Decider) -> None:
    run = node.submitted(target_node="node-2")
    refusals = [
        node.hears(MessageKind.STATUS, sender, run.run_id, epoch=epoch, refused={"detail": "x"})
        for sender, epoch in (("node-3", 0), ("node-2", 1))
    ]

    assert [reply.result for reply in refusals] == [Result.REFUSED] * 2
    assert node.run(run.run_id).status is RunState.PENDING
    assert node.remote(run.run_id).role is RemoteRole.SENT
