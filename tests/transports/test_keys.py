"""Keys of nodes: what they sign, their canonical form, and how one hands over to the next."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cis.errors import MalformedMessageError
from cis.transports.keys import (
    MAX_SUCCESSIONS,
    Signer,
    Succession,
    canonical,
    check_public_key,
    follow,
    key_id,
    new_private_key,
    successions_of,
    verifies,
)

NODE = "node-2"
# The first test of RFC 8032, section 7.1.
RFC_PRIVATE = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
RFC_PUBLIC = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
RFC_SIGNATURE = (
    "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
    "d25bf5f0595bbe24655141438e7a100b"
)


def b64(text: str) -> str:
    return base64.b64encode(bytes.fromhex(text)).decode()


def chain(length: int) -> tuple[list[Signer], tuple[Succession, ...]]:
    """Return keys of which each handed over to the next, and the successions."""
    keys = [Signer(new_private_key()) for _ in range(length + 1)]
    return keys, tuple(old.hand_over(NODE, new.public_key) for old, new in pairwise(keys))


def test_signatures_are_those_of_the_standard() -> None:
    signer = Signer(b64(RFC_PRIVATE))

    assert signer.public_key == b64(RFC_PUBLIC)
    assert signer.sign(b"") == b64(RFC_SIGNATURE)
    assert verifies(signer.public_key, signer.sign(b""), b"")


@given(st.binary(max_size=200), st.data())
def test_a_signature_holds_for_the_very_bytes_alone(data: bytes, draw: st.DataObject) -> None:
    signer = Signer(new_private_key())
    signature = signer.sign(data)
    place = draw.draw(st.integers(0, len(data)))
    other = data[:place] + bytes([draw.draw(st.integers(0, 255))]) + data[place:]

    assert verifies(signer.public_key, signature, data)
    assert not verifies(signer.public_key, signature, other)
    assert not verifies(Signer(new_private_key()).public_key, signature, data)


@given(st.text(max_size=100), st.text(max_size=100))
def test_what_is_no_key_or_no_signature_verifies_nothing(key: str, signature: str) -> None:
    signer = Signer(new_private_key())

    assert not verifies(key, signer.sign(b"x"), b"x")
    assert not verifies(signer.public_key, signature, b"x")


def test_the_id_of_a_key_is_the_beginning_of_its_hash() -> None:
    expected = hashlib.sha256(bytes.fromhex(RFC_PUBLIC)).hexdigest()[:16]

    assert key_id(b64(RFC_PUBLIC)) == expected
    assert Signer(b64(RFC_PRIVATE)).key_id == expected


@pytest.mark.parametrize("text", ["", "x", "AAAA", b64(RFC_PUBLIC)[:-4], b64(RFC_PUBLIC) + "\n", "ä" * 44])
def test_what_is_no_public_key_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match="is not a key"):
        check_public_key(text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"b": 1, "a": [True, None, "€"]}, '{"a":[true,null,"€"],"b":1}'),
        ({"\u20ac": 1, "\r": 2, "\U0001f600": 3, "\ufb33": 4}, '{"\\r":2,"€":1,"😀":3,"\ufb33":4}'),
        ([1.0, 1e21, 0.1, -0.0], "[1,1e+21,0.1,0]"),
    ],
)
def test_the_canonical_form_is_that_of_rfc_8785(value: Any, expected: str) -> None:
    assert canonical(value).decode() == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**53, {"a": "\ud800"}])
def test_what_has_no_canonical_form_is_no_message(value: Any) -> None:
    with pytest.raises(MalformedMessageError):
        canonical(value)


@given(st.integers(0, MAX_SUCCESSIONS), st.data())
def test_a_peer_that_was_away_follows_from_any_key_to_the_newest(length: int, draw: st.DataObject) -> None:
    keys, successions = chain(length)
    trusted = draw.draw(st.sampled_from(keys))

    assert follow(trusted.public_key, NODE, successions) == keys[-1].public_key


def test_nobody_goes_back_to_an_older_key() -> None:
    keys, successions = chain(3)

    assert follow(keys[3].public_key, NODE, successions) == keys[3].public_key
    assert follow(keys[2].public_key, NODE, successions[:1]) == keys[2].public_key


def test_a_succession_of_another_node_or_of_another_key_is_not_followed() -> None:
    keys, (word,) = chain(1)
    thief = Signer(new_private_key())
    trusted = keys[0].public_key
    forged = [
        replace(word, node_id="node-3"),  # signed for another node
        replace(word, public_key=thief.public_key),  # to another key than was signed for
        replace(thief.hand_over(NODE, thief.public_key), old_key=trusted),  # signed by another key
        thief.hand_over(NODE, thief.public_key),  # of a key that is not trusted
        keys[0].hand_over("node-3", thief.public_key),  # the key of two nodes, to the other's
        replace(word, signature=""),
        replace(word, signature=keys[0].sign(b"something else")),
    ]

    assert follow(trusted, "node-3", [word]) == trusted
    assert [follow(trusted, NODE, [one]) for one in forged] == [trusted] * len(forged)
    assert follow(trusted, NODE, [*forged, word]) == keys[1].public_key


@given(st.data())
def test_a_succession_with_one_character_changed_is_not_followed(draw: st.DataObject) -> None:
    keys, (word,) = chain(1)
    name = draw.draw(st.sampled_from(["node_id", "public_key", "signature", "old_key"]))
    text = getattr(word, name)
    place = draw.draw(st.integers(0, len(text.rstrip("=")) - 2))  # the last one has bits that mean nothing
    other = draw.draw(st.characters(codec="ascii").filter(lambda char: char != text[place]))
    changed = replace(word, **{name: text[:place] + other + text[place + 1 :]})

    assert follow(keys[0].public_key, NODE, [changed]) == keys[0].public_key


def test_successions_survive_their_way_and_only_the_newest_travel() -> None:
    keys, successions = chain(MAX_SUCCESSIONS + 2)
    signer = Signer(new_private_key(), successions=successions)

    assert len(signer.successions) == MAX_SUCCESSIONS
    assert successions_of([one.to_dict() for one in signer.successions]) == successions[-MAX_SUCCESSIONS:]
    assert follow(keys[2].public_key, NODE, signer.successions) == keys[-1].public_key


@pytest.mark.parametrize(
    "plain",
    [None, {}, "x", [1], [{}], [{"node_id": "n", "old_key": "k", "public_key": "k", "signature": 1}], [{}] * 9],
)
def test_what_are_no_successions_are_refused(plain: Any) -> None:
    with pytest.raises(MalformedMessageError):
        successions_of(plain)
