"""The signed envelope: what was sealed is what is opened, and whatever was changed in between is refused."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cis.errors import CisError, MalformedMessageError, UntrustedError
from cis.federation.inbox import MAX_CLOCK_US, sender_now_us
from cis.federation.messages import blob_ref, check_blob
from cis.model.ids import id_fault
from cis.model.message import MAX_BLOB_BYTES, BlobRef, Message, MessageKind
from cis.store.cluster import PeerRecord
from cis.transports.envelope import (
    MAX_CONTENT_BYTES,
    FrameReader,
    Opened,
    frame,
    open_envelope,
    seal,
)
from cis.transports.keys import Signer, canonical, new_private_key

SIGNER = Signer(new_private_key())
OTHER = Signer(new_private_key())
HOUR_US = 3_600_000_000

ids = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,30}\Z").filter(lambda text: id_fault(text) is None)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(st.characters(codec="utf-8"), max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)
messages = st.builds(
    Message,
    kind=st.sampled_from(list(MessageKind)),
    message_id=ids,
    sender=st.just("node-2"),
    created_at_us=st.integers(0, 2**42).map(lambda ms: ms * 1000),
    expires_at_us=st.integers(0, 2**42).map(lambda ms: ms * 1000),
    run_id=st.just("") | ids,
    target=st.none() | ids,
    fields=st.dictionaries(st.sampled_from(["dag_id", "tasks", "report", "action", "seq"]), json_values),
)


def example(**changes: Any) -> Message:
    """Return a message as a node sends it."""
    message = Message(
        kind=MessageKind.EXECUTE,
        message_id="m-1",
        sender="node-2",
        target="node-1",
        run_id="run-1",
        created_at_us=1_700_000_000_000_000,
        expires_at_us=1_700_000_600_000_000,
        fields={"dag_id": "demo", "tasks": [{"id": "t", "command": "echo 1"}]},
    )
    return replace(message, **changes)


def opened(content: Any, *, room_id: str | None = None, key: str = SIGNER.public_key) -> Opened:
    """Open a content where node-2 is trusted with a key, and node-3 with its own."""
    return open_envelope(content, trusted_key={"node-2": key, "node-3": OTHER.public_key}.get, room_id=room_id)


@given(messages, st.none() | st.just("!room:example.org"))
def test_what_was_sealed_is_what_is_opened_also_after_a_way_as_json(message: Message, room_id: str | None) -> None:
    content = json.loads(json.dumps(seal(message, SIGNER, room_id=room_id)))

    assert opened(content, room_id=room_id) == Opened(message=message, public_key=SIGNER.public_key)


@given(messages, st.data())
def test_a_message_of_which_any_byte_was_changed_is_refused(message: Message, draw: st.DataObject) -> None:
    """In its canonical form, where each byte means something; nothing but an error of ours comes out of it."""
    data = bytearray(canonical(seal(message, SIGNER)))
    place = draw.draw(st.integers(0, len(data) - 1))
    data[place] = draw.draw(st.integers(0, 255).filter(lambda byte: byte != data[place]))
    try:
        content = json.loads(bytes(data))
    except ValueError:
        return  # no JSON any more, which is refused before
    if _same_signature(content, seal(message, SIGNER)):
        return  # the last character of base64 has bits that stand for nothing

    with pytest.raises((MalformedMessageError, UntrustedError)):
        opened(content)


@given(messages, st.data())
def test_a_message_to_which_anything_is_added_or_from_which_it_is_taken_is_refused(
    message: Message, draw: st.DataObject
) -> None:
    content = seal(message, SIGNER)
    removed = draw.draw(st.sampled_from(sorted(content)))
    added = draw.draw(st.text(st.characters(codec="utf-8")).filter(lambda name: name not in (*content, "m.relates_to")))

    for changed in ({name: content[name] for name in content if name != removed}, {**content, added: 1}):
        with pytest.raises((MalformedMessageError, UntrustedError)):
            opened(changed)


@given(json_values)
def test_whatever_stands_in_the_place_of_a_message_it_is_refused_as_none(content: Any) -> None:
    with pytest.raises((MalformedMessageError, UntrustedError)):
        opened(content)


@given(st.sampled_from(sorted(seal(example(), SIGNER))), json_values)
def test_whatever_stands_in_the_place_of_one_field_it_is_refused(name: str, value: Any) -> None:
    content = seal(example(), SIGNER)
    if content[name] == value and type(content[name]) is type(value):
        return
    if name == "type" and isinstance(value, list | dict):
        return  # the next test

    with pytest.raises((MalformedMessageError, UntrustedError)):
        opened({**content, name: value})


@pytest.mark.parametrize("value", [[], {}])
def test_a_type_that_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(MalformedMessageError):
        opened({**seal(example(), SIGNER), "type": value})


def test_a_key_that_handed_over_to_what_is_no_key_is_not_followed() -> None:
    junk = Signer(new_private_key(), successions=[SIGNER.hand_over("node-2", "no key")])

    with pytest.raises((MalformedMessageError, UntrustedError)):
        opened(seal(example(), junk))


@pytest.mark.parametrize(
    "forge",
    [
        lambda: seal(example(), OTHER),
        lambda: {**seal(example(sender="node-3"), OTHER), "sender": "node-2"},
        lambda: seal(example(sender="node-9"), SIGNER),
        lambda: {**seal(example(), SIGNER), "signatures": {}},
        lambda: {**seal(example(), SIGNER), "signatures": {"node-2": {}}},
        lambda: {**seal(example(), SIGNER), "signatures": {"node-2": []}},
        lambda: {**seal(example(), SIGNER), "signatures": {"node-2": {f"ed25519:{SIGNER.key_id}": 1}}},
        lambda: {**seal(example(), SIGNER), "signatures": {"node-3": seal(example(), SIGNER)["signatures"]["node-2"]}},
        lambda: seal(example(), SIGNER, room_id="!room:example.org"),
    ],
)
def test_a_message_that_its_sender_did_not_sign_for_this_way_is_not_trusted(forge: Callable[[], Any]) -> None:
    with pytest.raises(UntrustedError):
        opened(forge())


def test_a_message_for_one_room_is_not_one_for_another_or_for_none() -> None:
    content = seal(example(), SIGNER, room_id="!a:example.org")

    assert opened(content, room_id="!a:example.org").message == example()
    for room_id in ("!b:example.org", None):
        with pytest.raises(UntrustedError):
            opened(content, room_id=room_id)


def test_a_relation_that_the_homeserver_reads_is_neither_signed_nor_believed() -> None:
    content = {**seal(example(), SIGNER), "m.relates_to": {"rel_type": "m.replace"}}

    assert opened(content).message == example()


def test_a_kind_does_not_pass_for_another() -> None:
    content = seal(example(kind=MessageKind.PING), SIGNER)

    with pytest.raises(UntrustedError):
        opened({**content, "type": str(MessageKind.EXECUTE)})


@pytest.mark.parametrize("name", ["message_id", "sender", "run_id", "target_node"])
@pytest.mark.parametrize("value", ["../../etc/passwd", "a/b", "a\x00", ".hidden", "a..b", "x" * 129, 7, ["a"], " "])
def test_an_id_that_could_be_a_path_is_refused_whoever_signed_it(name: str, value: Any) -> None:
    content = {**seal(example(), SIGNER), name: value}
    del content["signatures"]
    content["signatures"] = {"node-2": {f"ed25519:{SIGNER.key_id}": SIGNER.sign(canonical(content))}}

    with pytest.raises(MalformedMessageError):
        opened(content)


def test_a_new_key_is_followed_where_the_old_one_is_trusted_and_told() -> None:
    private = new_private_key()
    word = SIGNER.hand_over("node-2", Signer(private).public_key)
    new = Signer(private, successions=[word])

    after = opened(seal(example(), new))

    assert after == Opened(message=example(), public_key=new.public_key)
    assert opened(seal(example(), new), key=new.public_key).public_key == new.public_key


def test_a_key_that_was_handed_over_signs_nothing_any_more() -> None:
    private = new_private_key()
    new = Signer(private, successions=[SIGNER.hand_over("node-2", Signer(private).public_key)])
    old_with_the_word = Signer(new_private_key(), successions=new.successions)

    for signer in (SIGNER, old_with_the_word):
        with pytest.raises(UntrustedError):
            opened(seal(example(), signer), key=new.public_key)


@pytest.mark.parametrize("node_id", ["node-3", "node-1"])
def test_a_succession_of_another_node_hands_nothing_over(node_id: str) -> None:
    private = new_private_key()
    thief = Signer(private, successions=[SIGNER.hand_over(node_id, Signer(private).public_key)])

    with pytest.raises(UntrustedError):
        opened(seal(example(), thief))


def test_a_succession_that_another_key_signed_hands_nothing_over() -> None:
    private = new_private_key()
    word = OTHER.hand_over("node-2", Signer(private).public_key)
    thief = Signer(private, successions=[replace(word, old_key=SIGNER.public_key), word])

    with pytest.raises(UntrustedError):
        opened(seal(example(), thief))


@pytest.mark.parametrize("kept", ["", "no key", "\u00e9", "AAAA"])
def test_where_what_is_kept_of_a_node_is_no_key_its_messages_are_not_trusted(kept: str) -> None:
    with pytest.raises(UntrustedError, match="trust it anew"):
        opened(seal(example(), SIGNER), key=kept)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_a_blob_is_the_one_that_was_signed_for_or_refused(signed: bytes, came: bytes) -> None:
    ref = BlobRef(sha256=hashlib.sha256(signed).hexdigest(), size=len(signed))
    try:
        text = check_blob(ref, came)
    except CisError:
        assert came != signed or not _is_utf8(signed)
    else:
        assert text.encode() == signed == came


@pytest.mark.parametrize(
    "ref",
    [
        {"sha256": "0" * 64, "size": 2**30},
        {"sha256": "0" * 64, "size": MAX_BLOB_BYTES + 1},
        {"sha256": "0" * 64, "size": -1},
        {"sha256": "0" * 64, "size": True},
        {"sha256": "0" * 64, "size": "1"},
        {"sha256": "0" * 63, "size": 1},
        {"sha256": "0" * 64, "size": 1, "mxc": 1},
        {"size": 1},
        [],
        "x",
    ],
)
def test_a_reference_to_too_much_or_to_nothing_is_refused(ref: Any) -> None:
    with pytest.raises(MalformedMessageError):
        blob_ref(example(fields={"dag_ref": ref}), "dag_ref")


@given(messages, st.none() | st.text(st.characters(codec="utf-8"), max_size=300), st.data())
def test_a_message_survives_its_way_in_pieces_and_its_blob_as_well(
    message: Message, blob: str | None, draw: st.DataObject
) -> None:
    message = replace(message, blob=blob, blob_name=None if blob is None else "dag_ref")
    data = frame(seal(message, SIGNER), message)
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=4)))
    pieces = [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]

    async def read() -> tuple[Message, str | None]:
        reader = FrameReader(_parts(pieces))
        heard = opened(await reader.content()).message
        ref = blob_ref(heard, "dag_ref")
        return heard, None if ref is None else check_blob(ref, await reader.blob(ref.size))

    heard, text = asyncio.run(read())

    assert heard.run_id == message.run_id
    assert text == blob


def test_no_more_of_a_first_line_is_read_than_it_may_have() -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1000
            yield b"x" * 1000

    with pytest.raises(MalformedMessageError):
        asyncio.run(FrameReader(endless()).content())

    assert read <= MAX_CONTENT_BYTES + 2000


@pytest.mark.parametrize("size", [0, 4, 6, 100])
def test_a_blob_of_another_size_than_was_said_is_refused(size: int) -> None:
    async def read() -> None:
        reader = FrameReader(_parts([b"{}\n123", b"45"]))
        await reader.content()
        await reader.blob(size)

    with pytest.raises(MalformedMessageError):
        asyncio.run(read())


@pytest.mark.parametrize("hours", [-48, -1, 0, 1, 48])
def test_whether_a_message_is_late_is_told_by_the_clock_of_its_sender(hours: int) -> None:
    """A peer whose clock is hours off is neither refused at once nor heard for ever."""
    ahead_us, now_us = hours * HOUR_US, 1_700_000_000_000_000
    peer = PeerRecord(node_id="node-2", public_key="k", may=(), trusted_at_us=0, clock_ahead_us=ahead_us)
    sent = example(created_at_us=now_us + ahead_us, expires_at_us=now_us + ahead_us + 60_000_000)

    assert sender_now_us(peer, now_us=now_us) == sent.created_at_us
    assert sent.expires_at_us > sender_now_us(peer, now_us=now_us + 59_000_000)
    assert sent.expires_at_us <= sender_now_us(peer, now_us=now_us + 60_000_000)


def test_a_clock_that_is_not_known_is_taken_for_right_and_one_of_another_age_only_by_a_year() -> None:
    peer = PeerRecord(node_id="node-2", public_key="k", may=(), trusted_at_us=0)

    assert sender_now_us(peer, now_us=5) == 5
    assert sender_now_us(replace(peer, clock_ahead_us=2**62), now_us=0) == MAX_CLOCK_US
    assert sender_now_us(replace(peer, clock_ahead_us=-(2**62)), now_us=0) == -MAX_CLOCK_US


async def _parts(pieces: list[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def _same_signature(content: Any, sealed: Any) -> bool:
    if not isinstance(content, dict) or {**content, "signatures": 0} != {**sealed, "signatures": 0}:
        return False
    name = f"ed25519:{SIGNER.key_id}"
    try:
        return bool(str(content["signatures"]["node-2"][name])[:85] == sealed["signatures"]["node-2"][name][:85])
    except (KeyError, TypeError):
        return False


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
