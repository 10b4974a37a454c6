"""Who may execute an offered run, and until when: the arbiter's decisions, the holder's, and the worker's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cis.engine.accept import control
from cis.engine.accept.dispatch import expire
from cis.engine.accept.submit import ParentRun, SubmitRequest, submit
from cis.engine.leases import Leases
from cis.engine.run.adoption import hold
from cis.engine.run.live import LiveAttempts
from cis.engine.run.parts import Holdings
from cis.engine.run.reading import RunReading
from cis.engine.this_node import MAX_DEPTH
from cis.engine.times import Instant
from cis.errors import MalformedMessageError, PoisonRecordError
from cis.executors.local import LocalExecutor
from cis.federation.executing import claiming, lease
from cis.federation.inbox import receive
from cis.federation.messages import ReceivedMessage
from cis.federation.origin import arbiter
from cis.federation.origin.outbox import message_of
from cis.federation.requested import RequestedRun, _kept, progress_of, requested_run
from cis.model.document import dag_from_plain
from cis.model.lease_terms import Standing
from cis.model.message import Message, MessageKind, Reply, Result
from cis.model.states import AttemptState, RunState, TaskState
from cis.store.cluster import OfferState, PeerRecord, RemoteRole
from cis.store.records import QueueState, RunRecord
from tests.worlds.deciding import BOOT, SECOND_US, Decider, decider, spec_of
from tests.worlds.looping import ended, working
from tests.worlds.waiting import wait_for

CLAIM, GRANT, STATUS, EXECUTE = MessageKind.CLAIM, MessageKind.GRANT, MessageKind.STATUS, MessageKind.EXECUTE
RUN_ID = "run-of-node-2"
OFFER: dict[str, Any] = {"labels": [], "priority": "normal", "lease_ms": 60_000, "nonces": True}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Decider]:
    """Give a test node-1."""
    with decider(tmp_path) as node:
        yield node


def sent(node: Decider, run_id: str) -> None:
    """Do what the room's sender does once the homeserver has an offer."""
    node.change(run_id, event_id="$offer")


def granted(node: Decider, *, by: str = "node-2") -> RunRecord:
    """Offer a run, and grant it to another node, whose lease begins now."""
    run = node.submitted()
    sent(node, run.run_id)
    assert claims(node, by, run.run_id).result is Result.ACCEPTED
    with node.store.transaction():
        arbiter.grant_sent(node.store.remotes, run.run_id, epoch=1, now_us=node.now_us)
    return run


def claims(node: Decider, by: str, run_id: str, *, epoch: int = 0, nonce: str | None = "nonce-1") -> Reply:
    """Hear another node's claim."""
    return node.hears(CLAIM, by, run_id, node_id=by, epoch=epoch, free=1, nonce=nonce)


def standing(*, epoch: int = 1, suspended: bool = False, nonce: str | None = "nonce-2") -> Standing:
    """Return what a holder says of its lease."""
    return Standing(epoch=epoch, suspended=suspended, nonce=nonce)


def claimed(node: Decider, *, epoch: int = 0) -> str:
    """Hear node-2's offer of a run, claim it, and return the claim's nonce."""
    assert node.hears(EXECUTE, "node-2", RUN_ID, target=None, epoch=epoch, **OFFER).result is Result.ACCEPTED
    return claims_again(node)


def claims_again(node: Decider) -> str:
    """Claim what was offered, and return the claim's nonce."""
    with node.store.transaction():
        claim = claiming.make_claim(node.store.offers, node.offer(RUN_ID), free=1, this_node=node.this_node)
    assert claim is not None
    return str(claim.fields["nonce"])


def asks(node: Decider) -> str:
    """Ask for the lease to be renewed, and return the nonce."""
    with node.store.transaction():
        return lease.ask_to_renew(node.store.offers, RUN_ID, this_node=node.this_node)


def hears_grant(
    node: Decider, nonce: str | None, *, epoch: int = 1, to: str = "node-1", lease_s: float = 60.0, **more: Any
) -> Reply:
    """Hear node-2 grant the run."""
    fields: dict[str, Any] = {"node_id": to, "epoch": epoch, "lease_ms": round(lease_s * 1000)}
    if nonce is not None:
        fields["nonce"] = nonce
    return node.hears(GRANT, "node-2", RUN_ID, target=None, **fields, **more)


def take_back(node: Decider, run_id: str, **seen: Any) -> bool:
    """Take a run back whose lease was seen to be over."""
    with node.store.transaction():
        return arbiter.take_back(node.store, replace(node.remote(run_id), **seen), this_node=node.this_node)


def received(node: Decider, *tasks: dict[str, Any], lease_s: float = 60.0, **document: Any) -> RunRecord:
    """Take a run on that node-2 has offered and granted to node-1."""
    reply = hears_grant(node, claimed(node), lease_s=lease_s, requested=spec_of(*tasks, **document))
    assert reply.result is Result.ACCEPTED, reply
    return node.run(RUN_ID)


# The arbiter's side.


def test_an_item_of_the_outbox_of_no_known_kind_is_said_to_be_none(node: Decider) -> None:
    run = node.submitted(target_node="node-2")
    (item,) = node.posted(run.run_id, MessageKind.EXECUTE)

    with pytest.raises(PoisonRecordError, match="not a kind of message"):
        message_of(node.store, replace(item, kind="odd"), sender="node-1", lease_s=60.0)


@pytest.mark.parametrize("document", ['"proj-x-1"', "[]", '{"dag_id": "a", "tasks": [7]}'])
def test_a_stored_document_that_is_none_is_not_sent(node: Decider, document: str) -> None:
    run = node.submitted()
    (item,) = node.posted(run.run_id, EXECUTE)
    with node.store.transaction():
        node.store._db.write("UPDATE dag_definitions SET document = ?", (document,))
    for target in ("", "node-2"):
        with pytest.raises(PoisonRecordError, match="a stored DAG"):
            message_of(node.store, replace(item, node_id=target), sender="node-1", lease_s=60.0)


def test_the_first_claim_is_granted_and_no_other(node: Decider) -> None:
    run = node.submitted()
    sent(node, run.run_id)
    first = claims(node, "node-3", run.run_id)
    second = claims(node, "node-2", run.run_id)

    assert (first.result, second.result) == (Result.ACCEPTED, Result.DUPLICATE)
    assert node.run(run.run_id).owner_node == "node-3"
    assert [item.fields["node_id"] for item in node.posted(run.run_id, GRANT)] == ["node-3"]
    assert node.posted(run.run_id, EXECUTE) == []


def test_a_claim_of_an_offer_that_is_past_or_of_a_node_without_the_right_is_not_granted(node: Decider) -> None:
    run = node.submitted()
    with node.store.transaction():
        peer = node.store.peers.get("node-3")
        assert peer is not None
        node.store.peers.put(replace(peer, may=("read",)))

    assert claims(node, "node-2", run.run_id, epoch=7).result is Result.DUPLICATE
    assert claims(node, "node-3", run.run_id).result is Result.REFUSED
    assert node.remote(run.run_id).role is RemoteRole.OFFERED


def test_a_claim_without_a_nonce_is_not_granted(node: Decider) -> None:
    """Its node would take the homeserver's word for its arbiter's, and never stop."""
    run = node.submitted()
    sent(node, run.run_id)

    assert claims(node, "node-2", run.run_id, nonce=None).result is Result.LATER
    assert node.remote(run.run_id).role is RemoteRole.OFFERED


def test_a_grant_names_the_claim_that_it_answers_and_a_newer_claim_of_the_same_node_is_answered_anew(
    node: Decider,
) -> None:
    run = granted(node)
    first = [item.fields["nonce"] for item in node.posted(run.run_id, GRANT)]
    claims(node, "node-2", run.run_id, nonce="nonce-newer")
    (second,) = node.posted(run.run_id, GRANT)
    with node.store.transaction():
        node.store.remotes.put(replace(node.remote(run.run_id), applied_version=1))
        node.store.outbox.remove_of_run(run.run_id, GRANT)
    claims(node, "node-2", run.run_id, nonce="nonce-late")

    assert first == ["nonce-1"]
    assert (second.fields["nonce"], second.fields["epoch"]) == ("nonce-newer", 1)
    assert node.posted(run.run_id, GRANT) == []  # it has begun: it asks in its status messages now


def test_a_holder_that_asks_is_answered_and_its_lease_counts_here_from_then(node: Decider) -> None:
    run = granted(node)
    node.later(30)
    with node.store.transaction():
        arbiter.receive_standing(
            node.store, node.remote(run.run_id), standing(nonce="nonce-7"), this_node=node.this_node
        )
    (answer,) = node.posted(run.run_id, GRANT)

    assert (answer.fields["node_id"], answer.fields["epoch"], answer.fields["nonce"]) == ("node-2", 1, "nonce-7")
    assert node.remote(run.run_id).lease_until_us == node.now_us + 60 * SECOND_US


def test_a_holder_of_before_renews_its_lease_here_by_whatever_it_says_as_it_does_there(node: Decider) -> None:
    """Or the run would be given to another while that node goes on with it."""
    run = granted(node)
    with node.store.transaction():
        node.store.outbox.remove_of_run(run.run_id, GRANT)
    node.later(30)
    with node.store.transaction():
        arbiter.receive_standing(node.store, node.remote(run.run_id), standing(nonce=None), this_node=node.this_node)

    assert node.posted(run.run_id, GRANT) == []
    assert node.remote(run.run_id).lease_until_us == node.now_us + 60 * SECOND_US


def test_a_run_whose_lease_is_over_is_offered_again_under_the_next_epoch(node: Decider) -> None:
    run = granted(node)
    with node.store.transaction():
        node.store.outbox.remove_of_run(run.run_id, GRANT)
    again = take_back(node, run.run_id)
    reply = claims(node, "node-3", run.run_id, epoch=1)

    assert again
    assert reply.result is Result.ACCEPTED
    assert (node.remote(run.run_id).peer_id, node.remote(run.run_id).epoch) == ("node-3", 2)


def test_a_grant_that_was_renewed_since_it_was_looked_at_is_not_taken_back(node: Decider) -> None:
    run = granted(node)
    seen_until_us = node.remote(run.run_id).lease_until_us
    node.later(5)
    with node.store.transaction():
        arbiter.receive_standing(node.store, node.remote(run.run_id), standing(), this_node=node.this_node)

    assert not take_back(node, run.run_id, lease_until_us=seen_until_us)
    assert node.remote(run.run_id).role is RemoteRole.SENT


def test_a_grant_that_was_given_anew_since_it_was_looked_at_is_not_taken_back(node: Decider) -> None:
    """Or two grants were on their way at once."""
    run = granted(node)
    with node.store.transaction():
        arbiter.receive_standing(
            node.store, node.remote(run.run_id), standing(suspended=True), this_node=node.this_node
        )

    assert not take_back(node, run.run_id, epoch=1)
    assert node.remote(run.run_id).epoch == 2


def test_a_grant_that_was_not_sent_goes_when_the_run_is_taken_back(node: Decider) -> None:
    run = granted(node)
    take_back(node, run.run_id)

    assert node.posted(run.run_id, GRANT) == []
    assert [item.kind for item in node.posted(run.run_id, EXECUTE)] == [EXECUTE]


def test_a_holder_that_is_suspended_again_and_again_is_not_granted_the_run_without_end(node: Decider) -> None:
    run = granted(node)
    for _ in range(5):
        with node.store.transaction():
            arbiter.receive_standing(
                node.store, node.remote(run.run_id), standing(suspended=True), this_node=node.this_node
            )
        node.later(1)

    assert node.remote(run.run_id).epoch == 2


def test_a_cancelled_run_whose_holder_is_gone_ends_cancelled_and_is_not_offered_again(node: Decider) -> None:
    run = granted(node)
    with node.store.transaction():
        control.cancel(node.store, run.run_id, now_us=node.now_us)
    take_back(node, run.run_id)

    assert node.run(run.run_id).status is RunState.CANCELLED
    assert node.posted(run.run_id, EXECUTE) == []
    assert claims(node, "node-3", run.run_id, epoch=1).result is Result.DUPLICATE
    assert [item.fields["action"] for item in node.posted(run.run_id, MessageKind.CONTROL)] == ["cancel"]


def test_a_refused_grant_gives_the_run_back_at_once(node: Decider) -> None:
    run = granted(node)
    node.hears(STATUS, "node-2", run.run_id, epoch=1, refused={"code": "x", "detail": "no such skill"})

    assert node.remote(run.run_id).role is RemoteRole.OFFERED
    assert node.run(run.run_id).status is RunState.PENDING


def test_pause_and_resume_of_an_offer_change_it_here_and_it_is_granted_only_in_between(node: Decider) -> None:
    run = node.submitted()
    with node.store.transaction():
        control.pause(node.store, run.run_id, now_us=node.now_us)
    paused = claims(node, "node-2", run.run_id)
    with node.store.transaction():
        control.resume(node.store, run.run_id, now_us=node.now_us)
    resumed = claims(node, "node-2", run.run_id)

    assert (paused.result, resumed.result) == (Result.LATER, Result.ACCEPTED)
    assert node.posted(run.run_id, MessageKind.CONTROL) == []


@pytest.mark.parametrize("how", ["cancelled", "expired"])
def test_an_offer_that_is_over_is_closed_for_all_by_a_grant_to_nobody(node: Decider, how: str) -> None:
    run = node.submitted()
    sent(node, run.run_id)
    with node.store.transaction():
        if how == "cancelled":
            control.cancel(node.store, run.run_id, now_us=node.now_us)
        else:
            expire(node.store, node.posted(run.run_id, EXECUTE), now_us=node.now_us)

    assert node.run(run.run_id).status.final
    assert [item.fields["node_id"] for item in node.posted(run.run_id, GRANT)] == [""]


def test_the_arbiters_watch_looks_at_no_wall_clock_and_waits_for_a_sync_that_began_after_the_lease(
    node: Decider,
) -> None:
    run = granted(node)
    watch, remotes = arbiter.LeaseWatch(), [node.remote(run.run_id)]
    node.later(10**6)  # the wall clock jumps; the loop's does not
    assert watch.over(remotes, now_s=100.0, synced_s=99.0) == []
    assert watch.over(remotes, now_s=161.0, synced_s=159.0) == []

    assert watch.over(remotes, now_s=162.0, synced_s=160.5) == remotes


def test_a_task_that_is_over_as_far_as_its_origin_knows_is_never_anything_else_again(node: Decider) -> None:
    """A holder that was granted the run anew may count versions on from what it was told."""
    run = node.submitted()
    (task,) = node.store.tasks.of_run(run.run_id)
    with node.store.transaction():
        node.store.tasks.mirror([task._replace(status=TaskState.FAILED, version=3)])
        changed = node.store.tasks.mirror([task._replace(status=TaskState.PENDING, version=9)])

    assert not changed
    assert [task.status for task in node.store.tasks.of_run(run.run_id)] == [TaskState.FAILED]


# The holder's side.


def test_what_is_granted_is_taken_on_under_the_lease(node: Decider) -> None:
    run = received(node)
    remote = node.remote(RUN_ID)

    assert (run.node_id, run.owner_node, run.status) == ("node-2", "node-1", RunState.PENDING)
    assert (remote.epoch, remote.lease_until_us, remote.boot_id) == (1, node.now_us + 60 * SECOND_US, BOOT)
    assert node.offer(RUN_ID).state is OfferState.CLOSED


def test_a_grant_of_a_node_that_lost_its_right_to_execute_since_it_offered_is_refused(node: Decider) -> None:
    nonce = claimed(node)
    with node.store.transaction():
        peer = node.store.peers.get("node-2")
        assert peer is not None
        node.store.peers.put(replace(peer, may=("read",)))
    reply = hears_grant(node, nonce, requested=spec_of())

    assert (reply.result, reply.code) == (Result.REFUSED, "auth.forbidden")
    assert node.store.runs.get(RUN_ID) is None


def test_a_grant_that_answers_a_claim_of_long_ago_is_not_taken_up_however_fresh_it_is_called(node: Decider) -> None:
    """The machine slept between its claim and the answer, or the homeserver kept that to itself."""
    nonce = claimed(node)
    node.later(61)
    reply = hears_grant(node, nonce, requested=spec_of())

    assert reply.result is Result.LATER
    assert node.store.runs.get(RUN_ID) is None


def test_a_grant_counts_as_the_answer_to_the_newest_claim_alone(node: Decider) -> None:
    """The run may have gone elsewhere since an older claim was granted, and be on offer again."""
    first = claimed(node)
    node.later(5)
    newest = claims_again(node)
    late, of_nobody, answer = (hears_grant(node, one, requested=spec_of()) for one in (first, "another", newest))

    assert (late.result, of_nobody.result, answer.result) == (Result.LATER, Result.LATER, Result.ACCEPTED)
    assert node.remote(RUN_ID).lease_until_us == node.now_us + 60 * SECOND_US


def test_a_withheld_grant_of_an_earlier_epoch_is_not_taken_up_after_the_run_was_offered_again(node: Decider) -> None:
    """It went elsewhere meanwhile, and came back on offer: the offer that is new says nothing of a grant that is old."""
    withheld = claimed(node)
    node.later(70)
    assert node.hears(EXECUTE, "node-2", RUN_ID, target=None, epoch=2, **OFFER).result is Result.ACCEPTED
    unclaimed = hears_grant(node, withheld, epoch=1, requested=spec_of())
    claims_again(node)
    after_a_claim = hears_grant(node, withheld, epoch=1, requested=spec_of())

    assert (unclaimed.result, after_a_claim.result) == (Result.LATER, Result.LATER)
    assert node.store.runs.get(RUN_ID) is None


def test_a_grant_without_a_nonce_is_refused_and_the_run_is_claimed_no_more(node: Decider) -> None:
    """Its arbiter is of before: it takes the run back at once, and another node of before takes it."""
    claimed(node)
    reply = hears_grant(node, None, requested=spec_of())
    with node.store.transaction():
        claiming.set_unfit(node.store.offers, RUN_ID)
    later = hears_grant(node, "whatever", epoch=2, requested=spec_of())

    assert (reply.result, reply.code) == (Result.REFUSED, "lease.no_nonce")
    assert (later.result, later.code) == (Result.REFUSED, "lease.unfit")
    assert node.store.runs.get(RUN_ID) is None


def test_a_run_that_is_executed_here_is_not_given_back_for_a_grant_without_a_nonce(node: Decider) -> None:
    """A refusal has it offered at once, so only a run that is suspended may be refused."""
    run = received(node)
    running = hears_grant(node, None, epoch=2)
    with node.store.transaction():
        node.store.queue.move(run.run_id, QueueState.SUSPENDED)
    suspended = hears_grant(node, None, epoch=2)

    assert (running.result, suspended.result) == (Result.DUPLICATE, Result.REFUSED)


def test_a_grant_that_answers_what_a_suspended_node_said_long_ago_is_not_taken_up(node: Decider) -> None:
    received(node)
    nonce = asks(node)
    node.later(300)
    reply = hears_grant(node, nonce, epoch=2)

    assert reply.result is Result.LATER
    assert node.remote(RUN_ID).epoch == 1


def test_a_lease_counts_from_the_claim_that_the_grant_answers(node: Decider) -> None:
    asked_us = node.now_us
    nonce = claimed(node)
    node.later(20)
    hears_grant(node, nonce, requested=spec_of())

    assert node.remote(RUN_ID).lease_until_us == asked_us + 60 * SECOND_US
    assert node.remote(RUN_ID).lease_uptime_us == node.this_node.uptime_us() + 40 * SECOND_US


def test_a_lease_is_renewed_by_its_arbiters_answer_from_when_that_was_asked(node: Decider) -> None:
    received(node)
    node.later(15)
    asked_us, nonce = node.now_us, asks(node)
    node.later(5)
    nobodys, stranger = hears_grant(node, "made-up"), node.hears(GRANT, "node-3", RUN_ID, target=None, node_id="node-1")
    before_us = node.remote(RUN_ID).lease_until_us
    hears_grant(node, nonce)

    assert (nobodys.result, stranger.result) == (Result.LATER, Result.REFUSED)
    assert before_us == asked_us + 45 * SECOND_US
    assert node.remote(RUN_ID).lease_until_us == asked_us + 60 * SECOND_US


def test_answers_that_come_in_another_order_shorten_no_lease(node: Decider) -> None:
    received(node)
    first = asks(node)
    node.later(10)
    second = asks(node)
    hears_grant(node, second)
    until_us = node.remote(RUN_ID).lease_until_us
    hears_grant(node, first)

    assert node.remote(RUN_ID).lease_until_us == until_us == node.now_us + 60 * SECOND_US


def test_a_nonce_of_another_life_of_the_machine_counts_for_nothing(node: Decider) -> None:
    nonce = claimed(node)
    with node.store.transaction():
        ask = node.store.offers.ask(RUN_ID, nonce)
        assert ask is not None
        node.store.offers.put_ask(replace(ask, boot_id="another-life"), keep=1)

    assert hears_grant(node, nonce, requested=spec_of()).result is Result.LATER


def test_what_an_arbiter_of_before_offers_is_not_claimed_until_it_is_offered_with_nonces(node: Decider) -> None:
    before = {name: value for name, value in OFFER.items() if name != "nonces"}
    node.hears(EXECUTE, "node-2", RUN_ID, target=None, epoch=0, **before)
    of_before = claiming.eligible(node.offer(RUN_ID), labels=(), grace_s=1.0)
    upgraded = node.hears(EXECUTE, "node-2", RUN_ID, target=None, epoch=0, **OFFER)

    assert not of_before
    assert upgraded.result is Result.ACCEPTED
    assert claiming.eligible(node.offer(RUN_ID), labels=(), grace_s=1.0)


@pytest.mark.parametrize(
    "fault",
    [
        {"epoch": True},
        {"epoch": -1},
        {"epoch": 2**40},
        {"lease_ms": 0},
        {"lease_ms": 86_400_001},
        {"lease_ms": 1.5},
        {"node_id": 7},
        {"node_id": "no id"},
        {"nonce": 7},
        {"nonce": "no id"},
        {"nonce": "x" * 129},
    ],
    ids=str,
)
def test_a_grant_that_is_malformed_is_refused(node: Decider, fault: dict[str, Any]) -> None:
    nonce = claimed(node)
    fields: dict[str, Any] = {"node_id": "node-1", "epoch": 1, "lease_ms": 60_000, "nonce": nonce, **fault}
    reply = node.hears(GRANT, "node-2", RUN_ID, target=None, requested=spec_of(), **fields)

    assert (reply.result, reply.code) == (Result.REFUSED, "message.malformed")
    assert node.store.runs.get(RUN_ID) is None


def test_an_offer_that_was_granted_to_nobody_is_closed(node: Decider) -> None:
    node.hears(EXECUTE, "node-2", RUN_ID, target=None, epoch=0, **OFFER)
    node.hears(GRANT, "node-2", RUN_ID, target=None, node_id="", epoch=1, lease_ms=0)
    late = node.hears(EXECUTE, "node-2", RUN_ID, target=None, epoch=0, **OFFER)

    assert late.result is Result.DUPLICATE
    assert node.offer(RUN_ID).state is OfferState.CLOSED


def test_a_run_that_another_node_was_granted_is_let_go_and_never_claimed_again(node: Decider) -> None:
    received(node)
    hears_grant(node, None, to="node-3", epoch=2)
    again = node.hears(EXECUTE, "node-2", RUN_ID, target=None, epoch=2, **OFFER)

    assert node.run(RUN_ID).status is RunState.CANCELLED
    assert again.result is Result.DUPLICATE
    assert node.offer(RUN_ID).state is OfferState.CLOSED


def test_a_node_that_offers_without_end_is_refused_at_a_bound_and_no_other_is(
    node: Decider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "MAX_OFFERS", 3)
    replies = [node.hears(EXECUTE, "node-2", f"r{number}", target=None, epoch=0, **OFFER) for number in range(5)]
    again = node.hears(EXECUTE, "node-2", "r0", target=None, epoch=1, **OFFER)
    other = node.hears(EXECUTE, "node-3", "r9", target=None, epoch=0, **OFFER)
    with node.store.transaction():  # as the room takes what this node says itself
        node.store.peers.put(PeerRecord(node_id="node-1", public_key="self", may=("execute",), trusted_at_us=0))
    own = [node.hears(EXECUTE, "node-1", f"own{number}", target=None, epoch=0, **OFFER) for number in range(4)]

    assert [reply.result for reply in replies] == [Result.ACCEPTED] * 3 + [Result.REFUSED] * 2
    assert (replies[-1].code, "node-2" in replies[-1].detail) == ("overloaded.share", True)
    assert [reply.result for reply in (again, other, *own)] == [Result.ACCEPTED] * 6
    assert len([one for one in node.store.offers.in_state(OfferState.OPEN, limit=99) if one.origin_id == "node-2"]) == 3


def test_offers_that_are_closed_make_room_for_new_ones_of_their_node(
    node: Decider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "MAX_OFFERS", 3)
    for number in range(3):
        node.hears(EXECUTE, "node-2", f"r{number}", target=None, epoch=0, expires_in_s=60.0 + number, **OFFER)
    with node.store.transaction():
        for run_id in ("r2", "r1"):
            node.store.offers.set_state(run_id, OfferState.CLOSED)
    replies = [node.hears(EXECUTE, "node-2", f"s{number}", target=None, epoch=0, **OFFER) for number in range(3)]

    assert [reply.result for reply in replies] == [Result.ACCEPTED] * 2 + [Result.REFUSED]
    assert [run_id for run_id in ("r0", "r1", "r2", "s0", "s1", "s2") if node.store.offers.get(run_id)] == [
        "r0",
        "s0",
        "s1",
    ]


def test_an_offer_that_this_node_is_unfit_for_stays_closed(node: Decider) -> None:
    node.hears(EXECUTE, "node-2", RUN_ID, target=None, epoch=0, **OFFER)
    with node.store.transaction():
        claiming.set_unfit(node.store.offers, RUN_ID)
    again = node.hears(EXECUTE, "node-2", RUN_ID, target=None, epoch=1, **OFFER)

    assert again.result is Result.DUPLICATE
    assert node.offer(RUN_ID).state is OfferState.CLOSED


def test_a_node_that_needs_more_than_half_a_lease_to_stop_takes_nothing(node: Decider) -> None:
    node.hears(EXECUTE, "node-2", RUN_ID, target=None, epoch=0, **{**OFFER, "labels": ["gpu"]})
    offer = node.offer(RUN_ID)

    assert claiming.eligible(offer, labels={"gpu", "x"}, grace_s=27.0)
    assert not claiming.eligible(offer, labels={"gpu"}, grace_s=27.1)
    assert not claiming.eligible(offer, labels={"x"}, grace_s=1.0)


def test_a_new_grant_releases_a_suspended_run_and_the_runs_that_are_its_tasks(node: Decider) -> None:
    run = received(node)
    with node.store.transaction():
        child = _child(node, run)
        for one in (run, child):
            node.store.queue.move(one.run_id, QueueState.SUSPENDED)
    hears_grant(node, asks(node), epoch=2)
    items = [node.store.queue.get(one.run_id) for one in (run, child)]

    assert [item.status for item in items if item is not None] == [QueueState.QUEUED] * 2


def test_a_grant_of_a_run_that_is_over_here_has_it_told_again(node: Decider) -> None:
    run = received(node)
    with node.store.transaction():
        control.end_cancelled(node.store, run, now_us=node.now_us)
        node.store.remotes.put(replace(node.remote(RUN_ID), open=False))
    reply = hears_grant(node, asks(node), epoch=2)

    assert reply.result is Result.ACCEPTED
    assert (node.remote(RUN_ID).open, node.remote(RUN_ID).epoch) == (True, 2)


# The worker's side.


def _child(node: Decider, run: RunRecord) -> RunRecord:
    parent = ParentRun(run_id=run.run_id, task_id="t0", depth=0, tree=run.run_id)
    return submit(node.store, SubmitRequest(spec=spec_of(dag_id="child"), parent=parent), this_node=node.this_node).run


def _leases(node: Decider, **changes: Any) -> Leases:
    return Leases("node-1", **{"margin_s": 13.0, "boot_id": BOOT, "uptime_us": node.this_node.uptime_us, **changes})


def test_a_worker_stops_a_run_and_the_runs_that_are_its_tasks_a_margin_before_the_lease_is_over(node: Decider) -> None:
    run = received(node)
    with node.store.transaction():
        child = _child(node, run)
    leases = _leases(node)

    def over() -> list[bool]:
        return [leases.over(node.store, one, now=Instant(node.now_us, 50.0)) for one in (run, child)]

    begun = over()
    node.later(46)
    shortly_before = over()
    node.later(2)

    assert (begun, shortly_before, over()) == ([False, False], [False, False], [True, True])


def test_neither_clock_alone_prolongs_a_lease_nor_does_a_reboot_or_a_store_that_fails(node: Decider) -> None:
    run = received(node)
    now = Instant(node.now_us, 50.0)
    up_us = [node.this_node.uptime_us()]
    leases = _leases(node, uptime_us=lambda: up_us[0])
    begun = leases.over(node.store, run, now=now)
    wall_put_on = leases.over(node.store, run, now=Instant(node.now_us + 48 * SECOND_US, 50.0))
    up_us[0] += 48 * SECOND_US  # while the wall clock was set back to where it was
    uptime_alone, from_memory, very_end = (
        leases.over(node.store, run, now=now),
        leases.late(now),
        leases.late(now, within_s=0.0),
    )
    up_us[0] += 12 * SECOND_US

    assert (begun, wall_put_on, uptime_alone) == (False, True, True)
    assert _leases(node, boot_id="another-life").over(node.store, run, now=now)
    assert (from_memory, very_end) == ({RUN_ID}, set())
    assert leases.late(now, within_s=0.0) == {RUN_ID}


def test_a_wall_clock_that_is_set_back_before_a_worker_looks_prolongs_no_lease(node: Decider) -> None:
    """A grant that came 50 s after its claim, and a clock that was set meanwhile: 10 s are left all the same."""
    nonce = claimed(node)
    node.later(50)
    hears_grant(node, nonce, requested=spec_of())
    set_back = Instant(node.now_us - 3600 * SECOND_US, 0.0)

    assert _leases(node).over(node.store, node.run(RUN_ID), now=set_back)
    assert not _leases(node, margin_s=9.0).over(node.store, node.run(RUN_ID), now=set_back)


def test_a_lease_that_the_program_of_before_took_is_kept_by_the_wall_clock_and_the_time_since(node: Decider) -> None:
    run = received(node)
    node.change(RUN_ID, lease_uptime_us=None)
    leases, now = _leases(node), Instant(node.now_us, 0.0)
    begun = leases.over(node.store, run, now=now)
    node.later(48)

    assert not begun
    assert leases.over(node.store, run, now=now)


def test_a_run_whose_lease_is_over_is_suspended_when_a_worker_claims_it(node: Decider) -> None:
    run = received(node)
    executor = LocalExecutor(max_log_bytes=1)
    held = Holdings(LiveAttempts(executor, grace_s=1.0), _leases(node))
    node.later(50)
    now = Instant(node.now_us, 0.0)
    with node.store.transaction():
        (item,) = node.store.queue.claim("node-1", run.worker_id, epoch=1, limit=1)
        reading = RunReading(node.store, item.run_id, worker_id=run.worker_id, skills=node.this_node.skills, now=now)
        hold(node.store, held, reading, ours=frozenset(), now=now)
    executor.close()
    kept = node.store.queue.get(RUN_ID)

    assert held.plans == {}
    assert kept is not None
    assert kept.status is QueueState.SUSPENDED


@pytest.mark.parametrize(("on_lost", "status"), [("fail", TaskState.FAILED), ("retry", TaskState.PENDING)])
def test_a_task_that_ran_at_the_old_holder_was_lost_and_what_is_over_stays_over(
    node: Decider, on_lost: str, status: TaskState
) -> None:
    old = node.submitted({}, {"on_lost": on_lost}, {})
    tasks = node.store.tasks.of_run(old.run_id)
    with node.store.transaction():
        node.store.tasks.mirror(
            [
                tasks[0]._replace(status=TaskState.FAILED, version=3, attempts=1, failures=1, error="no"),
                tasks[1]._replace(status=TaskState.RUNNING, version=2, attempts=4),
            ]
        )
    spec = spec_of({}, {"on_lost": on_lost}, {}, target_node="node-1")
    kept = _kept(progress_of(node.store.tasks.of_run(old.run_id)), spec)
    executor = LocalExecutor(max_log_bytes=1)
    held = Holdings(LiveAttempts(executor, grace_s=1.0), _leases(node))
    with node.store.transaction():
        run = submit(node.store, SubmitRequest(spec=spec, kept=kept), this_node=node.this_node).run
        (item,) = node.store.queue.claim("node-1", run.worker_id, epoch=1, limit=1)
        reading = RunReading(
            node.store,
            item.run_id,
            worker_id=run.worker_id,
            skills=node.this_node.skills,
            now=Instant(node.now_us, 0.0),
        )
        hold(node.store, held, reading, ours=frozenset(), now=Instant(node.now_us, 0.0))
    executor.close()
    first, second, _ = node.store.tasks.of_run(run.run_id)

    assert set(kept) == {"t0", "t1"}
    assert (first.status, first.error) == (TaskState.FAILED, "no")
    assert second.status is status
    assert second.attempts == 4


# The worker's whole loop, with processes that are real and a clock that a test sets.


def nested(command: str, **document: Any) -> dict[str, Any]:
    """Return a task that is a DAG of one task."""
    child = {"dag_id": "child", "tasks": [{"id": "t0", "command": command}], **document}
    return {"command": None, "skill": "dag", "params": {"document": child}}


def takes_on(node: Decider, requested: RequestedRun) -> str:
    """Take a run on that node-2 has addressed to node-1, and return its id."""
    peer = node.store.peers.get("node-2")
    assert peer is not None
    message = Message(
        kind=EXECUTE,
        message_id="m",
        sender="node-2",
        target="node-1",
        run_id=RUN_ID,
        created_at_us=node.now_us,
        expires_at_us=node.now_us + SECOND_US,
    )
    with node.store.transaction():
        received = ReceivedMessage(message=message, peer=peer, source="test", requested=requested)
        outcome = receive(node.store, received, this_node=node.this_node, logfiles=node.logfiles)
    assert outcome.reply.result is Result.ACCEPTED, outcome.reply
    return RUN_ID


def test_a_dag_as_a_task_is_stopped_with_its_parents_lease_and_goes_on_under_the_next(
    node: Decider, tmp_path: Path
) -> None:
    received(node, nested("sleep 600"))
    with working(node, tmp_path) as worker:
        worker.until(lambda: worker.pids, "the child's task")
        child = worker.child(RUN_ID)
        node.later(48)
        worker.until(lambda: not worker.pids, "its end")
        suspended = [worker.queued(run_id) for run_id in (RUN_ID, child)]
        hears_grant(node, asks(node), epoch=2)
        worker.until(lambda: worker.pids, "the next attempt")

        assert suspended == [QueueState.SUSPENDED] * 2
        assert [worker.queued(run_id) for run_id in (RUN_ID, child)] == [QueueState.CLAIMED] * 2
        assert worker.attempts(child) == [(1, AttemptState.LOST), (2, AttemptState.RUNNING)]


def test_a_task_that_would_go_on_without_its_worker_does_not_under_a_lease(node: Decider, tmp_path: Path) -> None:
    """The run may go to another node, and nobody here would end it."""
    received(node, {"command": "sleep 600", "on_lost": "adopt"})
    with working(node, tmp_path) as worker:
        worker.until(lambda: worker.pids, "the task")
        lasting = [live.lasting for live in worker.loop._held.live]
        node.later(48)
        worker.until(lambda: not worker.pids, "its end")

    assert lasting == [False]


def test_a_nested_dag_that_names_another_node_is_refused_under_a_lease(node: Decider, tmp_path: Path) -> None:
    """That node could not be stopped when the lease is over."""
    received(node, nested("true", target_node="node-3"))
    with working(node, tmp_path) as worker:
        worker.until(lambda: node.run(RUN_ID).status.final, "the end")

        assert worker.task(RUN_ID).status is TaskState.FAILED
        assert "names another node" in (worker.task(RUN_ID).error or "")
        assert not worker.store.runs.children(RUN_ID)


def test_a_nested_dag_may_name_another_node_where_the_run_was_addressed_to_this_one(
    node: Decider, tmp_path: Path
) -> None:
    child = nested("true", target_node="node-3", scope={"type": "project", "id": "far"})
    takes_on(node, RequestedRun(spec=spec_of(child, target_node="node-1")))
    with working(node, tmp_path) as worker:
        worker.until(lambda: worker.store.runs.children(RUN_ID), "the child")

        assert node.remote(worker.child(RUN_ID)).peer_id == "node-3"


def test_what_runs_under_a_lease_is_ended_when_its_time_is_though_the_store_fails(
    node: Decider, tmp_path: Path
) -> None:
    received(node, nested("sleep 600"), {"command": "sleep 600"})
    with working(node, tmp_path) as worker:
        worker.until(lambda: len(worker.pids) == 2, "both tasks")
        worker.store.broken = True
        node.later(46)
        worker.turn()
        untouched = [live.ending for live in worker.loop._held.live]
        node.later(2)
        worker.until(lambda: not worker.pids, "their end")

        assert untouched == [None, None]
        assert [end.attempt.exit_code for end in worker.loop._ends.new] == [-15, -15]


def test_what_does_not_end_by_the_very_end_of_the_lease_is_killed_though_the_store_fails(
    node: Decider, tmp_path: Path
) -> None:
    """The machine slept until a second before that, so the grace period is not over."""
    received(node, {"command": "trap '' TERM; echo ready; exec sleep 600"})
    with working(node, tmp_path) as worker:
        stdout = Path(node.logfiles.paths(RUN_ID, 0, 1).stdout)
        worker.until(lambda: stdout.exists() and stdout.read_text(), "its first word")
        worker.store.broken = True
        node.later(59)
        worker.turn()
        (pid,) = worker.pids
        alive = not ended(pid)
        node.later(1)
        worker.until(lambda: not worker.pids, "its end")

        assert alive
        assert [end.attempt.exit_code for end in worker.loop._ends.new] == [-9]


def test_a_run_that_is_granted_anew_begins_again_only_when_its_old_task_is_gone_and_told_of(
    node: Decider, tmp_path: Path
) -> None:
    """Or the end of the old attempt would be taken for that of the new one, or end the same task twice."""
    os.mkfifo(tmp_path / "go")
    received(node, {"command": "trap '' TERM; read line < go"})
    with working(node, tmp_path) as worker:
        worker.until(lambda: worker.pids, "the task")
        (old,) = worker.pids
        go = os.open(tmp_path / "go", os.O_WRONLY)  # it listens now, and so has set its trap
        node.later(48)
        worker.until(lambda: worker.queued(RUN_ID) is QueueState.SUSPENDED, "the run to be suspended")
        hears_grant(node, asks(node), epoch=2)
        worker.turn()
        while_it_dies = (worker.queued(RUN_ID), worker.pids)
        os.write(go, b"\n")
        os.close(go)
        wait_for(lambda: ended(old), what="the old task's end")
        worker.turn()
        in_that_turn = (worker.queued(RUN_ID), worker.pids)
        node.later(1)
        worker.until(lambda: worker.pids, "the next attempt")

        assert while_it_dies == (QueueState.QUEUED, [old])
        assert in_that_turn == (QueueState.QUEUED, [])
        assert worker.attempts(RUN_ID) == [(1, AttemptState.LOST), (2, AttemptState.RUNNING)]


@pytest.mark.parametrize(
    ("on_lost", "second"),
    [("fail", (TaskState.FAILED, 4)), ("retry", (TaskState.COMPLETED, 5))],
)
def test_the_next_holder_goes_on_where_the_last_one_is_known_to_have_been(
    node: Decider, tmp_path: Path, on_lost: str, second: tuple[TaskState, int]
) -> None:
    (tmp_path / "origin").mkdir()
    with decider(tmp_path / "origin") as origin:
        run = granted_with(origin, {"command": "false"}, {"on_lost": on_lost}, {"depends_on": ["t0"]})
        take_back(origin, run.run_id)
        (item,) = origin.posted(run.run_id, EXECUTE)
        offer = message_of(origin.store, item, sender="node-2", lease_s=60.0)
    takes_on(node, requested_run(offer, blob=None, parse=dag_from_plain))
    with working(node, tmp_path) as worker:
        worker.until(lambda: node.run(RUN_ID).status.final, "the end")
        tasks = [worker.task(RUN_ID, f"t{number}") for number in range(3)]

        assert [(task.status, task.attempts) for task in tasks] == [
            (TaskState.FAILED, 1),
            second,
            (TaskState.SKIPPED, 0),
        ]
        assert [number for number, _ in worker.attempts(RUN_ID)] == ([5] if on_lost == "retry" else [])
        assert node.run(RUN_ID).status is RunState.FAILED


def granted_with(origin: Decider, *tasks: dict[str, Any]) -> RunRecord:
    """Offer a run and grant it to a node, which has said: the first failed, the second runs, the third is skipped."""
    run = origin.submitted(*tasks)
    sent(origin, run.run_id)
    claims(origin, "node-3", run.run_id)
    first, second, third = origin.store.tasks.of_run(run.run_id)
    with origin.store.transaction():
        arbiter.grant_sent(origin.store.remotes, run.run_id, epoch=1, now_us=origin.now_us)
        origin.store.tasks.mirror(
            [
                first._replace(status=TaskState.FAILED, version=3, attempts=1, failures=1),
                second._replace(status=TaskState.RUNNING, version=8, attempts=4),
                third._replace(status=TaskState.SKIPPED, version=2, blocked_by="t0"),
            ]
        )
    return run


def test_how_deep_a_dag_is_nested_travels_with_it(node: Decider, tmp_path: Path) -> None:
    (tmp_path / "origin").mkdir()
    with decider(tmp_path / "origin") as origin:
        spec = spec_of(nested("true"), target_node="node-2")
        with origin.store.transaction():
            parent = submit(origin.store, SubmitRequest(spec=spec_of()), this_node=origin.this_node).run
            above = ParentRun(run_id=parent.run_id, task_id="t0", depth=MAX_DEPTH - 1, tree=parent.run_id)
            run = submit(origin.store, SubmitRequest(spec=spec, parent=above), this_node=origin.this_node).run
        (item,) = origin.posted(run.run_id, EXECUTE)
        message = replace(message_of(origin.store, item, sender="node-2", lease_s=60.0), target="node-1")
    takes_on(node, requested_run(message, blob=None, parse=dag_from_plain))
    with working(node, tmp_path) as worker:
        worker.until(lambda: node.run(RUN_ID).status.final, "the end")

        assert node.run(RUN_ID).depth == MAX_DEPTH
        assert f"nested more than {MAX_DEPTH} deep" in (worker.task(RUN_ID).error or "")
        assert not worker.store.runs.children(RUN_ID)


@pytest.mark.parametrize(
    "fault",
    [
        {"error": "\ud800"},
        {"blocked_by": "\ud800"},
        {"outputs": {"v": "\ud800"}},
        {"exit_code": True},
        {"exit_code": 2**40},
        {"status": ["completed"]},
    ],
    ids=str,
)
def test_progress_that_cannot_be_stored_is_refused_before_it_is(node: Decider, fault: dict[str, Any]) -> None:
    run = node.submitted(target_node="node-1")
    with node.store.transaction():
        node.store.tasks.mirror([node.store.tasks.of_run(run.run_id)[0]._replace(status=TaskState.RUNNING, version=2)])
    (told,) = progress_of(node.store.tasks.of_run(run.run_id))

    assert _kept([told], spec_of())["t0"].status is TaskState.RUNNING
    with pytest.raises(MalformedMessageError):
        _kept([{**told, **fault}], spec_of())
