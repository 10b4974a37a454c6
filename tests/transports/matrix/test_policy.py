"""The room that ``cis`` makes, and rooms that were made worse, on a real homeserver."""

from __future__ import annotations

import pytest

from cis.errors import RoomRefusedError
from cis.transports.matrix.policy import DAG_TYPES, NODE_LEVEL, RoomFault, power_levels_with, room_creation, room_faults
from tests.worlds.homeserver import Homeserver
from tests.worlds.matrix_rooms import EXECUTE, Member, Room, in_room

POWER = "m.room.power_levels"
TOO_LOW = {"invite": 0, "redact": 50, "kick": 50, "ban": 50, "state_default": 50, "users_default": 50}
GUARDED = ("m.room.encryption", POWER, "m.room.join_rules", "m.room.history_visibility", "m.room.tombstone")


async def faults(room: Room, *, of: Member, listed: bool = False) -> list[RoomFault]:
    """Return the faults of a room as a member sees them."""
    return room_faults(await of.client.state(room.room_id), me=of.user_id, listed=listed)


def test_a_new_room_has_no_faults_for_its_owner_and_its_nodes(homeserver: Homeserver) -> None:
    async def scenario(room: Room) -> None:
        listed = await room.node.client.is_listed(room.room_id)

        assert not listed
        assert await faults(room, of=room.owner) == []
        assert await faults(room, of=room.node, listed=listed) == []
        (weak,) = await faults(room, of=room.person)
        assert (weak.place, weak.mend) == (POWER, f"set users.{room.person.user_id} to 50")

    in_room(homeserver, scenario)


@pytest.mark.parametrize("version", ["10", "11", "12"])
def test_the_owner_rules_and_nodes_get_their_level_in_every_room_version(homeserver: Homeserver, version: str) -> None:
    async def scenario(room: Room) -> None:
        owner, node = room.owner, room.node
        where = await owner.client.create_room({**room_creation("other", [node.user_id]), "room_version": version})
        await node.client.join(where)
        for user in (node.user_id, owner.user_id):
            level = NODE_LEVEL if user == node.user_id else 100
            levels = power_levels_with(await owner.client.state(where), user, level)
            await owner.client.send_state(where, POWER, "", levels)
        state = await node.client.state(where)
        await node.client.send(where, type=EXECUTE, content={}, txn_id="execute-1")

        assert room_faults(state, me=owner.user_id) == []
        assert room_faults(state, me=node.user_id) == []

    in_room(homeserver, scenario)


def test_a_stranger_may_write_and_send_no_dag_and_change_nothing(homeserver: Homeserver) -> None:
    async def scenario(room: Room) -> None:
        person, where = room.person.client, room.room_id
        content = {"msgtype": "m.text", "body": "!dag status"}
        written = await person.send(where, type="m.room.message", content=content, txn_id="message-1")
        refusals = []
        for type_ in DAG_TYPES:
            with pytest.raises(RoomRefusedError) as refused:
                await person.send(where, type=type_, content={"run_id": "x"}, txn_id=f"x-{type_}")
            refusals.append(refused.value)
        for type_, state in (("m.room.name", {"name": "x"}), ("m.room.encryption", {"algorithm": "x"})):
            with pytest.raises(RoomRefusedError) as refused:
                await person.send_state(where, type_, "", state)
            refusals.append(refused.value)
        with pytest.raises(RoomRefusedError) as refused:
            await person.invite(where, "@friend:cis.test")
        refusals.append(refused.value)

        assert written
        assert {(error.errcode, error.status) for error in refusals} == {("M_FORBIDDEN", 403)}

    in_room(homeserver, scenario)


def test_each_level_that_is_too_low_is_named_and_mended_as_it_says(homeserver: Homeserver) -> None:
    async def scenario(room: Room) -> None:
        owner, where = room.owner.client, room.room_id
        levels = power_levels_with(await owner.state(where), room.node.user_id, NODE_LEVEL)
        cases = [({**levels, name: low}, name) for name, low in TOO_LOW.items()]
        cases += [({**levels, "events": {**levels["events"], type_: 50}}, f"events.{type_}") for type_ in GUARDED]
        cases += [({**levels, "events": {**levels["events"], type_: 0}}, f"events.{type_}") for type_ in DAG_TYPES]
        cases += [({**levels, "users": {}}, f"users.{room.node.user_id}")]
        for broken, name in cases:
            await owner.send_state(where, POWER, "", broken)
            (fault,) = await faults(room, of=room.node)

            assert fault.place == POWER
            assert (fault.mend or "").startswith(f"set {name} to ")
            assert f"{name} is " in fault.message
        await owner.send_state(where, POWER, "", levels)

        assert await faults(room, of=room.node) == []

    in_room(homeserver, scenario)


@pytest.mark.parametrize(
    ("type_", "content", "mend"),
    [
        ("m.room.join_rules", {"join_rule": "public"}, "set join_rule to invite"),
        ("m.room.guest_access", {"guest_access": "can_join"}, "set guest_access to forbidden"),
        ("m.room.history_visibility", {"history_visibility": "world_readable"}, "set history_visibility to shared"),
        ("m.room.history_visibility", {"history_visibility": "joined"}, "set history_visibility to shared"),
        ("m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"}, None),
        ("m.room.tombstone", {"body": "moved", "replacement_room": "!x:cis.test"}, None),
    ],
    ids=lambda value: next(iter(value.values())) if isinstance(value, dict) else None,
)
def test_a_room_that_was_opened_encrypted_or_closed_is_named(
    homeserver: Homeserver, type_: str, content: dict[str, str], mend: str | None
) -> None:
    async def scenario(room: Room) -> None:
        await room.owner.client.send_state(room.room_id, type_, "", content)
        (fault,) = await faults(room, of=room.node)

        assert (fault.place, fault.mend) == (type_, mend)

    in_room(homeserver, scenario)


def test_a_room_as_people_make_it_has_many_faults_and_one_is_for_good(homeserver: Homeserver) -> None:
    async def scenario(room: Room) -> None:
        where = await room.node.client.create_room({"preset": "private_chat"})
        found = room_faults(await room.node.client.state(where), me=room.node.user_id)

        assert [fault.place for fault in found if fault.mend is None] == ["m.room.create"]
        assert len(found) > 10

    in_room(homeserver, scenario)
