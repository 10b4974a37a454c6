"""What a safe room is, without a homeserver: each fault is named once, and creators stand where they should."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cis.errors import RoomError
from cis.model.message import MessageKind
from cis.transports.matrix.policy import DAG_TYPES, power_levels_with, room_creation, room_faults

OWNER, NODE, PERSON = "@owner:x", "@node:x", "@person:x"
POWER = "m.room.power_levels"


def event(type_: str, content: dict[str, Any], *, key: str = "") -> dict[str, Any]:
    """Return a state event that the owner sent."""
    return {"type": type_, "state_key": key, "sender": OWNER, "content": content}


def made(*, version: str = "12", **create: Any) -> list[dict[str, Any]]:
    """Return the state of a room that a homeserver made of this project's request."""
    body = room_creation("DAGs", [NODE])
    old = version in ("10", "11")
    levels = {"users": {OWNER: 100} if old else {}, **body["power_level_content_override"]}
    return [
        event("m.room.create", {"room_version": version, **body["creation_content"], **create}),
        *(event("m.room.member", {"membership": "join"}, key=user) for user in (OWNER, NODE, PERSON)),
        event(POWER, levels),
        *({**one, "sender": OWNER} for one in body["initial_state"]),
    ]


def changed(state: list[dict[str, Any]], type_: str, **fields: Any) -> list[dict[str, Any]]:
    """Return a state with some fields of an event replaced; None takes one away."""

    def new(content: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in {**content, **fields}.items() if value is not None}

    return [{**one, "content": new(one["content"])} if one["type"] == type_ else one for one in state]


def with_node(state: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a state in which the node has its level."""
    return changed(state, POWER, **power_levels_with(state, NODE, 50))


def levels_of(state: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the content of the power levels."""
    (levels,) = [one["content"] for one in state if one["type"] == POWER]
    return dict(levels)


@pytest.mark.parametrize("version", ["10", "11", "12", "13", "org.example.next"])
@pytest.mark.parametrize("me", [OWNER, NODE])
def test_a_room_that_was_made_as_asked_has_no_faults(version: str, me: str) -> None:
    assert room_faults(with_node(made(version=version)), me=me) == []


def test_a_creator_is_never_named_among_the_users_of_a_room_of_version_12() -> None:
    old, new = made(version="11"), made(version="12", additional_creators=[PERSON])

    assert power_levels_with(old, OWNER, 50)["users"] == {OWNER: 50}
    assert power_levels_with(new, OWNER, 50)["users"] == {}
    assert power_levels_with(new, PERSON, 50)["users"] == {}
    assert power_levels_with(new, NODE, 50)["users"] == {NODE: 50}
    assert room_faults(new, me=PERSON) == []
    assert "users" not in room_creation("DAGs", [NODE])["power_level_content_override"]


def test_giving_a_level_changes_nothing_else() -> None:
    state = changed(made(version="11"), POWER, notifications={"room": 20})
    new = power_levels_with(state, NODE, 50)

    assert new == {**levels_of(state), "users": {OWNER: 100, NODE: 50}}
    assert levels_of(state)["users"] == {OWNER: 100}
    with pytest.raises(RoomError, match="no power levels"):
        power_levels_with([one for one in state if one["type"] != POWER], NODE, 50)


def test_every_kind_of_message_of_the_room_has_a_level() -> None:
    assert set(DAG_TYPES) == {kind for kind in MessageKind if not kind.startswith("io.cis.node.")}
    assert set(DAG_TYPES) <= set(levels_of(made())["events"])


@given(
    name=st.sampled_from(["invite", "redact", "kick", "ban", "state_default"]),
    level=st.none() | st.integers(max_value=99) | st.just("100") | st.just(True),
)
def test_an_action_below_100_absent_or_no_number_is_a_fault(name: str, level: int | str | None) -> None:
    faults = room_faults(changed(with_node(made()), POWER, **{name: level}), me=NODE)

    assert [fault.mend for fault in faults] == [f"set {name} to 100"]


@given(type_=st.sampled_from(DAG_TYPES), level=st.none() | st.integers(max_value=49) | st.just("50"))
def test_a_message_that_takes_less_than_50_is_a_fault(type_: str, level: int | str | None) -> None:
    events = {**levels_of(made())["events"], type_: level}
    if level is None:
        del events[type_]
    faults = room_faults(changed(with_node(made()), POWER, events=events), me=NODE)

    assert [fault.mend for fault in faults] == [f"set events.{type_} to 50"]


def test_a_node_that_may_not_send_everything_is_a_fault() -> None:
    state = with_node(made())
    higher = changed(state, POWER, events={**levels_of(state)["events"], DAG_TYPES[0]: 60})

    assert [fault.mend for fault in room_faults(made(), me=NODE)] == [f"set users.{NODE} to 50"]
    assert [fault.mend for fault in room_faults(higher, me=NODE)] == [f"set users.{NODE} to 60"]
    assert room_faults(higher, me=OWNER) == []


@pytest.mark.parametrize("fields", [{"users_default": 50}, {"users_default": "0"}, {"events_default": 50}])
def test_people_have_no_level_and_may_write(fields: dict[str, Any]) -> None:
    (fault,) = room_faults(changed(with_node(made()), POWER, **fields), me=NODE)

    assert fault.place == POWER
    assert (fault.mend or "").endswith(" to 0")


def test_people_may_not_be_silenced_by_type() -> None:
    state = with_node(made())
    events = {**levels_of(state)["events"], "m.room.message": 50}
    (fault,) = room_faults(changed(state, POWER, events=events), me=NODE)

    assert fault.mend == "set events.m.room.message to 0"


@pytest.mark.parametrize(
    ("state", "place"),
    [
        ([*with_node(made()), event("m.room.encryption", {})], "m.room.encryption"),
        ([*with_node(made()), event("m.room.tombstone", {})], "m.room.tombstone"),
        (changed(with_node(made()), "m.room.create", **{"m.federate": None}), "m.room.create"),
        (changed(with_node(made()), "m.room.create", **{"m.federate": True}), "m.room.create"),
        ([one for one in with_node(made()) if one["type"] != POWER], POWER),
    ],
    ids=["encrypted", "closed", "federated by default", "federated", "no power levels"],
)
def test_what_cannot_be_mended_has_no_mend(state: list[dict[str, Any]], place: str) -> None:
    (fault,) = room_faults(state, me=NODE)

    assert (fault.place, fault.mend) == (place, None)


@pytest.mark.parametrize(
    ("type_", "fields"),
    [
        ("m.room.join_rules", {"join_rule": None}),
        ("m.room.join_rules", {"join_rule": "knock"}),
        ("m.room.guest_access", {"guest_access": "can_join"}),
        ("m.room.history_visibility", {"history_visibility": "world_readable"}),
        ("m.room.history_visibility", {"history_visibility": "invited"}),
        ("m.room.member", {"membership": "leave"}),
    ],
    ids=str,
)
def test_an_open_door_is_a_fault(type_: str, fields: dict[str, Any]) -> None:
    (fault,) = room_faults(changed(with_node(made()), type_, **fields), me=NODE)

    assert fault.place == type_
    assert fault.mend


def test_a_listed_room_is_a_fault() -> None:
    (fault,) = room_faults(with_node(made()), me=NODE, listed=True)

    assert fault.place == "directory"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(
    type_=st.sampled_from(["m.room.create", POWER, "m.room.join_rules", "m.room.guest_access", "m.room.member"]),
    name=st.sampled_from(
        ["users", "events", "room_version", "m.federate", "additional_creators", "invite", "join_rule"]
    ),
    value=JSON,
)
def test_no_state_breaks_the_judge(type_: str, name: str, value: Any) -> None:
    room_faults(changed(made(), type_, **{name: value}), me=NODE)
    room_faults([*made(), {"type": type_, "state_key": value, "content": value}], me=NODE)
