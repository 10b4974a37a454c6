"""The client against a real homeserver: what it sends arrives once, and what is refused is an error of this project."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator

import httpx
import pytest

from cis.errors import MalformedMessageError, RoomLimitedError, RoomRefusedError, RoomUnreachableError
from cis.transports.matrix.client import MatrixClient, login
from tests.worlds.homeserver import DEVICE_ID, PASSWORD, Homeserver
from tests.worlds.matrix_rooms import EXECUTE, Room, in_room, member

STATUS = "io.cis.dag.status"


@pytest.fixture
def limited_homeserver(homeserver: Homeserver) -> Iterator[Homeserver]:
    """Give the test the homeserver with the limits that Synapse has by default."""
    homeserver.restart(limits="default")
    yield homeserver
    homeserver.restart(limits="none")


def test_a_login_with_the_same_device_goes_on_with_its_transaction_ids(homeserver: Homeserver) -> None:
    async def scenario(room: Room) -> None:
        node = room.node
        who = await node.client.whoami()
        sent = await node.client.send(room.room_id, type=EXECUTE, content={}, txn_id="execute-1")
        session = await login(homeserver.url, user=node.user_id, password=PASSWORD, device_id=DEVICE_ID)
        renewed = MatrixClient(homeserver.url, session.access_token)
        try:
            assert await renewed.whoami() == who
            assert await renewed.send(room.room_id, type=EXECUTE, content={}, txn_id="execute-1") == sent
        finally:
            await renewed.aclose()

        assert (who.user_id, who.device_id) == (node.user_id, DEVICE_ID)
        assert (session.user_id, session.device_id) == (node.user_id, DEVICE_ID)
        assert session.access_token not in repr(session)
        with pytest.raises(RoomRefusedError) as refused:
            await login(homeserver.url, user=node.user_id, password="wrong", device_id=DEVICE_ID)
        assert (refused.value.errcode, refused.value.status) == ("M_FORBIDDEN", 403)

    in_room(homeserver, scenario)


def test_one_transaction_id_is_one_event_whatever_its_type(homeserver: Homeserver) -> None:
    async def scenario(room: Room) -> None:
        client, where = room.node.client, room.room_id
        first = await client.send(where, type=EXECUTE, content={"n": 1}, txn_id="execute-1")
        again = await client.send(where, type=EXECUTE, content={"n": 1}, txn_id="execute-1")
        trap = await client.send(where, type=STATUS, content={"n": 2}, txn_id="execute-1")
        other = await client.send(where, type=STATUS, content={"n": 3}, txn_id="status-1")
        kept = await client.event(where, first)

        assert first == again == trap != other
        assert (kept["type"], kept["content"]) == (EXECUTE, {"n": 1})

    in_room(homeserver, scenario)


def test_what_the_homeserver_refuses_says_why(homeserver: Homeserver) -> None:
    async def scenario(room: Room) -> None:
        client, where = room.node.client, room.room_id
        with pytest.raises(RoomRefusedError) as a_float:
            await client.send(where, type=EXECUTE, content={"n": 0.5}, txn_id="float")
        with pytest.raises(RoomRefusedError) as too_large:
            await client.send(where, type=EXECUTE, content={"n": "x" * 65_536}, txn_id="large")
        with pytest.raises(RoomRefusedError) as unknown:
            await client.event(where, "$nothing")

        assert (a_float.value.errcode, a_float.value.status) == ("M_BAD_JSON", 400)
        assert (too_large.value.errcode, too_large.value.status) == ("M_TOO_LARGE", 413)
        assert (unknown.value.errcode, unknown.value.status) == ("M_NOT_FOUND", 404)

    in_room(homeserver, scenario)


def test_a_limited_sender_is_told_when_to_go_on_and_an_admin_can_lift_the_limit(
    limited_homeserver: Homeserver,
) -> None:
    async def scenario(room: Room) -> None:
        person = room.person

        async def send(number: int) -> str:
            content = {"msgtype": "m.text", "body": str(number)}
            return await person.client.send(
                room.room_id, type="m.room.message", content=content, txn_id=f"message-{number}"
            )

        with pytest.raises(RoomLimitedError) as limited:
            for number in range(20):
                await send(number)
        lift(limited_homeserver, person.user_id)
        for number in range(20):
            await send(number)

        assert 0 < limited.value.retry_after_s <= 60

    in_room(limited_homeserver, scenario)


def lift(homeserver: Homeserver, user_id: str) -> None:
    """Lift the limits of a user as the guide says."""
    _, token = homeserver.register(f"admin-{os.urandom(4).hex()}", admin=True)
    httpx.post(
        f"{homeserver.url}/_synapse/admin/v1/users/{user_id}/override_ratelimit",
        headers={"Authorization": f"Bearer {token}"},
        json={"messages_per_second": 0, "burst_count": 0},
        trust_env=False,
    ).raise_for_status()


def test_a_homeserver_that_is_gone_is_unreachable() -> None:
    async def scenario() -> None:
        gone = MatrixClient("http://127.0.0.1:1", "secret-token")
        try:
            with pytest.raises(RoomUnreachableError) as error:
                await gone.whoami()
            assert "secret-token" not in str(error.value)
        finally:
            await gone.aclose()

    asyncio.run(scenario())


def test_members_and_rooms_are_those_that_joined_and_joining_twice_is_fine(homeserver: Homeserver) -> None:
    async def scenario(room: Room) -> None:
        where = room.room_id
        async with member(homeserver, "invited") as invited:
            await room.owner.client.invite(where, invited.user_id)
            before = await invited.client.joined_rooms()
            members = await room.node.client.joined_members(where)
            await invited.client.join(where)
            await invited.client.join(where)

            assert before == frozenset()
            assert members == {room.owner.user_id, room.node.user_id, room.person.user_id}
            assert await invited.client.joined_rooms() == {where}

    in_room(homeserver, scenario)


def test_bytes_come_back_as_they_were(homeserver: Homeserver) -> None:
    async def scenario(room: Room) -> None:
        data = os.urandom(10 * 2**20)
        mxc = await room.owner.client.upload(data, content_type="application/octet-stream", filename="blob ü&.json")
        back = await room.node.client.download(mxc, max_bytes=len(data))

        assert hashlib.sha256(back).digest() == hashlib.sha256(data).digest()
        with pytest.raises(MalformedMessageError, match="more than the 10485759 bytes"):
            await room.node.client.download(mxc, max_bytes=len(data) - 1)

    in_room(homeserver, scenario)


def test_more_bytes_than_the_homeserver_takes_are_not_sent(homeserver: Homeserver) -> None:
    async def scenario(room: Room) -> None:
        client = room.node.client
        limit = await client.media_limit()
        with pytest.raises(RoomRefusedError, match="raise its max_upload_size") as error:
            await client.upload(bytes(limit + 1), content_type="text/plain", filename="large")
        fits = await client.upload(b"1", content_type="text/plain", filename="small")

        assert limit == 50 * 2**20
        assert (error.value.errcode, error.value.status) == ("M_TOO_LARGE", 413)
        assert fits.startswith("mxc://cis.test/")

    in_room(homeserver, scenario)
