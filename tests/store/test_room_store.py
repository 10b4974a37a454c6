"""What every store promises about the room (``cis.store.cluster_port``: ``Room`` and ``Offers``)."""

from __future__ import annotations

from dataclasses import replace

from cis.model.dag import Priority
from cis.store.cluster import JournalState, OfferState, RoomCursor
from cis.store.port import Store
from tests.worlds.cluster_rows import event, offer


def test_a_room_is_read_on_from_where_it_was_read_to(store: Store) -> None:
    first = RoomCursor(room_id="!r", user_id="@n:x", next_batch="s1", synced_at_us=1)
    second = replace(first, user_id="@m:x", next_batch="s2", synced_at_us=2)
    with store.transaction():
        store.room.put_cursor(first)
        store.room.put_cursor(replace(first, room_id="!other"))
        store.room.put_cursor(second)

    assert store.room.cursor("!r") == second
    assert store.room.cursor("!nope") is None


def test_an_event_is_journalled_once_and_settled_once_it_was_acted_upon(store: Store) -> None:
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


def test_the_journal_keeps_its_newest_settled_events_and_all_new_ones(store: Store) -> None:
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


def test_an_offer_is_kept_replaced_and_moved_from_state_to_state(store: Store) -> None:
    with store.transaction():
        store.offers.put(offer("r1"))
        store.offers.put(offer("r1", epoch=2, content={"x": 1}, claim_at_us=6))
    assert store.offers.get("r1") == offer("r1", epoch=2, content={"x": 1}, claim_at_us=6)
    with store.transaction():
        store.offers.set_state("r1", OfferState.CLAIMED, claim_at_us=8)
        store.offers.set_state("r1", OfferState.CLOSED)

    assert store.offers.get("r1") == offer("r1", epoch=2, content={"x": 1}, claim_at_us=8, state=OfferState.CLOSED)
    assert store.offers.get("r2") is None


def test_offers_come_by_urgency_and_then_by_age_and_go_when_they_expired(store: Store) -> None:
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
        assert store.offers.prune(expired_before_us=50) == 1
    assert store.offers.get("r4") is None
    assert store.offers.get("r2") is not None


def test_a_run_reports_into_the_thread_that_was_remembered_last(store: Store) -> None:
    with store.transaction():
        store.room.put_thread("r1", room_id="!r", event_id="$1")
        store.room.put_thread("r1", room_id="!r2", event_id="$2")

    assert store.room.thread("r1") == ("!r2", "$2")
    assert store.room.thread("r2") is None
