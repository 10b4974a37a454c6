"""What every store promises about peers, the outbox and remote runs (``cis.store.cluster_port``)."""

from __future__ import annotations

from typing import Any

import pytest

from cis.errors import ConflictError, StaleVersionError, StoreError
from cis.model.dag import Priority
from cis.model.states import AttemptState, RunState, TaskState
from cis.store.cluster import OutboxItem, PeerRecord, RemoteRole, RemoteRun, Route
from cis.store.port import Store
from cis.store.records import Delivery, QueueState, RunChange, TaskRecord
from tests.worlds.cluster_rows import message, peer
from tests.worlds.rows import WORKER, attempt, item, put_run


def post(store: Store, *items: OutboxItem) -> None:
    """Put messages into the outbox."""
    with store.transaction():
        for one in items:
            store.outbox.add(one)


def ids(items: Any) -> list[str]:
    """Return the ids of messages."""
    return [one.message_id for one in items]


def only(store: Store) -> OutboxItem:
    """Return the one message that there is about r1."""
    (one,) = store.outbox.of_run("r1")
    return one


def test_a_peer_is_read_back_as_it_was_stored_and_found_by_its_user(store: Store) -> None:
    full = peer(
        "n2",
        may=("execute", "read"),
        url="https://n2",
        matrix_user="@n2:x",
        contact_at_us=5,
        clock_ahead_us=-3,
        fault="f",
    )
    bare = peer("n1", may=())
    with store.transaction():
        store.peers.put(full)
        store.peers.put(bare)

    assert store.peers.get("n2") == store.peers.by_user("@n2:x") == full
    assert list(store.peers.all()) == [bare, full]
    assert store.peers.get("n3") is None
    assert store.peers.by_user("@n3:x") is None


def test_a_peer_takes_the_place_of_the_one_with_its_id(store: Store) -> None:
    with store.transaction():
        store.peers.put(peer("n2", url="https://n2", matrix_user="@n2:x"))
        store.peers.put(peer("n2", public_key="new", matrix_user="@n2:x"))
        store.peers.put(peer("n3", public_key="key-n2"))

    assert store.peers.get("n2") == peer("n2", public_key="new", matrix_user="@n2:x")
    with store.transaction():
        assert store.peers.delete("n2")
        assert not store.peers.delete("n2")
    assert [one.node_id for one in store.peers.all()] == ["n3"]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (peer("n3", public_key="key-n2"), r"node n3 cannot have the public key key-n2: .* node n2"),
        (peer("n3", matrix_user="@n2:x"), r"node n3 cannot have the Matrix user @n2:x: .* node n2"),
    ],
)
def test_a_key_and_a_user_belong_to_one_peer_alone(store: Store, second: PeerRecord, message: str) -> None:
    with store.transaction():
        store.peers.put(peer("n2", matrix_user="@n2:x"))
        store.peers.put(peer("n4"))
        store.peers.put(peer("n5"))
    with pytest.raises(ConflictError, match=message), store.transaction():
        store.peers.put(second)

    assert store.peers.get("n3") is None


def test_word_of_a_peer_ends_its_fault_and_keeps_the_clock_difference_that_is_known(store: Store) -> None:
    with store.transaction():
        store.peers.put(peer("n2"))
        store.peers.note_contact("n2", now_us=5, clock_ahead_us=7)
        store.peers.note_fault("n2", "x" * 501)
        faulty = store.peers.get("n2")
        store.peers.note_contact("n2", now_us=6)
        store.peers.note_contact("nobody", now_us=6)
        store.peers.note_fault("nobody", "x")

    assert faulty == peer("n2", contact_at_us=5, clock_ahead_us=7, fault="x" * 500)
    assert list(store.peers.all()) == [peer("n2", contact_at_us=6, clock_ahead_us=7)]


def test_a_message_is_read_back_as_it_was_posted_and_only_once(store: Store) -> None:
    full = message("m2", fields={"a": [1, None, "ü"], "b": {}}, attempts=2, uncertain=True, fault="f", node_id="")
    post(store, message("m1"), full)

    assert list(store.outbox.of_run("r1")) == [message("m1"), full]
    assert list(store.outbox.of_run("r2")) == []
    with pytest.raises(StoreError), store.transaction():
        store.outbox.add(message("m1"))
    assert list(store.outbox.of_run("r1")) == [message("m1"), full]


def test_what_is_due_comes_by_urgency_and_then_by_age(store: Store) -> None:
    post(
        store,
        message("m4", priority=Priority.HIGH),
        message("m3", node_id="n3"),
        message("m2", priority=Priority.HIGH, node_id="n3"),
        message("m1"),
        message("m0", due_at_us=11),
        message("m5", route=Route.ROOM, node_id=""),
    )

    assert ids(store.outbox.due(Route.PUSH, now_us=10, limit=9)) == ["m2", "m4", "m1", "m3"]
    assert ids(store.outbox.due(Route.PUSH, now_us=10, limit=9, node_id="n2")) == ["m4", "m1"]
    assert ids(store.outbox.due(Route.PUSH, now_us=10, limit=2)) == ["m2", "m4"]
    assert ids(store.outbox.due(Route.PUSH, now_us=11, limit=9, node_id="n2")) == ["m4", "m0", "m1"]
    assert ids(store.outbox.due(Route.PUSH, now_us=9, limit=9)) == []
    assert ids(store.outbox.due(Route.ROOM, now_us=10, limit=9)) == ["m5"]
    assert ids(store.outbox.due(Route.ROOM, now_us=10, limit=9, node_id="")) == ["m5"]
    assert ids(store.outbox.due(Route.ROOM, now_us=10, limit=9, node_id="n2")) == []


def test_the_outbox_says_for_whom_something_is_due_and_when_the_next_is(store: Store) -> None:
    assert store.outbox.next_due_us() is None
    assert store.outbox.depths() == {}
    post(
        store,
        message("m1", node_id="n3"),
        message("m2", node_id="n3"),
        message("m3", due_at_us=12),
        message("m4", route=Route.ROOM, node_id="", due_at_us=8),
    )

    assert list(store.outbox.due_nodes(now_us=9)) == []
    assert list(store.outbox.due_nodes(now_us=10)) == ["n3"]
    assert list(store.outbox.due_nodes(now_us=12)) == ["n2", "n3"]
    assert store.outbox.next_due_us() == 8
    assert store.outbox.depths() == {"": 1, "n2": 1, "n3": 2}


def test_a_message_that_is_being_sent_is_not_due_and_may_have_arrived(store: Store) -> None:
    post(store, message("m1"), message("m2"))
    with store.transaction():
        assert store.outbox.begin_sending(["m1", "gone"], due_at_us=30) == {"m1"}
        assert store.outbox.begin_sending([], due_at_us=30) == set()

    assert list(store.outbox.of_run("r1")) == [
        message("m1", attempts=1, uncertain=True, due_at_us=30),
        message("m2"),
    ]
    assert ids(store.outbox.due(Route.PUSH, now_us=29, limit=9)) == ["m2"]


@pytest.mark.parametrize("uncertain", [True, False])
def test_a_message_that_was_not_accepted_says_why_and_whether_it_may_have_arrived(
    store: Store, *, uncertain: bool
) -> None:
    post(store, message("m1"))
    with store.transaction():
        store.outbox.begin_sending(["m1"], due_at_us=30)
        store.outbox.put_off("m1", due_at_us=40, fault="ü" * 501, uncertain=uncertain)
        store.outbox.put_off("gone", due_at_us=40, fault="x", uncertain=True)

    assert only(store) == message("m1", attempts=1, uncertain=uncertain, due_at_us=40, fault="ü" * 500)


def test_messages_leave_the_outbox_one_by_one_or_all_of_a_kind_for_a_run(store: Store) -> None:
    others = message("m3", kind="status"), message("m4", run_id="r2")
    post(store, message("m1"), message("m2", route=Route.ROOM), *others, message("m5"))
    with store.transaction():
        assert store.outbox.remove("m5")
        assert not store.outbox.remove("m5")
        assert store.outbox.remove_of_run("r1", "control") == 2
        assert store.outbox.remove_of_run("r1", "control") == 0

    assert ids([*store.outbox.of_run("r1"), *store.outbox.of_run("r2")]) == ["m3", "m4"]


def test_the_other_nodes_part_in_a_run_is_kept_and_replaced(store: Store) -> None:
    put_run(store, "r1")
    first = RemoteRun(run_id="r1", role=RemoteRole.OFFERED, peer="")
    second = RemoteRun(
        run_id="r1",
        role=RemoteRole.SENT,
        peer="n2",
        epoch=2,
        lease_until_us=9,
        control_seq=3,
        heard_version=4,
        open=False,
        event_id="$e",
        lease_us=7,
        suspended_us=8,
        boot_id="b",
        told_bytes=5,
    )
    with store.transaction():
        store.remotes.put(first)
    assert store.remotes.get("r1") == first
    with store.transaction():
        store.remotes.put(second)

    assert store.remotes.get("r1") == second
    assert store.remotes.get("r2") is None


def test_what_is_open_is_listed_by_role_and_run(store: Store) -> None:
    for run_id in ("r3", "r1", "r2", "r4"):
        put_run(store, run_id)
    with store.transaction():
        for run_id in ("r3", "r1"):
            store.remotes.put(RemoteRun(run_id=run_id, role=RemoteRole.SENT, peer="n2"))
        store.remotes.put(RemoteRun(run_id="r2", role=RemoteRole.SENT, peer="n2", open=False))
        store.remotes.put(RemoteRun(run_id="r4", role=RemoteRole.RECEIVED, peer="n2"))

    assert [one.run_id for one in store.remotes.open(RemoteRole.SENT)] == ["r1", "r3"]
    assert [one.run_id for one in store.remotes.open(RemoteRole.RECEIVED)] == ["r4"]
    assert list(store.remotes.open(RemoteRole.OFFERED)) == []
    with store.transaction():
        store.remotes.put(RemoteRun(run_id="r1", role=RemoteRole.SENT, peer="n2", open=False))
    assert [one.run_id for one in store.remotes.open(RemoteRole.SENT)] == ["r3"]


def test_another_node_has_a_part_only_in_a_run_that_is_here(store: Store) -> None:
    with pytest.raises(StoreError), store.transaction():
        store.remotes.put(RemoteRun(run_id="nope", role=RemoteRole.SENT, peer="n2"))


def test_a_run_can_change_its_owner_and_the_way_it_takes(store: Store) -> None:
    made = put_run(store, "r1")
    with store.transaction():
        moved = store.runs.change(made, RunChange(owner_node="n2", delivery=Delivery.PUSHED))
        same = store.runs.change(moved, RunChange(status=RunState.RUNNING))
    with pytest.raises(StaleVersionError), store.transaction():
        store.runs.change(made, RunChange(owner_node="n3"))

    assert moved == made._replace(version=2, owner_node="n2", delivery=Delivery.PUSHED)
    assert same == moved._replace(version=3, status=RunState.RUNNING)


def test_a_task_is_mirrored_as_its_executor_has_it_if_that_is_newer(store: Store) -> None:
    put_run(store, "r1")
    told = TaskRecord(
        run_id="r1",
        task_no=0,
        task_id="t0",
        status=TaskState.COMPLETED,  # from pending: what lay between was not told, and the executor checked it
        version=7,
        attempts=2,
        failures=1,
        exit_code=0,
        started_at_us=3,
        finished_at_us=4,
        outputs={"v": "ü"},
        error="e",
        blocked_by="b",
        due_at_us=5,
        child_run_id="c",
    )
    unknown = told._replace(task_no=9, task_id="t9")
    same_age = TaskRecord(run_id="r1", task_no=1, task_id="t1", status=TaskState.RUNNING)
    with store.transaction():
        changed = store.tasks.mirror([told, unknown, same_age])
        again = store.tasks.mirror([told, told._replace(version=6, status=TaskState.RUNNING)])
    kept = list(store.tasks.of_run("r1"))
    with store.transaction():
        after_the_end = store.tasks.mirror([TaskRecord(run_id="r1", task_no=0, task_id="t0", version=8)])
        waiting = TaskRecord(run_id="r1", task_no=1, task_id="t1", version=3, error="e", due_at_us=5)
        store.tasks.mirror([waiting])
        cleared = store.tasks.mirror([waiting._replace(version=4, error=None, due_at_us=None)])

    assert list(changed) == [told]
    assert list(again) == []
    assert kept == [told, TaskRecord(run_id="r1", task_no=1, task_id="t1")]
    assert list(after_the_end) == []
    assert list(cleared) == [store.tasks.of_run("r1")[1]]


def test_an_attempt_is_mirrored_when_it_is_new_or_runs_no_more(store: Store) -> None:
    put_run(store, "r1")
    running = attempt("r1")
    with_pid = attempt("r1", pid=5, pid_started="then")
    ended = with_pid._replace(
        status=AttemptState.FAILED,
        finished_at_us=9,
        exit_code=1,
        error="e",
        stdout_tail="o",
        stderr_tail="é",
        stdout_bytes=1,
        stderr_bytes=2,
    )
    with store.transaction():
        assert list(store.attempts.mirror([running, attempt("r1", 2)])) == [running, attempt("r1", 2)]
        assert list(store.attempts.mirror([running])) == []
        assert list(store.attempts.mirror([with_pid])) == [with_pid]
        assert list(store.attempts.mirror([ended, ended])) == [ended]

    assert list(store.attempts.of_run("r1", task_id="t0", attempt=1)) == [ended]


def test_an_attempt_that_ended_stays_as_it_is(store: Store) -> None:
    put_run(store, "r1")
    ended = attempt("r1", status=AttemptState.COMPLETED, exit_code=0, finished_at_us=9)
    with store.transaction():
        assert list(store.attempts.mirror([ended])) == [ended]
        late = [attempt("r1"), ended._replace(status=AttemptState.LOST), ended._replace(exit_code=1)]
        assert list(store.attempts.mirror(late)) == []

    assert list(store.attempts.of_run("r1")) == [ended]


def test_a_withdrawal_counts_for_the_run_and_the_sender_that_it_names(store: Store) -> None:
    with store.transaction():
        store.remotes.withdraw("r1", sender="n2", expires_at_us=9)
        store.remotes.withdraw("r1", sender="n2", expires_at_us=10)

    assert store.remotes.withdrawn("r1", sender="n2")
    assert not store.remotes.withdrawn("r1", sender="n1")
    assert not store.remotes.withdrawn("r1", sender="n3")
    assert not store.remotes.withdrawn("r2", sender="n2")


def queued(store: Store, *run_ids: str) -> None:
    """Put runs into the queue of node n."""
    for run_id in run_ids:
        put_run(store, run_id)
        with store.transaction():
            store.queue.add("n", item(run_id))


def test_a_suspended_run_is_taken_by_no_worker_until_it_is_released(store: Store) -> None:
    queued(store, "r1", "r2", "r3")
    with store.transaction():
        store.queue.claim("n", WORKER, epoch=1, limit=1)
        store.queue.suspend("r1")
        store.queue.suspend("r2")
        taken = store.queue.claim("n", WORKER, epoch=2, limit=9)
        store.queue.reclaim("n", WORKER, epoch=3)
        held = store.queue.claimed("n", WORKER)
    suspended = store.queue.get("r1")

    assert [one.run_id for one in taken] == ["r3"]
    assert [one.run_id for one in held] == ["r3"]
    assert suspended is not None
    assert (suspended.status, suspended.epoch) == (QueueState.SUSPENDED, 1)
    assert store.queue.demand("n") == []
    assert store.queue.queued_count("n") == 0
    with store.transaction():
        store.queue.release("r1")
        count = store.queue.queued_count("n")
        again = store.queue.claim("n", WORKER, epoch=4, limit=9)
    assert count == 1
    assert [one.run_id for one in again] == ["r1"]


def test_the_load_counts_what_is_queued_or_claimed_here_up_to_a_bound(store: Store) -> None:
    queued(store, "r1", "r2", "r3", "r4")
    put_run(store, "r5")
    with store.transaction():
        store.queue.add("m", item("r5"))
        store.queue.claim("n", WORKER, epoch=1, limit=1)
        store.queue.suspend("r4")

    assert store.queue.load("n", at_most=9) == 3
    assert store.queue.load("n", at_most=2) == 2
    assert store.queue.load("n", at_most=0) == 0
    assert store.queue.load("m", at_most=9) == 1
    assert store.queue.load("k", at_most=9) == 0
