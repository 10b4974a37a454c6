"""The reader of a room against a real homeserver: nothing is lost, nothing comes twice, history stays history."""

from __future__ import annotations

import asyncio
import logging

import pytest

from cis.errors import RoomError
from cis.transports.matrix import sync
from cis.transports.matrix.sync import Batch, RoomReader
from tests.worlds.homeserver import Homeserver
from tests.worlds.matrix_rooms import EXECUTE, Room, in_room, member

LANES = 25
MISSED = 500


def reader_of(room: Room) -> RoomReader:
    """Return a reader as a new process has it."""
    return RoomReader(room.node.client, room.room_id, types=[EXECUTE, "m.room.message"])


async def caught_up(room: Room, since: str | None) -> Batch:
    """Return what a new process reads."""
    return await reader_of(room).catch_up(since, timeout_ms=0)


def numbers(batch: Batch) -> list[int]:
    """Return the numbers of the events, in the order of the batch."""
    return [event.content["n"] for event in batch.events]


def test_a_first_start_sets_the_cursor_and_acts_on_no_history(homeserver: Homeserver) -> None:
    async def scenario(room: Room) -> None:
        await room.execute(1)
        reader = reader_of(room)
        first = await reader.catch_up(None, timeout_ms=0)
        await room.execute(2)
        second = await reader.catch_up(first.next_batch, timeout_ms=0)

        assert (first.events, first.fresh, first.joined, first.lost) == ((), True, True, False)
        assert {event.type for event in first.state} >= {"m.room.join_rules", "m.room.power_levels"}
        assert (numbers(second), second.fresh, second.joined, second.lost) == ([2], False, True, False)

    in_room(homeserver, scenario)


def test_of_500_missed_events_none_is_lost_none_doubled_and_all_are_in_order(homeserver: Homeserver) -> None:
    async def scenario(room: Room) -> None:
        since = (await caught_up(room, None)).next_batch

        async def lane(first: int) -> None:
            for number in range(first, MISSED, LANES):
                await room.execute(number)

        await asyncio.gather(*(lane(first) for first in range(LANES)))
        reader = reader_of(room)
        batch = await reader.catch_up(since, timeout_ms=0)
        again = await caught_up(room, since)
        after = await reader.catch_up(batch.next_batch, timeout_ms=0)

        assert sorted(numbers(batch)) == list(range(MISSED))
        for first in range(LANES):
            own = [number for number in numbers(batch) if number % LANES == first]
            assert own == sorted(own)
        assert [event.event_id for event in again.events] == [event.event_id for event in batch.events]
        assert after.events == ()

    in_room(homeserver, scenario)


def test_a_reader_that_kept_up_has_the_timeline_without_walking(
    homeserver: Homeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(room: Room) -> None:
        reader = reader_of(room)
        since = (await reader.catch_up(None, timeout_ms=0)).next_batch
        monkeypatch.setattr(sync, "WALK_PAGES", 0)
        waiting = asyncio.create_task(reader.catch_up(since, timeout_ms=20_000))
        await room.execute(1)
        batch = await waiting

        assert numbers(batch) == [1]
        with pytest.raises(RoomError, match="more than 0 events"):
            await caught_up(room, since)

    in_room(homeserver, scenario)


def test_a_quiet_room_is_still_joined(homeserver: Homeserver) -> None:
    async def scenario(room: Room) -> None:
        since = (await caught_up(room, None)).next_batch
        batch = await caught_up(room, since)

        assert (batch.events, batch.state, batch.joined) == ((), (), True)

    in_room(homeserver, scenario)


@pytest.mark.parametrize("since", ["nonsense", "", "s99999999_0_0_0_0_0_0_0_0_0_0_0_0_0"])
def test_a_cursor_that_the_homeserver_does_not_know_starts_afresh_and_says_so(
    homeserver: Homeserver, caplog: pytest.LogCaptureFixture, since: str
) -> None:
    async def scenario(room: Room) -> None:
        await room.execute(1)
        reader = reader_of(room)
        batch = await reader.catch_up(since, timeout_ms=0)
        await room.execute(2)
        after = await reader.catch_up(batch.next_batch, timeout_ms=0)

        assert (batch.events, batch.fresh, batch.lost, batch.joined) == ((), True, True, True)
        assert (numbers(after), after.lost) == ([2], False)

    in_room(homeserver, scenario)

    assert [record.levelno for record in caplog.records if record.name == sync.__name__] == [logging.ERROR]


def test_nothing_from_before_the_cursor_comes_with_a_join(homeserver: Homeserver) -> None:
    async def scenario(room: Room) -> None:
        async with member(homeserver, "late") as late:
            await room.execute(1)
            reader = RoomReader(late.client, room.room_id, types=[EXECUTE])
            outside = await reader.catch_up(None, timeout_ms=0)
            await room.execute(2)
            await room.owner.client.invite(room.room_id, late.user_id)
            await late.client.join(room.room_id)
            for fresh in (reader, RoomReader(late.client, room.room_id, types=[EXECUTE])):
                inside = await fresh.catch_up(outside.next_batch, timeout_ms=1)

                assert (outside.joined, inside.joined) == (False, True)
                assert numbers(inside) == [2]

    in_room(homeserver, scenario)


def test_a_node_that_was_put_out_reads_nothing_and_knows_it(homeserver: Homeserver) -> None:
    async def scenario(room: Room) -> None:
        reader = reader_of(room)
        since = (await reader.catch_up(None, timeout_ms=0)).next_batch
        await room.execute(1)
        await set_membership(room, "leave")
        out = await reader.catch_up(since, timeout_ms=0)
        still_out = await reader.catch_up(out.next_batch, timeout_ms=0)
        restarted = await caught_up(room, out.next_batch)

        assert (out.joined, still_out.joined, restarted.joined) == (False, False, False)
        assert out.events == still_out.events == restarted.events == ()

    in_room(homeserver, scenario)


def test_a_node_that_was_put_out_and_let_in_again_reads_what_came_since_its_cursor(homeserver: Homeserver) -> None:
    async def scenario(room: Room) -> None:
        await room.execute(1)
        reader = reader_of(room)
        since = (await reader.catch_up(None, timeout_ms=0)).next_batch
        await room.execute(2)
        await set_membership(room, "leave")
        await set_membership(room, "invite")
        await room.node.client.join(room.room_id)
        await room.execute(3)
        batch = await reader.catch_up(since, timeout_ms=0)

        assert (numbers(batch), batch.joined) == ([2, 3], True)

    in_room(homeserver, scenario)


async def set_membership(room: Room, membership: str) -> None:
    """Put the node out of the room, or invite it."""
    await room.owner.client.send_state(room.room_id, "m.room.member", room.node.user_id, {"membership": membership})


def test_state_is_no_message_whatever_its_type_and_is_seen_when_it_changes(homeserver: Homeserver) -> None:
    async def scenario(room: Room) -> None:
        owner = room.owner.client
        since = (await caught_up(room, None)).next_batch
        await room.execute(1)
        await owner.send_state(room.room_id, EXECUTE, "", {"n": 2})
        await owner.send_state(room.room_id, "m.room.encryption", "", {"algorithm": "m.megolm.v1.aes-sha2"})
        await room.execute(3)
        batch = await caught_up(room, since)

        assert numbers(batch) == [1, 3]
        assert {event.type for event in batch.state} == {EXECUTE, "m.room.encryption"}

    in_room(homeserver, scenario)


def test_edits_and_what_is_left_of_redacted_events_come_and_other_types_and_rooms_left_out(
    homeserver: Homeserver,
) -> None:
    async def scenario(room: Room) -> None:
        owner, where = room.owner.client, room.room_id
        elsewhere = await owner.create_room({"invite": [room.node.user_id]})
        await room.node.client.join(elsewhere)
        since = (await caught_up(room, None)).next_batch
        first = await room.execute(1)
        edit = {"n": 2, "m.relates_to": {"rel_type": "m.replace", "event_id": first}, "m.new_content": {"n": 9}}
        await owner.send(where, type=EXECUTE, content=edit, txn_id="edit")
        gone = await room.execute(3)
        await owner.send(where, type="m.room.redaction", content={"redacts": gone}, txn_id="redaction")
        await owner.send(where, type="m.reaction", content={"n": 4}, txn_id="reaction")
        await owner.send(elsewhere, type=EXECUTE, content={"n": 5}, txn_id="elsewhere")
        original, edited, redacted = (await caught_up(room, since)).events

        assert original.content == {"n": 1}
        assert edited.content["m.relates_to"] == edit["m.relates_to"]
        assert (redacted.event_id, redacted.content) == (gone, {})

    in_room(homeserver, scenario)


def test_an_event_says_who_sent_it_how_old_it_is_and_whether_it_is_ones_own(homeserver: Homeserver) -> None:
    async def scenario(room: Room) -> None:
        since = (await caught_up(room, None)).next_batch
        await room.execute(1)
        own = await room.node.client.send(room.room_id, type=EXECUTE, content={"n": 2}, txn_id="execute-own-1")
        theirs, mine = (await caught_up(room, since)).events

        assert (theirs.sender, theirs.type, theirs.state_key, theirs.txn_id) == (
            room.owner.user_id,
            EXECUTE,
            None,
            None,
        )
        assert 0 <= theirs.age_ms < 60_000
        assert (mine.event_id, mine.sender, mine.txn_id) == (own, room.node.user_id, "execute-own-1")

    in_room(homeserver, scenario)


def test_a_homeserver_that_is_killed_loses_nothing_that_it_took(homeserver: Homeserver) -> None:
    async def scenario(room: Room) -> None:
        reader = reader_of(room)
        since = (await reader.catch_up(None, timeout_ms=0)).next_batch
        waiting = asyncio.create_task(reader.catch_up(since, timeout_ms=20_000))
        await room.execute(1)
        first = await waiting
        waiting = asyncio.create_task(reader.catch_up(first.next_batch, timeout_ms=20_000))
        await asyncio.to_thread(homeserver.kill)
        with pytest.raises(RoomError):
            await waiting
        await asyncio.to_thread(homeserver.start)
        await room.execute(2)
        second = await reader.catch_up(first.next_batch, timeout_ms=0)

        assert [*numbers(first), *numbers(second)] == [1, 2]

    in_room(homeserver, scenario)
