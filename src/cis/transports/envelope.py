"""The signed envelope: what a message looks like on its way, over HTTP and in the room alike.

    {"type": "io.cis.dag.execute", "v": 1, "message_id": …, "run_id": …, "sender": "node-2",
     "target_node": "node-1" | null, "room_id": null | "!…", "timestamp": ms, "expires_at": ms,
     "key_id": …, "successions": […],  … the fields of the kind …,
     "signatures": {"node-2": {"ed25519:<key_id>": "<base64>"}}}

The signature is Ed25519 over the canonical form (RFC 8785) of everything but ``signatures``. It covers the kind, so
that no message passes for another; the room, so that none is carried into another room; and the SHA-256 of a blob, so
that the blob need not be canonical. Times are milliseconds, since an event holds no floats.

What ``open_envelope`` returns was said by the node that it names. Whether that node may say so is asked later
(``cis.federation.inbox``), and asked again when it is acted upon.

Over HTTP a message is one line, its signed content, then the blob that it names, as it is. The content is small and its
signature is checked before anything else is read: a stranger can make a node read ``MAX_CONTENT_BYTES`` and no more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from cis.errors import MalformedMessageError, UntrustedError
from cis.federation.service import NodePort
from cis.model.dag import Json
from cis.model.ids import id_fault
from cis.model.message import Message, MessageKind
from cis.transports.keys import Signer, Succession, canonical, follow, key_id, successions_of, verifies

MEDIA_TYPE = "application/vnd.cis.message"
MAX_CONTENT_BYTES = 128 * 2**10
EXECUTE_PATH = "/api/v1/dag/execute"
MESSAGES_PATH = "/api/v1/peers/messages"

VERSION = 1
_FRAME = frozenset(
    {
        "type",
        "v",
        "message_id",
        "run_id",
        "sender",
        "target_node",
        "room_id",
        "timestamp",
        "expires_at",
        "key_id",
        "successions",
        "signatures",
        "m.relates_to",  # the homeserver reads it; nothing here trusts it
    }
)


class Keys(Protocol):
    """The node's keys."""

    def signer(self) -> Signer:
        """Return the node's key, as it is now."""
        ...


class SigningNode(NodePort, Protocol):
    """The node as transports use it: with its keys."""

    @property
    def keys(self) -> Keys: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A message whose signature holds, and the key that its sender has now (a new one, if it handed over)."""

    message: Message
    public_key: str


def seal(message: Message, signer: Signer, *, room_id: str | None = None, mxc: str | None = None) -> dict[str, Json]:
    """Return the signed content of a message; *mxc* is where the room keeps its blob."""
    content: dict[str, Json] = {
        **message.fields,
        "type": str(message.kind),
        "v": VERSION,
        "message_id": message.message_id,
        "run_id": message.run_id,
        "sender": message.sender,
        "target_node": message.target,
        "room_id": room_id,
        "timestamp": message.created_at_us // 1000,
        "expires_at": message.expires_at_us // 1000,
        "key_id": signer.key_id,
    }
    if signer.successions:
        content["successions"] = [one.to_dict() for one in signer.successions]
    if message.blob_name is not None and message.blob is not None:
        data = message.blob.encode()
        ref: dict[str, Json] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        content[message.blob_name] = ref if mxc is None else {**ref, "mxc": mxc}
    content["signatures"] = {message.sender: {f"ed25519:{signer.key_id}": signer.sign(canonical(content))}}
    return content


def open_envelope(content: Json, *, trusted_key: Callable[[str], str | None], room_id: str | None = None) -> Opened:
    """Return the message of *content*, whose signature is that of a trusted node.

    *trusted_key* returns the public key of a node that is trusted here, or None.

    Raises:
        MalformedMessageError: it is no envelope.
        UntrustedError: the sender is not trusted, the signature is not its own, or it was meant for another room.
    """
    frame = _read_frame(content)
    sender = frame["sender"]
    known = trusted_key(sender)
    if known is None:
        raise UntrustedError(f"node {sender!r} is not trusted here; 'cis node trust' names whom this node trusts")
    key = _current_key(known, sender, frame["key_id"], frame.get("successions"))
    signatures = frame.get("signatures")
    signature = signatures.get(sender, {}) if isinstance(signatures, Mapping) else {}
    text = signature.get(f"ed25519:{frame['key_id']}") if isinstance(signature, Mapping) else None
    if not isinstance(text, str):
        raise UntrustedError(f"a message in the name of {sender!r} is not signed")
    unsigned = {name: value for name, value in frame.items() if name not in ("signatures", "m.relates_to")}
    if not verifies(key, text, canonical(unsigned)):
        raise UntrustedError(f"the signature of a message in the name of {sender!r} is wrong")
    if frame.get("room_id") != room_id:
        raise UntrustedError(f"a message of {sender!r} was signed for {frame.get('room_id') or 'no room'}")
    return Opened(message=_message(frame), public_key=key)


def _read_frame(content: Json) -> dict[str, Json]:
    if not isinstance(content, Mapping):
        raise MalformedMessageError("a message must be a JSON object")
    if content.get("v") != VERSION:
        raise MalformedMessageError(f"version {content.get('v')!r:.20} of messages is not known here, only {VERSION}")
    for name in ("message_id", "sender"):
        if not isinstance(content.get(name), str) or id_fault(content[name]):
            raise MalformedMessageError(f"{name} is missing, or not an id")
    for name in ("run_id", "target_node"):
        value = content.get(name)
        if value not in (None, "") and (not isinstance(value, str) or id_fault(value)):
            raise MalformedMessageError(f"{name} is not an id")
    if not isinstance(content.get("type"), str) or content["type"] not in set(MessageKind):
        raise MalformedMessageError(f"type {content.get('type')!r:.60} is not known here")
    for name in ("timestamp", "expires_at"):
        value = content.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
            raise MalformedMessageError(f"{name} is missing, or not a time in milliseconds")
    if not isinstance(content.get("key_id"), str):
        raise MalformedMessageError("key_id is missing")
    return dict(content)


def _current_key(known: str, sender: str, wanted_id: str, plain: Json) -> str:
    try:
        if key_id(known) == wanted_id:
            return known
    except ValueError as error:
        raise UntrustedError(f"what is kept here of node {sender!r} is not a key; trust it anew") from error
    successions: tuple[Succession, ...] = () if plain is None else successions_of(plain)
    key = follow(known, sender, successions)
    try:
        follows = key_id(key) == wanted_id
    except ValueError:
        follows = False
    if not follows:
        raise UntrustedError(
            f"node {sender!r} signed with key {wanted_id}, which is not trusted here; 'cis node trust' takes its new key"
        )
    return key


def _message(frame: Mapping[str, Json]) -> Message:
    return Message(
        kind=MessageKind(frame["type"]),
        message_id=frame["message_id"],
        sender=frame["sender"],
        target=frame.get("target_node"),
        run_id=frame.get("run_id") or "",
        created_at_us=frame["timestamp"] * 1000,
        expires_at_us=frame["expires_at"] * 1000,
        fields={name: value for name, value in frame.items() if name not in _FRAME},
    )


def frame(content: Json, message: Message) -> bytes:
    """Return the body that carries a message."""
    return canonical(content) + b"\n" + (message.blob.encode() if message.blob is not None else b"")


class FrameReader:
    """Reads a body piece by piece, never more of it than was asked for."""

    def __init__(self, parts: AsyncIterator[bytes]) -> None:
        self._parts = parts
        self._held = b""

    async def content(self) -> Json:
        """Return the content of the first line. Raises MalformedMessageError."""
        while b"\n" not in self._held:
            if len(self._held) > MAX_CONTENT_BYTES or not await self._more():
                break
        line, newline, self._held = self._held.partition(b"\n")
        if not newline or len(line) > MAX_CONTENT_BYTES:
            raise MalformedMessageError("a message begins with its content, in one line of at most 128 KiB")
        try:
            return json.loads(line)
        except (ValueError, RecursionError) as error:
            raise MalformedMessageError("the content of a message is not JSON") from error

    async def blob(self, size: int) -> bytes:
        """Return the *size* bytes that follow. Raises MalformedMessageError when there are fewer or more."""
        parts, count = [self._held], len(self._held)
        self._held = b""
        while count <= size and await self._more():
            parts.append(self._held)
            count += len(self._held)
            self._held = b""
        if count != size:
            raise MalformedMessageError(f"{size} bytes should follow the content of a message, not {count}")
        return b"".join(parts)

    async def _more(self) -> bool:
        async for part in self._parts:
            self._held += part
            return True
        return False
