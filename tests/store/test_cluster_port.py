"""What every store promises about other nodes (``cis.store.cluster_port``)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cis.errors import (
    ConflictError,
    StoreError,
)
from cis.model.states import Priority
from cis.store.cluster import (
    JournalState,
    OfferState,
    OutboxItem,
    PeerRecord,
    RemoteRole,
    RemoteRun,
    RoomCursor,
    Route,
    Schedule,
)
from cis.store.port import Store
from tests.worlds.cluster_rows import event, message, offer, peer
from tests.worlds.rows import put_run


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


class TestPeers:
    def test_a_peer_is_read_back_as_it_was_stored_and_found_by_its_user(self, store: Store) -> None:
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

    def test_a_peer_takes_the_place_of_the_one_with_its_id(self, store: Store) -> None:
        with store.transaction():
            store.peers.put(peer("n2", url="https://n2", matrix_user="@n2:x"))
            store.peers.put(peer("n2", public_key="new", matrix_user="@n2:x"))
            store.peers.put(peer("n3", public_key="key-n2"))

        assert store.peers.get("n2") == peer("n2", public_key="new", matrix_user="@n2:x")
        with store.transaction():
            assert store.peers.delete("n2", farewell_until_us=50)
            assert not store.peers.delete("n2", farewell_until_us=60)
        assert [one.node_id for one in store.peers.all()] == ["n3"]

    def test_where_a_node_was_that_is_trusted_no_more_is_known_until_a_time(self, store: Store) -> None:
        there = peer("n2", url="https://n2", matrix_user="@n2:x")
        with store.transaction():
            store.peers.put(there)
            store.peers.delete("n2", farewell_until_us=50)
        gone = store.peers.get("n2", or_farewell=True)

        assert store.peers.get("n2") is None
        assert gone is not None
        assert (gone.url, gone.matrix_user, gone.public_key, gone.may) == (there.url, "@n2:x", there.public_key, ())
        with store.transaction():
            assert store.pruning.prune_notes(expired_us=50, withdrawn_us=50, asked_us=50) == 0
            assert store.pruning.prune_notes(expired_us=51, withdrawn_us=0, asked_us=0) == 1
        assert store.peers.get("n2", or_farewell=True) is None

    @pytest.mark.parametrize(
        ("second", "message"),
        [
            (peer("n3", public_key="key-n2"), r"node n3 cannot have the public key key-n2: .* node n2"),
            (peer("n3", matrix_user="@n2:x"), r"node n3 cannot have the Matrix user @n2:x: .* node n2"),
        ],
    )
    def test_a_key_and_a_user_belong_to_one_peer_alone(self, store: Store, second: PeerRecord, message: str) -> None:
        with store.transaction():
            store.peers.put(peer("n2", matrix_user="@n2:x"))
            store.peers.put(peer("n4"))
            store.peers.put(peer("n5"))
        with pytest.raises(ConflictError, match=message), store.transaction():
            store.peers.put(second)

        assert store.peers.get("n3") is None

    def test_word_of_a_peer_ends_its_fault_and_keeps_the_clock_difference_that_is_known(self, store: Store) -> None:
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


class TestOutbox:
    def test_a_message_is_read_back_as_it_was_posted_and_only_once(self, store: Store) -> None:
        full = message("m2", fields={"a": [1, None, "ü"], "b": {}}, attempts=2, uncertain=True, fault="f", node_id="")
        post(store, message("m1"), full)

        assert list(store.outbox.of_run("r1")) == [message("m1"), full]
        assert list(store.outbox.of_run("r2")) == []
        with pytest.raises(StoreError), store.transaction():
            store.outbox.add(message("m1"))
        assert list(store.outbox.of_run("r1")) == [message("m1"), full]

    def test_what_is_due_comes_by_urgency_and_then_by_age(self, store: Store) -> None:
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

    def test_the_outbox_says_for_whom_something_is_due_and_when_the_next_is(self, store: Store) -> None:
        assert store.outbox.schedule(now_us=9) == Schedule((), None)
        assert store.outbox.depths() == {}
        post(
            store,
            message("m1", node_id="n3"),
            message("m2", node_id="n3"),
            message("m3", due_at_us=12),
            message("m4", route=Route.ROOM, node_id="", due_at_us=8),
        )

        assert store.outbox.schedule(now_us=9) == Schedule((), 8)
        assert store.outbox.schedule(now_us=10) == Schedule(("n3",), 8)
        assert store.outbox.schedule(now_us=12) == Schedule(("n2", "n3"), 8)
        assert store.outbox.depths() == {"": 1, "n2": 1, "n3": 2}

    def test_a_message_that_is_being_sent_is_not_due_and_may_have_arrived(self, store: Store) -> None:
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
        self, store: Store, *, uncertain: bool
    ) -> None:
        post(store, message("m1"))
        with store.transaction():
            store.outbox.begin_sending(["m1"], due_at_us=30)
            store.outbox.put_off("m1", due_at_us=40, fault="ü" * 501, uncertain=uncertain)
            store.outbox.put_off("gone", due_at_us=40, fault="x", uncertain=True)

        assert only(store) == message("m1", attempts=1, uncertain=uncertain, due_at_us=40, fault="ü" * 500)

    def test_messages_leave_the_outbox_one_by_one_or_all_of_a_kind_for_a_run(self, store: Store) -> None:
        others = message("m3", kind="status"), message("m4", run_id="r2")
        post(store, message("m1"), message("m2", route=Route.ROOM), *others, message("m5"))
        with store.transaction():
            assert store.outbox.remove("m5")
            assert not store.outbox.remove("m5")
            assert store.outbox.remove_of_run("r1", "control") == 2
            assert store.outbox.remove_of_run("r1", "control") == 0

        assert ids([*store.outbox.of_run("r1"), *store.outbox.of_run("r2")]) == ["m3", "m4"]


class TestRemotes:
    def test_the_other_nodes_part_in_a_run_is_kept_and_replaced(self, store: Store) -> None:
        put_run(store, "r1")
        first = RemoteRun(run_id="r1", role=RemoteRole.OFFERED, peer_id="")
        second = RemoteRun(
            run_id="r1",
            role=RemoteRole.SENT,
            peer_id="n2",
            epoch=2,
            lease_until_us=9,
            control_seq=3,
            applied_version=4,
            open=False,
            event_id="$e",
            lease_us=7,
            suspended_us=8,
            boot_id="b",
            reported_bytes=5,
        )
        with store.transaction():
            store.remotes.put(first)
        assert store.remotes.get("r1") == first
        with store.transaction():
            store.remotes.put(second)

        assert store.remotes.get("r1") == second
        assert store.remotes.get("r2") is None

    def test_what_is_open_is_listed_by_role_and_run(self, store: Store) -> None:
        for run_id in ("r3", "r1", "r2", "r4"):
            put_run(store, run_id)
        with store.transaction():
            for run_id in ("r3", "r1"):
                store.remotes.put(RemoteRun(run_id=run_id, role=RemoteRole.SENT, peer_id="n2"))
            store.remotes.put(RemoteRun(run_id="r2", role=RemoteRole.SENT, peer_id="n2", open=False))
            store.remotes.put(RemoteRun(run_id="r4", role=RemoteRole.RECEIVED, peer_id="n2"))

        assert [one.run_id for one in store.remotes.open(RemoteRole.SENT)] == ["r1", "r3"]
        assert [one.run_id for one in store.remotes.open(RemoteRole.RECEIVED)] == ["r4"]
        assert list(store.remotes.open(RemoteRole.OFFERED)) == []
        with store.transaction():
            store.remotes.put(RemoteRun(run_id="r1", role=RemoteRole.SENT, peer_id="n2", open=False))
        assert [one.run_id for one in store.remotes.open(RemoteRole.SENT)] == ["r3"]

    def test_another_node_has_a_part_only_in_a_run_that_is_here(self, store: Store) -> None:
        with pytest.raises(StoreError), store.transaction():
            store.remotes.put(RemoteRun(run_id="nope", role=RemoteRole.SENT, peer_id="n2"))

    def test_a_withdrawal_counts_for_the_run_and_the_sender_that_it_names(self, store: Store) -> None:
        with store.transaction():
            store.remotes.withdraw("r1", sender="n2", expires_at_us=9)
            store.remotes.withdraw("r1", sender="n2", expires_at_us=10)

        assert store.remotes.withdrawn("r1", sender="n2")
        assert not store.remotes.withdrawn("r1", sender="n1")
        assert not store.remotes.withdrawn("r1", sender="n3")
        assert not store.remotes.withdrawn("r2", sender="n2")


class TestRoom:
    def test_a_room_is_read_on_from_where_it_was_read_to(self, store: Store) -> None:
        first = RoomCursor(room_id="!r", user_id="@n:x", next_batch="s1", synced_at_us=1)
        second = replace(first, user_id="@m:x", next_batch="s2", synced_at_us=2)
        with store.transaction():
            store.room.append((), cursor=first)
            store.room.append((), cursor=replace(first, room_id="!other"))
            store.room.append((), cursor=second)

        assert store.room.cursor("!r") == second
        assert store.room.cursor("!nope") is None

    def test_an_event_is_journalled_once_and_settled_once_it_was_acted_upon(self, store: Store) -> None:
        with store.transaction():
            assert store.room.append([event(1), event(2), event(1, content={"forged": True})]) == 2
            assert store.room.append([event(2), event(3), event(4)]) == 2
            store.room.settle("$e1", JournalState.DONE)
            store.room.settle("$e3", JournalState.REFUSED)
            assert store.room.append([event(1), event(3)]) == 0
        one, waiting = store.room.event("$e1"), store.room.new_events(limit=9)

        assert [one.event_id for one in waiting] == ["$e2", "$e4"]
        assert [one.event_id for one in store.room.new_events(limit=1)] == ["$e2"]
        assert one is not None
        assert one == event(1, seq=one.seq, state=JournalState.DONE)
        assert 0 < one.seq < waiting[0].seq < waiting[1].seq
        assert store.room.event("$nope") is None

    def test_the_journal_keeps_its_newest_settled_events_and_all_new_ones(self, store: Store) -> None:
        with store.transaction():
            store.room.append(event(number) for number in range(8))
            for number in (1, 2, 3, 5, 7):
                store.room.settle(f"$e{number}", JournalState.DONE if number % 2 else JournalState.REFUSED)
            assert store.room.prune(keep=5) == 0
            assert store.room.prune(keep=2) == 3

        assert [number for number in range(8) if store.room.event(f"$e{number}")] == [0, 4, 5, 6, 7]
        with store.transaction():
            assert store.room.prune(keep=0) == 2
        assert [one.event_id for one in store.room.new_events(limit=9)] == ["$e0", "$e4", "$e6"]

    def test_a_run_reports_into_the_thread_that_was_remembered_last(self, store: Store) -> None:
        with store.transaction():
            store.room.put_thread("r1", room_id="!r", event_id="$1")
            store.room.put_thread("r1", room_id="!r2", event_id="$2")

        assert store.room.thread("r1") == ("!r2", "$2")
        assert store.room.thread("r2") is None


class TestOffers:
    def test_an_offer_is_kept_replaced_and_moved_from_state_to_state(self, store: Store) -> None:
        with store.transaction():
            store.offers.put(offer("r1"))
            store.offers.put(offer("r1", epoch=2, content={"x": 1}, claim_at_us=6))
        assert store.offers.get("r1") == offer("r1", epoch=2, content={"x": 1}, claim_at_us=6)
        with store.transaction():
            store.offers.set_state("r1", OfferState.CLAIMED, claim_at_us=8)
            store.offers.set_state("r1", OfferState.CLOSED)

        assert store.offers.get("r1") == offer("r1", epoch=2, content={"x": 1}, claim_at_us=8, state=OfferState.CLOSED)
        assert store.offers.get("r2") is None

    def test_offers_come_by_urgency_and_then_by_age_and_go_when_they_expired(self, store: Store) -> None:
        with store.transaction():
            for one in (
                offer("r1", created_at_us=3),
                offer("r2", created_at_us=2, expires_at_us=50),
                offer("r3", created_at_us=4, priority=Priority.CRITICAL),
                offer("r4", state=OfferState.CLAIMED, expires_at_us=49),
            ):
                store.offers.put(one)

        assert [one.run_id for one in store.offers.in_state(OfferState.OPEN, limit=9)] == ["r3", "r2", "r1"]
        assert [one.run_id for one in store.offers.in_state(OfferState.OPEN, limit=1)] == ["r3"]
        assert [one.run_id for one in store.offers.in_state(OfferState.CLAIMED, limit=9)] == ["r4"]
        with store.transaction():
            assert store.pruning.prune_notes(expired_us=50, withdrawn_us=0, asked_us=0) == 1
        assert store.offers.get("r4") is None
        assert store.offers.get("r2") is not None
