"""Making a room that is fit for nodes, bringing nodes into it, and looking at it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from cis.errors import RoomError, RoomRefusedError
from cis.transports.matrix.client import MatrixClient
from cis.transports.matrix.policy import NODE_LEVEL, RoomFault, power_levels_with, room_creation, room_faults

_POWER = "m.room.power_levels"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomReport:
    """A room as one of its nodes sees it."""

    room_id: str
    user_id: str
    members: frozenset[str]
    faults: Sequence[RoomFault]


async def make_room(client: MatrixClient, *, name: str, me: str, nodes: Sequence[str], people: Sequence[str]) -> str:
    """Make a room, invite people and the users of other nodes, and give the nodes their power; return its id."""
    invited = dict.fromkeys(user for user in (*nodes, *people) if user != me)
    room_id = await client.create_room(room_creation(name, list(invited)))
    await _raise(client, room_id, nodes)
    return room_id


async def mend_room(
    client: MatrixClient, room_id: str, *, me: str, nodes: Sequence[str], people: Sequence[str]
) -> None:
    """Join a room that this user was invited to; invite people and other nodes, and raise nodes, where this user may.

    Raises:
        RoomError: it cannot be joined.
    """
    if room_id not in await client.joined_rooms():
        try:
            await client.join(room_id)
        except RoomRefusedError as error:
            raise RoomError(
                f"{me} cannot join {room_id}: {error}; a node that is in it has to trust this one with "
                f"--matrix-user {me}, and run 'cis room setup' again"
            ) from error
    members = await client.joined_members(room_id)
    with suppress(RoomRefusedError):  # only the node that made the room may; the report says what is missing
        for user in dict.fromkeys((*nodes, *people)):
            if user != me and user not in members:
                with suppress(RoomRefusedError):  # invited already, or one who was banned
                    await client.invite(room_id, user)
        await _raise(client, room_id, nodes)


async def look_at_room(client: MatrixClient, room_id: str, *, me: str) -> RoomReport:
    """Return who is in a room and what is wrong with it.

    Raises:
        RoomError: this user is not in it.
    """
    if room_id not in await client.joined_rooms():
        raise RoomError(f"{me} is not in {room_id}; 'cis room setup' joins it")
    faults = room_faults(await client.state(room_id), me=me, listed=await client.is_listed(room_id))
    return RoomReport(room_id=room_id, user_id=me, members=await client.joined_members(room_id), faults=faults)


async def _raise(client: MatrixClient, room_id: str, nodes: Sequence[str]) -> None:
    for user in nodes:
        state = await client.state(room_id)
        wanted = power_levels_with(state, user, NODE_LEVEL)
        current = next((event["content"] for event in state if event.get("type") == _POWER), None)
        if current is not None and current.get("users", {}).get(user, 0) < wanted["users"].get(user, 0):
            await client.send_state(room_id, type=_POWER, state_key="", content=wanted)
