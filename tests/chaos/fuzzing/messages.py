"""Messages made to hurt, signed by a trusted node all the same, and what has to hold when a node takes them in.

Only our own refusals come out, and the runs that the sender has no part in stay as they are.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from cis.engine.logfiles import LogFiles
from cis.errors import CisError, MalformedMessageError
from cis.federation.inbox import Inbox
from cis.model.message import MessageKind, Result
from cis.model.tree import holds_text
from cis.store.cluster import JournalState, RoomEvent
from cis.store.sqlite.store import SqliteStore
from cis.transports.envelope import FrameReader
from cis.transports.keys import Signer, canonical, new_private_key
from cis.transports.matrix.client import MatrixClient
from cis.transports.matrix.journal import Journal
from cis.transports.push import Answering
from cis.transports.receiver import Receiver
from tests.chaos.fuzzing.handle import DirectHandle, OneKey
from tests.chaos.fuzzing.household import ME, NODE, ROOM, TASKS, Household
from tests.chaos.fuzzing.readers import SIGNER, this_node
from tests.chaos.fuzzing.trees import changed, dumped
from tests.worlds.rows import attempts_of

KEYS = {name: Signer(new_private_key()) for name in ("node-2", "node-3")}
_HEAD = {
    "dag_id": "demo",
    "scope": {"type": "global", "id": None},
    "scope_source": "default",
    "priority": "normal",
    "depth": 0,
    "epoch": 0,
}
_DONE = {
    "id": "t0",
    "status": "completed",
    "version": 3,
    "attempts": 1,
    "failures": 0,
    "exit_code": 0,
    "started_at_us": 5,
    "finished_at_us": 6,
    "outputs": {"x": "y"},
    "error": None,
    "blocked_by": None,
    "retry_at_us": None,
}
_REPORT = {
    "run": {
        "version": 2,
        "status": "running",
        "worker_id": "worker-global",
        "started_at_us": 5,
        "finished_at_us": None,
        "error": None,
        "cancel_requested": False,
    },
    "tasks": [{"no": 0, **_DONE}],
    "attempts": [
        {
            "no": 0,
            "id": "t0",
            "attempt": 1,
            "status": "completed",
            "epoch": 1,
            "started_at_us": 5,
            "finished_at_us": 6,
            "exit_code": 0,
            "error": None,
            "stdout_tail": "hi",
            "stderr_tail": "",
            "stdout_bytes": 2,
            "stderr_bytes": 0,
        }
    ],
    "logs": [
        {
            "no": 0,
            "attempt": 1,
            "stream": "out",
            "offset": 0,
            "data": base64.b64encode(zlib.compress(b"hi")).decode(),
            "last": True,
        }
    ],
}


class Target:
    """Node-1 over a store, which trusts node-2 and node-3 by the keys of this process."""

    def __init__(self, store: SqliteStore, folder: Path, house: Household) -> None:
        self.house = house
        self._store = store
        self._handle = DirectHandle(this_node(), LogFiles(folder / "logs"), OneKey(SIGNER), store)
        with store.transaction():
            for name, signer in KEYS.items():
                peer = store.peers.get(name)
                assert peer is not None
                store.peers.put(replace(peer, public_key=signer.public_key))
        self._before = self._untouched()

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def push(self, body: bytes) -> bool:
        """Take in what came over HTTP; return whether it was accepted. Only our own errors are refusals."""

        async def parts() -> AsyncIterator[bytes]:
            for start in range(0, len(body), 4096):
                yield body[start : start + 4096]

        async def answer() -> bool:
            answering = Answering(self._handle, self._receiver())
            reader = FrameReader(parts())
            message, peer = await answering.open(reader, source="127.0.0.1")
            said = await answering.answer(message, peer, reader, source="127.0.0.1", make_room=_has_room)
            return bool(json.loads(said.partition(b"\n")[0])["result"] == Result.ACCEPTED)

        return self._done(answer)

    def hear(self, content: Any, *, number: int, kind: str) -> bool:
        """Take in what came by the room; return whether it was acted upon. Nothing that it holds may stop the journal."""
        sender = f"@{content.get('sender')}:x" if isinstance(content, dict) else None
        if sender is None or not holds_text([sender, content]):  # the sync journals no such event
            return False
        event = RoomEvent(
            event_id=f"$f{number}",
            room_id=ROOM,
            sender=sender,
            type=kind,
            content=content,
            sent_at_us=this_node().clock_us(),
        )
        with self._store.transaction():
            self._store.room.append([event])

        async def chat(_: object) -> None:
            return

        async def work() -> bool:
            client = MatrixClient("http://127.0.0.1:1", "token")
            await Journal(self._handle, self._receiver(), client, room_id=ROOM, me=ME, chat=chat).work()
            await client.aclose()
            found = self._store.room.event(event.event_id)
            return found is not None and found.state is JournalState.DONE

        return self._done(work)

    def _receiver(self) -> Receiver:
        return Receiver(self._handle, Inbox(self._handle, taken=lambda _: None), spoke=lambda _: None)

    def _done(self, work: Callable[[], Awaitable[bool]]) -> bool:
        async def whole() -> bool:
            try:
                return await work()
            except CisError:
                return False
            finally:  # the notes of who was heard belong to this message
                others = asyncio.all_tasks() - {asyncio.current_task()}
                await asyncio.gather(*others)

        came = asyncio.run(whole())
        assert self._untouched() == self._before, "a run that the sender has no part in was changed"
        return came

    def _untouched(self) -> list[Any]:
        runs = (*self.house.innocent, self.house.victim)
        return [
            (self._store.runs.get(run_id), self._store.tasks.of_run(run_id), attempts_of(self._store, run_id))
            for run_id in runs
        ]


def envelope(house: Household, chance: Random, *, number: int) -> tuple[dict[str, Any], bytes, MessageKind]:
    """Return a signed content that chance has changed, the blob that belongs to it, and its kind."""
    kind, run_id, target, fields = _said(house, chance, number=number)
    sender = chance.choice(("node-2", "node-3")) if chance.random() < 0.3 else _usual(kind, run_id)
    by_blob = kind is MessageKind.STATUS and chance.random() < 0.5  # then only what travels beside is changed
    fields = changed(fields, chance, times=0 if by_blob else chance.choice((0, 1, 1, 2, 4)))
    if not isinstance(fields, dict):
        fields = {"fields": fields}
    blob = b""
    if by_blob or chance.random() < 0.25:
        fields, blob = _with_blob(kind, fields, chance)
    now_ms = this_node().clock_us() // 1000
    content: dict[str, Any] = {
        **fields,
        "type": str(kind),
        "v": 1,
        "message_id": f"m{number}",
        "run_id": run_id,
        "sender": sender,
        "target_node": target,
        "room_id": None,
        "timestamp": now_ms,
        "expires_at": now_ms + 60_000,
        "key_id": KEYS[sender].key_id,
    }
    if chance.random() < 0.15:
        content = changed(content, chance, times=1)
    return content, blob, kind


def sign(content: Any, *, room_id: str | None = None) -> Any:
    """Return a content as its sender signs it, if there is a form of it that can be signed."""
    if not isinstance(content, dict):
        return content
    signer = _key_of(content)
    content = {**content, "room_id": content.get("room_id") or room_id}
    try:
        text = signer.sign(canonical(content))
    except MalformedMessageError:
        text = ""
    return {**content, "signatures": {str(content.get("sender")): {f"ed25519:{signer.key_id}": text}}}


def on_time(content: Any) -> Any:
    """Return a content that was made now, if it says when."""
    if not isinstance(content, dict) or not isinstance(content.get("timestamp"), int):
        return content
    now_ms = this_node().clock_us() // 1000
    return {**content, "timestamp": now_ms, "expires_at": now_ms + 60_000, "key_id": _key_of(content).key_id}


def _key_of(content: dict[str, Any]) -> Signer:
    return KEYS.get(str(content.get("sender")), KEYS["node-2"])


def body_of(content: Any, blob: bytes) -> bytes:
    """Return a message as it is pushed."""
    return dumped(content).encode() + b"\n" + blob


def _usual(kind: MessageKind, run_id: str) -> str:
    return "node-3" if run_id == "r-seen" or kind is MessageKind.CLAIM else "node-2"


def _said(house: Household, chance: Random, *, number: int) -> tuple[MessageKind, str, str | None, dict[str, Any]]:
    """Return what a node could say: kind, run, target and fields, before anything is changed."""
    progress = {"progress": [_DONE]} if chance.random() < 0.3 else {}
    ended = {"status": chance.choice(("failed", "completed", "cancelled")), "version": 9, "finished_at_us": 9}
    report = {**_REPORT, "run": {**_REPORT["run"], **ended}} if chance.random() < 0.3 else _REPORT  # type: ignore[dict-item]
    others = (house.victim, house.innocent[0], house.sent, house.received)
    said: list[tuple[MessageKind, str, str | None, dict[str, Any]]] = [
        (MessageKind.EXECUTE, f"new-{number}", NODE, {**_HEAD, "tasks": list(TASKS), **progress}),
        (MessageKind.EXECUTE, chance.choice(others), NODE, {**_HEAD, "tasks": list(TASKS)}),
        (
            MessageKind.EXECUTE,
            f"offer-{number}",
            None,
            {**_HEAD, "labels": ["gpu"], "lease_ms": 60_000, "nonces": True},
        ),
        (
            MessageKind.CONTROL,
            chance.choice((house.received, *others)),
            NODE,
            {"action": chance.choice(("cancel", "pause", "resume")), "seq": number},
        ),
        (MessageKind.ASK, chance.choice((house.received, *others)), NODE, {}),
        (MessageKind.STATUS, chance.choice((house.sent, house.offered, *others)), NODE, {"epoch": 0, "report": report}),
        (MessageKind.STATUS, house.sent, NODE, {"epoch": 0, "report": report}),
        (MessageKind.STATUS, house.sent, NODE, {"epoch": 0, "report": report}),
        (MessageKind.STATUS, house.offered, NODE, {"epoch": 1, "suspended": True, "nonce": "n", "report": report}),
        (MessageKind.STATUS, house.sent, NODE, {"epoch": 0, "refused": {"code": "x", "detail": "no"}}),
        (
            MessageKind.CLAIM,
            chance.choice((house.offered, *others)),
            NODE,
            {"node_id": "node-3", "epoch": 0, "free": 1, "nonce": "n"},
        ),
        (MessageKind.GRANT, "r-seen", None, {"node_id": NODE, "epoch": 1, "lease_ms": 60_000, "nonce": "n"}),
        (MessageKind.GRANT, house.received, None, {"node_id": "node-3", "epoch": 1, "lease_ms": 60_000}),
        (MessageKind.PING, "", NODE, {}),
        (MessageKind.ANSWER, "", NODE, {"result": "accepted"}),
    ]
    return chance.choice(said)


def _with_blob(kind: MessageKind, fields: dict[str, Any], chance: Random) -> tuple[dict[str, Any], bytes]:
    name = "report_ref" if kind is MessageKind.STATUS else "dag_ref"
    plain = (
        fields.get("report")
        if kind is MessageKind.STATUS
        else {
            "document": {"dag_id": "demo", "tasks": fields.get("tasks")},
            "progress": fields.get("progress", []),
        }
    )
    blob = dumped(changed(plain, chance, times=chance.choice((0, 1, 2)))).encode()
    if chance.random() < 0.1:
        blob = blob[: chance.randint(0, len(blob))] + chance.choice((b"\xff", b"[" * 50_000, b""))
    ref = {"sha256": hashlib.sha256(blob).hexdigest(), "size": len(blob)}
    return {**fields, name: changed(ref, chance) if chance.random() < 0.2 else ref}, blob


async def _has_room(_: int) -> None:
    """Let whatever travels beside a message come."""
