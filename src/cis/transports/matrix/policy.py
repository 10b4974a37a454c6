"""What a room has to be like, so that a stranger cannot run a command in it; making such a room, and looking at one.

Power levels are the second wall (the first is each node's own list, the third the signature): people have level 0 and
may write, nodes have 50 and may send ``io.cis.dag.*``, and whatever changes the room takes 100.

Since room version 12 a room's creators stand above every level and may not be named in ``users``; before, the creator
has 100 there. So the body of a new room names nobody, which gives the creator its power in both, and nodes get their
level afterwards (``power_levels_with``), when the version is known.

In a room with end-to-end encryption the server sees no types, so that levels by type end, and it cannot be switched
off.

The rules are pure, state in and faults out; only the functions at the end (``make_room``, ``mend_room``,
``look_at_room``) send requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from cis.errors import RoomError, RoomRefusedError
from cis.model.dag import Json
from cis.model.message import MessageKind
from cis.transports.matrix.client import MatrixClient
from cis.transports.matrix.http import Event, part

NODE_LEVEL = 50
ADMIN_LEVEL = 100
CREATOR_LEVEL = 2**53 - 1
DAG_TYPES = tuple(str(kind) for kind in MessageKind if kind.startswith("io.cis.dag."))
_CHAT_TYPE = "m.room.message"
_POWER = "m.room.power_levels"
_ACTIONS = {
    "invite": "members may bring in strangers",
    "redact": "members may remove what others said",
    "kick": "members may put nodes out of the room",
    "ban": "members may put nodes out of the room for good",
    "state_default": "members may change the room",
}
_GUARDED = {
    "m.room.encryption": "members may encrypt the room, which cannot be undone",
    _POWER: "members may raise their own level",
    "m.room.join_rules": "members may open the room",
    "m.room.history_visibility": "members may publish what is said",
    "m.room.guest_access": "members may let guests in",
    "m.room.server_acl": "members may shut out the homeserver",
    "m.room.tombstone": "members may close the room",
}
_ABSENT = {"invite": 0, "redact": 50, "kick": 50, "ban": 50, "state_default": 50}  # the specification's defaults
_WITHOUT_CREATORS = frozenset(str(version) for version in range(1, 12))


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomFault:
    """One thing that is wrong with a room. ``mend`` says what to do about it; None: only a new room helps."""

    place: str
    message: str
    mend: str | None


def room_creation(name: str, invite: Sequence[str]) -> dict[str, Json]:
    """Return the body of a ``createRoom`` request whose room has no faults. Nodes need their level after that."""
    return {
        "name": name,
        "preset": "private_chat",
        "visibility": "private",
        "invite": [*invite],
        "creation_content": {"m.federate": False},
        "initial_state": [
            _state("m.room.join_rules", join_rule="invite"),
            _state("m.room.history_visibility", history_visibility="shared"),
            _state("m.room.guest_access", guest_access="forbidden"),
        ],
        "power_level_content_override": {
            **dict.fromkeys(_ACTIONS, ADMIN_LEVEL),
            "users_default": 0,
            "events_default": 0,
            # Takes the place of the server's own list, so it has to be complete.
            "events": {**dict.fromkeys(DAG_TYPES, NODE_LEVEL), **dict.fromkeys(_GUARDED, ADMIN_LEVEL)},
        },
    }


def room_faults(state: Iterable[Event], *, me: str, listed: bool = False) -> list[RoomFault]:
    """Return what is wrong with a room for the node whose Matrix user is *me*.

    *listed*: the homeserver's public directory shows it, which its state does not tell.
    """
    room = _Room(state)
    return [*_faults_for_good(room), *_access_faults(room, me, listed=listed), *_power_faults(room, me)]


def power_levels_with(state: Iterable[Event], user: str, level: int) -> dict[str, Json]:
    """Return the content of ``m.room.power_levels`` that gives a user a level; a creator above levels stays there.

    Raises:
        RoomError: the room has no power levels.
    """
    room = _Room(state)
    content = room.content(_POWER)
    if content is None:
        raise RoomError("the room has no power levels; make a new room")
    users = dict(part(content, "users"))
    if user not in room.creators:
        users[user] = level
    return {**content, "users": users}


class _Room:
    """A room's state, by type and key."""

    def __init__(self, state: Iterable[Event]) -> None:
        self._events = {(str(event.get("type")), str(event.get("state_key"))): event for event in state}

    def content(self, type_: str, key: str = "") -> Mapping[str, Json] | None:
        event = self._events.get((type_, key))
        return None if event is None else part(event, "content")

    def field(self, type_: str, name: str, *, absent: Json = None) -> Json:
        return (self.content(type_) or {}).get(name, absent)

    @property
    def creators(self) -> frozenset[str]:
        """Who stands above all power levels: nobody before version 12 (newer ones are taken to go on like that)."""
        create = self._events.get(("m.room.create", ""))
        if create is None or str(self.field("m.room.create", "room_version", absent="1")) in _WITHOUT_CREATORS:
            return frozenset()
        more = self.field("m.room.create", "additional_creators")
        named = [create.get("sender"), *(more if isinstance(more, list) else ())]
        return frozenset(one for one in named if isinstance(one, str))

    def level(self, name: str) -> int | None:
        """A level of the room by its name; None when it is no number."""
        return _number(self.field(_POWER, name, absent=_ABSENT.get(name, 0)))

    def event_level(self, type_: str, *, otherwise: str) -> int | None:
        """The level that sending an event takes; None when it is no number."""
        levels = part(self.content(_POWER), "events")
        return _number(levels[type_]) if type_ in levels else self.level(otherwise)

    def user_level(self, user: str) -> int | None:
        """A user's level; None when it is no number."""
        if user in self.creators:
            return CREATOR_LEVEL
        users = part(self.content(_POWER), "users")
        return _number(users[user]) if user in users else self.level("users_default")


def _faults_for_good(room: _Room) -> Iterator[RoomFault]:
    if room.field("m.room.create", "m.federate", absent=True) is not False:
        yield _for_good("m.room.create", "users of other homeservers may be in it: m.federate is not false")
    if room.content("m.room.encryption") is not None:
        yield _for_good("m.room.encryption", "it is encrypted, so the homeserver cannot tell who may send what")
    if room.content("m.room.tombstone") is not None:
        yield _for_good("m.room.tombstone", "it was closed, and replaced by another room")
    if room.content(_POWER) is None:
        yield _for_good(_POWER, "it has no power levels")


def _access_faults(room: _Room, me: str, *, listed: bool) -> Iterator[RoomFault]:
    if listed:
        message = "the homeserver's public directory shows the room"
        yield RoomFault(place="directory", message=message, mend="take it out of the directory")
    rule = room.field("m.room.join_rules", "join_rule")
    if rule != "invite":
        yield _setting("m.room.join_rules", "join_rule", rule, "invite", why="who was not invited may come in")
    guests = room.field("m.room.guest_access", "guest_access", absent="forbidden")
    if guests != "forbidden":
        yield _setting("m.room.guest_access", "guest_access", guests, "forbidden", why="guests may come in")
    history = room.field("m.room.history_visibility", "history_visibility", absent="shared")
    if history != "shared":
        why = "anybody may read it" if history == "world_readable" else "a node that joins late cannot read its runs"
        yield _setting("m.room.history_visibility", "history_visibility", history, "shared", why=why)
    if (room.content("m.room.member", me) or {}).get("membership") != "join":
        yield RoomFault(place="m.room.member", message=f"{me} is not in the room", mend=f"invite {me}")


def _power_faults(room: _Room, me: str) -> Iterator[RoomFault]:
    if room.content(_POWER) is None:
        return
    if room.level("users_default") != 0:
        yield _power_fault("users_default", room.level("users_default"), 0, why="everybody has the level of a node")
    if room.event_level(_CHAT_TYPE, otherwise="events_default") != 0:
        found = room.event_level(_CHAT_TYPE, otherwise="events_default")
        yield _power_fault(f"events.{_CHAT_TYPE}", found, 0, why="people may not write to the nodes")
    for name, why in _ACTIONS.items():
        yield from _at_least(ADMIN_LEVEL, room.level(name), name, why=why)
    for type_, why in _GUARDED.items():
        found = room.event_level(type_, otherwise="state_default")
        yield from _at_least(ADMIN_LEVEL, found, f"events.{type_}", why=why)
    for type_ in DAG_TYPES:
        found = room.event_level(type_, otherwise="events_default")
        yield from _at_least(NODE_LEVEL, found, f"events.{type_}", why="members who are not nodes may send it")
    needed = [room.event_level(type_, otherwise="events_default") or 0 for type_ in DAG_TYPES]
    yield from _at_least(max(NODE_LEVEL, *needed), room.user_level(me), f"users.{me}", why="this node may not send")


def _at_least(wanted: int, found: int | None, name: str, *, why: str) -> Iterator[RoomFault]:
    if found is None or found < wanted:
        yield _power_fault(name, found, wanted, why=why)


def _power_fault(name: str, found: int | None, wanted: int, *, why: str) -> RoomFault:
    return _setting(_POWER, name, "no number" if found is None else found, wanted, why=why)


def _setting(type_: str, name: str, found: Json, wanted: Json, *, why: str) -> RoomFault:
    return RoomFault(place=type_, message=f"{why}: {name} is {found!s:.50}", mend=f"set {name} to {wanted}")


def _for_good(place: str, message: str) -> RoomFault:
    return RoomFault(place=place, message=message, mend=None)


def _state(type_: str, **content: Json) -> dict[str, Json]:
    return {"type": type_, "state_key": "", "content": content}


def _number(value: Json) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


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
