"""Who may execute an offered run, and until when: the arbiter's decisions, the holder's, and the worker's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cis.engine import control, grants, offers
from cis.engine.adoption import hold
from cis.engine.dispatch import expire
from cis.engine.incoming import _kept
from cis.engine.instant import Instant
from cis.engine.leases import Leases
from cis.engine.live import LiveAttempts
from cis.engine.outgoing import progress_of
from cis.engine.parts import Held
from cis.engine.submit import ParentRun, SubmitRequest, submit
from cis.executors.local import LocalExecutor
from cis.model.message import MessageKind, Result
from cis.model.states import RunState, TaskState
from cis.store.cluster import OfferState, RemoteRole
from cis.store.records import QueueState, RunRecord
from tests.integration.deciding import BOOT, SECOND_US, Decider, decider, spec_of

CLAIM, GRANT, STATUS, EXECUTE = MessageKind.CLAIM, MessageKind.GRANT, MessageKind.STATUS, MessageKind.EXECUTE
RUN_ID = "run-of-node-2"


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
    assert node.hears(CLAIM, by, run.run_id, epoch=0).result is Result.ACCEPTED
    with node.store.transaction():
        offers.grant_sent(node.store, run.run_id, epoch=1, now_us=node.now_us)
    return run


def take_back(node: Decider, run_id: str, **seen: Any) -> bool:
    """Take a run back whose lease was seen to be over."""
    with node.store.transaction():
        return offers.take_back(node.store, replace(node.remote(run_id), **seen), site=node.site)


def received(node: Decider, *, lease_s: float = 60.0, **document: Any) -> RunRecord:
    """Take a run on that node-2 has offered and granted to node-1."""
    fields: dict[str, Any] = {"epoch": 0, "labels": [], "priority": "normal", "lease_ms": 60_000}
    node.hears(EXECUTE, "node-2", RUN_ID, target=None, **fields)
    with node.store.transaction():
        node.store.set_offer_state(RUN_ID, OfferState.CLAIMED, claim_at_us=node.now_us)
    grant: dict[str, Any] = {"node_id": "node-1", "epoch": 1, "lease_ms": round(lease_s * 1000)}
    reply = node.hears(GRANT, "node-2", RUN_ID, target=None, wanted=spec_of(**document), **grant)
    assert reply.result is Result.ACCEPTED, reply
    return node.run(RUN_ID)


# The arbiter's side.


def test_the_first_claim_is_granted_and_no_other(node: Decider) -> None:
    run = node.submitted()
    sent(node, run.run_id)
    first = node.hears(CLAIM, "node-3", run.run_id, epoch=0)
    second = node.hears(CLAIM, "node-2", run.run_id, epoch=0)

    assert (first.result, second.result) == (Result.ACCEPTED, Result.DUPLICATE)
    assert node.run(run.run_id).owner_node == "node-3"
    assert [item.fields["node_id"] for item in node.posted(run.run_id, GRANT)] == ["node-3"]
    assert node.posted(run.run_id, EXECUTE) == []


def test_a_claim_of_an_offer_that_is_past_or_of_a_node_without_the_right_is_not_granted(node: Decider) -> None:
    run = node.submitted()
    with node.store.transaction():
        peer = node.store.peer("node-3")
        assert peer is not None
        node.store.put_peer(replace(peer, may=("read",)))

    assert node.hears(CLAIM, "node-2", run.run_id, epoch=7).result is Result.DUPLICATE
    assert node.hears(CLAIM, "node-3", run.run_id, epoch=0).result is Result.REFUSED
    assert node.remote(run.run_id).role is RemoteRole.OFFERED


def test_a_run_whose_lease_is_over_is_offered_again_under_the_next_epoch(node: Decider) -> None:
    run = granted(node)
    with node.store.transaction():
        node.store.unpost_run(run.run_id, GRANT)
    again = take_back(node, run.run_id)
    reply = node.hears(CLAIM, "node-3", run.run_id, epoch=1)

    assert again
    assert reply.result is Result.ACCEPTED
    assert (node.remote(run.run_id).peer, node.remote(run.run_id).epoch) == ("node-3", 2)


def test_a_grant_that_was_renewed_since_it_was_looked_at_is_not_taken_back(node: Decider) -> None:
    run = granted(node)
    seen_until_us = node.remote(run.run_id).lease_until_us
    node.later(5)
    with node.store.transaction():
        offers.hear_from_holder(node.store, node.remote(run.run_id), suspended=False, site=node.site)

    assert not take_back(node, run.run_id, lease_until_us=seen_until_us)
    assert node.remote(run.run_id).role is RemoteRole.SENT


def test_a_grant_that_was_given_anew_since_it_was_looked_at_is_not_taken_back(node: Decider) -> None:
    """Or two grants were on their way at once."""
    run = granted(node)
    with node.store.transaction():
        offers.hear_from_holder(node.store, node.remote(run.run_id), suspended=True, site=node.site)

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
            offers.hear_from_holder(node.store, node.remote(run.run_id), suspended=True, site=node.site)
        node.later(1)

    assert node.remote(run.run_id).epoch == 2


def test_a_cancelled_run_whose_holder_is_gone_ends_cancelled_and_is_not_offered_again(node: Decider) -> None:
    run = granted(node)
    with node.store.transaction():
        control.cancel(node.store, run.run_id, now_us=node.now_us)
    take_back(node, run.run_id)

    assert node.run(run.run_id).status is RunState.CANCELLED
    assert node.posted(run.run_id, EXECUTE) == []
    assert node.hears(CLAIM, "node-3", run.run_id, epoch=1).result is Result.DUPLICATE
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
    paused = node.hears(CLAIM, "node-2", run.run_id, epoch=0)
    with node.store.transaction():
        control.resume(node.store, run.run_id, now_us=node.now_us)
    resumed = node.hears(CLAIM, "node-2", run.run_id, epoch=0)

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
    watch, remotes = offers.LeaseWatch(), [node.remote(run.run_id)]
    node.later(10**6)  # the wall clock jumps; the loop's does not
    assert watch.over(remotes, now_s=100.0, synced_s=99.0) == []
    assert watch.over(remotes, now_s=161.0, synced_s=159.0) == []

    assert watch.over(remotes, now_s=162.0, synced_s=160.5) == remotes


# The holder's side.


def test_what_is_granted_is_taken_on_under_the_lease(node: Decider) -> None:
    run = received(node)
    remote = node.remote(RUN_ID)

    assert (run.node_id, run.owner_node, run.status) == ("node-2", "node-1", RunState.PENDING)
    assert (remote.epoch, remote.lease_until_us, remote.boot_id) == (1, node.now_us + 60 * SECOND_US, BOOT)
    assert node.offer(RUN_ID).state is OfferState.CLOSED


def test_a_grant_that_answers_a_claim_of_long_ago_is_not_taken_up_however_fresh_it_is_called(node: Decider) -> None:
    """The machine slept between its claim and the answer, which waited in its socket meanwhile."""
    fields: dict[str, Any] = {"epoch": 0, "labels": [], "priority": "normal", "lease_ms": 60_000}
    node.hears(EXECUTE, "node-2", RUN_ID, target=None, **fields)
    with node.store.transaction():
        node.store.set_offer_state(RUN_ID, OfferState.CLAIMED, claim_at_us=node.now_us)
    node.later(300)
    grant: dict[str, Any] = {"node_id": "node-1", "epoch": 1, "lease_ms": 60_000}
    reply = node.hears(GRANT, "node-2", RUN_ID, target=None, wanted=spec_of(), **grant)

    assert reply.result is Result.LATER
    assert node.store.run(RUN_ID) is None


def test_a_grant_that_is_older_than_its_lease_is_not_taken_up(node: Decider) -> None:
    node.hears(EXECUTE, "node-2", RUN_ID, target=None, epoch=0, labels=[], priority="normal", lease_ms=60_000)
    grant: dict[str, Any] = {"node_id": "node-1", "epoch": 1, "lease_ms": 60_000}
    reply = node.hears(GRANT, "node-2", RUN_ID, target=None, wanted=spec_of(), age_s=61, **grant)

    assert reply.result is Result.LATER
    assert node.store.run(RUN_ID) is None


def test_a_run_that_another_node_was_granted_is_let_go_and_never_claimed_again(node: Decider) -> None:
    received(node)
    node.hears(GRANT, "node-2", RUN_ID, target=None, node_id="node-3", epoch=2, lease_ms=60_000)
    again = node.hears(EXECUTE, "node-2", RUN_ID, target=None, epoch=2, labels=[], priority="normal", lease_ms=60_000)

    assert node.run(RUN_ID).status is RunState.CANCELLED
    assert again.result is Result.DUPLICATE
    assert node.offer(RUN_ID).state is OfferState.CLOSED


def test_an_offer_that_this_node_is_unfit_for_stays_closed(node: Decider) -> None:
    fields: dict[str, Any] = {"labels": [], "priority": "normal", "lease_ms": 60_000}
    node.hears(EXECUTE, "node-2", RUN_ID, target=None, epoch=0, **fields)
    with node.store.transaction():
        grants.set_unfit(node.store, RUN_ID)
    again = node.hears(EXECUTE, "node-2", RUN_ID, target=None, epoch=1, **fields)

    assert again.result is Result.DUPLICATE
    assert node.offer(RUN_ID).state is OfferState.CLOSED


def test_a_node_that_needs_more_than_half_a_lease_to_stop_takes_nothing(node: Decider) -> None:
    node.hears(EXECUTE, "node-2", RUN_ID, target=None, epoch=0, labels=["gpu"], priority="normal", lease_ms=60_000)
    offer = node.offer(RUN_ID)

    assert grants.eligible(offer, labels={"gpu", "x"}, grace_s=27.0)
    assert not grants.eligible(offer, labels={"gpu"}, grace_s=27.1)
    assert not grants.eligible(offer, labels={"x"}, grace_s=1.0)


def test_a_new_grant_releases_a_suspended_run_and_the_runs_that_are_its_tasks(node: Decider) -> None:
    run = received(node)
    with node.store.transaction():
        child = _child(node, run)
        for one in (run, child):
            node.store.suspend(one.run_id)
    node.hears(GRANT, "node-2", RUN_ID, target=None, node_id="node-1", epoch=2, lease_ms=60_000)
    items = [node.store.queue_item(one.run_id) for one in (run, child)]

    assert [item.status for item in items if item is not None] == [QueueState.QUEUED] * 2


def test_a_grant_of_a_run_that_is_over_here_has_it_told_again(node: Decider) -> None:
    run = received(node)
    with node.store.transaction():
        control.end_cancelled(node.store, run, now_us=node.now_us)
        node.store.put_remote(replace(node.remote(RUN_ID), open=False))
    reply = node.hears(GRANT, "node-2", RUN_ID, target=None, node_id="node-1", epoch=2, lease_ms=60_000)

    assert reply.result is Result.ACCEPTED
    assert (node.remote(RUN_ID).open, node.remote(RUN_ID).epoch) == (True, 2)


# The worker's side.


def _child(node: Decider, run: RunRecord) -> RunRecord:
    parent = ParentRun(run_id=run.run_id, task_id="t0", depth=0)
    return submit(node.store, SubmitRequest(spec=spec_of(dag_id="child"), parent=parent), site=node.site).run


def _leases(**changes: Any) -> Leases:
    return Leases("node-1", **{"margin_s": 13.0, "boot_id": BOOT, **changes})


def test_a_worker_stops_a_run_and_the_runs_that_are_its_tasks_a_margin_before_the_lease_is_over(node: Decider) -> None:
    run = received(node)
    with node.store.transaction():
        child = _child(node, run)
    leases, begun = _leases(), Instant(node.now_us, 50.0)
    shortly_before = Instant(node.now_us + 46 * SECOND_US, 96.0)
    after = Instant(node.now_us + 48 * SECOND_US, 98.0)

    assert [leases.over(node.store, one, now=begun) for one in (run, child)] == [False, False]
    assert [leases.over(node.store, one, now=shortly_before) for one in (run, child)] == [False, False]
    assert [leases.over(node.store, one, now=after) for one in (run, child)] == [True, True]


def test_neither_clock_alone_prolongs_a_lease_nor_does_a_reboot_or_a_store_that_fails(node: Decider) -> None:
    run = received(node)
    leases, begun = _leases(), Instant(node.now_us, 50.0)
    leases.over(node.store, run, now=begun)
    wall_set_back = Instant(node.now_us - 3600 * SECOND_US, 98.0)
    machine_slept = Instant(node.now_us + 48 * SECOND_US, 50.0)

    assert leases.over(node.store, run, now=wall_set_back)
    assert leases.over(node.store, run, now=machine_slept)
    assert _leases(boot_id="another-life").over(node.store, run, now=begun)
    assert leases.late(Instant(node.now_us, 98.0)) == {RUN_ID}  # from memory
    assert leases.late(Instant(node.now_us, 98.0), within_s=0.0) == set()
    assert leases.late(Instant(node.now_us, 110.5), within_s=0.0) == {RUN_ID}


def test_a_run_whose_lease_is_over_is_suspended_when_a_worker_claims_it(node: Decider) -> None:
    run = received(node)
    executor = LocalExecutor(max_log_bytes=1)
    held = Held(LiveAttempts(executor, grace_s=1.0), _leases())
    now = Instant(node.now_us + 50 * SECOND_US, 0.0)
    with node.store.transaction():
        (item,) = node.store.claim("node-1", run.worker_id, epoch=1, limit=1)
        hold(node.store, held, item, ours=frozenset(), now=now)
    executor.close()
    kept = node.store.queue_item(RUN_ID)

    assert held.plans == {}
    assert kept is not None
    assert kept.status is QueueState.SUSPENDED


@pytest.mark.parametrize(("on_lost", "status"), [("fail", TaskState.FAILED), ("retry", TaskState.PENDING)])
def test_a_task_that_ran_at_the_old_holder_was_lost_and_what_is_over_stays_over(
    node: Decider, on_lost: str, status: TaskState
) -> None:
    old = node.submitted({}, {"on_lost": on_lost}, {})
    tasks = node.store.tasks(old.run_id)
    with node.store.transaction():
        node.store.mirror_tasks(
            [
                replace(tasks[0], status=TaskState.FAILED, version=3, attempts=1, failures=1, error="no"),
                replace(tasks[1], status=TaskState.RUNNING, version=2, attempts=4),
            ]
        )
    spec = spec_of({}, {"on_lost": on_lost}, {}, target_node="node-1")
    kept = _kept(progress_of(node.store.tasks(old.run_id)), spec)
    executor = LocalExecutor(max_log_bytes=1)
    held = Held(LiveAttempts(executor, grace_s=1.0), _leases())
    with node.store.transaction():
        run = submit(node.store, SubmitRequest(spec=spec, kept=kept), site=node.site).run
        (item,) = node.store.claim("node-1", run.worker_id, epoch=1, limit=1)
        hold(node.store, held, item, ours=frozenset(), now=Instant(node.now_us, 0.0))
    executor.close()
    first, second, _ = node.store.tasks(run.run_id)

    assert set(kept) == {"t0", "t1"}
    assert (first.status, first.error) == (TaskState.FAILED, "no")
    assert second.status is status
    assert second.attempts == 4
