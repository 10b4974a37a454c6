"""The keys of nodes: signing, checking, and how one key hands over to the next.

A key is Ed25519 (RFC 8032), written as base64 of its 32 bytes; its id is the beginning of the SHA-256 of the public
part. A node that changes its key signs the new one with the old one: the *succession* goes along with every message,
so that a peer which was away follows without a hand. A peer only ever goes forward: once it has followed, the
old key means nothing to it. A key that was stolen can be followed as well, so then trust the new one by hand.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cis.errors import MalformedMessageError

if TYPE_CHECKING:
    from cis.model.dag import Json

KEY_BYTES = 32
MAX_SUCCESSIONS = 8


def canonical(value: Json) -> bytes:
    """Return the one byte form of a JSON value (RFC 8785).

    Raises:
        MalformedMessageError: it has a number or a text that the form cannot hold.
    """
    import rfc8785  # noqa: PLC0415 - who only shows its key signs nothing

    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeError, RecursionError) as error:
        raise MalformedMessageError(f"a message cannot be put into canonical form: {error}") from error


def key_id(public_key: str) -> str:
    """Return the id of a public key: 16 hexadecimal digits. Raises ValueError when it is none."""
    return hashlib.sha256(_key_bytes(public_key)).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Succession:
    """The word of an old key that *public_key* follows it."""

    node_id: str
    old_key: str
    public_key: str
    signature: str

    def to_dict(self) -> dict[str, Json]:
        """Return the form in which it travels and is kept."""
        return {
            "node_id": self.node_id,
            "old_key": self.old_key,
            "public_key": self.public_key,
            "signature": self.signature,
        }

    def holds(self) -> bool:
        """Whether the old key really said so."""
        return verifies(self.old_key, self.signature, _handover(self.node_id, self.public_key))


def successions_of(plain: Json) -> tuple[Succession, ...]:
    """Return the successions in a message, oldest first. Raises MalformedMessageError."""
    if not isinstance(plain, list) or len(plain) > MAX_SUCCESSIONS:
        raise MalformedMessageError(f"successions must be a list of at most {MAX_SUCCESSIONS}")
    found = []
    for one in plain:
        names = ("node_id", "old_key", "public_key", "signature")
        if not isinstance(one, Mapping) or not all(isinstance(one.get(name), str) for name in names):
            raise MalformedMessageError("a succession needs node_id, old_key, public_key and signature")
        found.append(Succession(*(one[name] for name in names)))
    return tuple(found)


def follow(trusted_key: str, node_id: str, successions: Sequence[Succession]) -> str:
    """Return the key that *trusted_key* of a node has handed over to, step by step; itself when to none."""
    for one in successions:
        if one.node_id == node_id and one.old_key == trusted_key and one.holds():
            trusted_key = one.public_key
    return trusted_key


class Signer:
    """A node's private key, with the successions that led to it."""

    def __init__(self, private_key: str, *, successions: Sequence[Succession] = ()) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(_key_bytes(private_key))
        self.public_key = base64.b64encode(self._key.public_key().public_bytes_raw()).decode("ascii")
        self.key_id = key_id(self.public_key)
        self.successions = tuple(successions)[-MAX_SUCCESSIONS:]

    def sign(self, data: bytes) -> str:
        """Return the signature of *data*, base64."""
        return base64.b64encode(self._key.sign(data)).decode("ascii")

    def hand_over(self, node_id: str, new_public_key: str) -> Succession:
        """Return this key's word that another one follows it."""
        signature = self.sign(_handover(node_id, new_public_key))
        return Succession(node_id, self.public_key, new_public_key, signature)


def verifies(public_key: str, signature: str, data: bytes) -> bool:
    """Whether *signature* of *data* is that of this key; False as well when one of them is none."""
    try:
        key = Ed25519PublicKey.from_public_bytes(_key_bytes(public_key))
        key.verify(base64.b64decode(signature, validate=True), data)
    except (InvalidSignature, ValueError, binascii.Error):
        return False
    return True


def new_private_key() -> str:
    """Return a fresh private key."""
    return base64.b64encode(Ed25519PrivateKey.generate().private_bytes_raw()).decode("ascii")


def check_public_key(text: str) -> str:
    """Return a public key as it is stored. Raises ValueError, which says what is wrong."""
    return base64.b64encode(_key_bytes(text)).decode("ascii")


def _handover(node_id: str, public_key: str) -> bytes:
    return canonical({"type": "io.cis.node.succession", "node_id": node_id, "public_key": public_key})


def _key_bytes(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{text[:60]!r} is not a key: not base64") from error
    if len(data) != KEY_BYTES:
        raise ValueError(f"{text[:60]!r} is not a key: it has {len(data)} bytes, not {KEY_BYTES}")
    return data
