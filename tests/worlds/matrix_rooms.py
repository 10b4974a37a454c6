"""A room with an owner, nodes and people on the test's homeserver."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from cis.transports.matrix.client import MatrixClient
from cis.transports.matrix.policy import NODE_LEVEL, power_levels_with, room_creation
from tests.worlds.homeserver import Homeserver

EXECUTE = "io.cis.dag.execute"


@dataclass(frozen=True, slots=True)
class Member:
    """A user and its session."""

    user_id: str
    client: MatrixClient


@dataclass(frozen=True, slots=True)
class Room:
    """A room that *owner* made; *node* has the level of a node in it, *person* has none."""

    room_id: str
    owner: Member
    node: Member
    person: Member

    async def execute(self, number: int, *, sender: Member | None = None) -> str:
        """Send an event with a number, and return its id."""
        who = sender or self.owner
        txn_id = f"execute-{secrets.token_hex(8)}"
        return await who.client.send(self.room_id, type=EXECUTE, content={"n": number}, txn_id=txn_id)


@asynccontextmanager
async def member(homeserver: Homeserver, name: str) -> AsyncIterator[Member]:
    """Make a user of its own for a test."""
    user_id, token = homeserver.register(f"{name}-{secrets.token_hex(4)}")
    client = MatrixClient(homeserver.url, token)
    try:
        yield Member(user_id, client)
    finally:
        await client.aclose()


@asynccontextmanager
async def room(homeserver: Homeserver) -> AsyncIterator[Room]:
    """Make a room as ``cis`` makes it, with its members in it."""
    async with AsyncExitStack() as stack:
        owner, node, person = [
            await stack.enter_async_context(member(homeserver, name)) for name in ("owner", "node", "person")
        ]
        room_id = await owner.client.create_room(room_creation("DAGs", [node.user_id, person.user_id]))
        for guest in (node, person):
            await guest.client.join(room_id)
        levels = power_levels_with(await owner.client.state(room_id), node.user_id, NODE_LEVEL)
        await owner.client.send_state(room_id, "m.room.power_levels", "", levels)
        yield Room(room_id, owner, node, person)


def in_room(homeserver: Homeserver, scenario: Callable[[Room], Awaitable[None]]) -> None:
    """Run a scenario in a new room."""

    async def run() -> None:
        async with room(homeserver) as new:
            await scenario(new)

    asyncio.run(run())
