"""What a node makes of the events in its journal; the homeserver is there only as far as it keeps blobs, or does not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cis.engine.logfiles import LogFiles
from cis.engine.site import Site
from cis.errors import RoomError, RoomRefusedError, RoomUnreachableError
from cis.model.message import Message, MessageKind
from cis.node.desk import NodeDesk
from cis.node.keyfile import KeyFile
from cis.node.readers import Readers
from cis.node.writer import Writer
from cis.skills.registry import InstalledSkills
from cis.store.cluster import JournalState, PeerRecord, RoomEvent
from cis.store.sqlite.store import SqliteStore, open_sqlite
from cis.transports.envelope import seal
from cis.transports.keys import Signer, new_private_key
from cis.transports.matrix.journal import Journal
from cis.transports.reception import Reception

ROOM, USER = "!room:x", "@node-2:x"
NOW_US = 1_700_000_000_000_000
HOUR_US = 3_600_000_000


@dataclass(slots=True)
class Media:
    """A homeserver's media: every download fails in one way; who asked for what is remembered."""

    fault: RoomError
    asked: list[str] = field(default_factory=list)

    async def download(self, mxc: str, *, max_bytes: int) -> bytes:
        self.asked.append(mxc)
        assert max_bytes
        raise self.fault


@dataclass(slots=True)
class Reader:
    """Node-1's journal, and node-2's key."""

    store: SqliteStore
    journal: Journal
    media: Media
    key: Signer
    count: int = 0

    def event(self, *, blob: bool = False, expired: bool = False, kind: MessageKind = MessageKind.EXECUTE) -> str:
        """Journal a message of node-2 to node-1, and return its event's id."""
        self.count += 1
        fields: dict[str, Any] = {
            "dag_id": "d",
            "scope": {"type": "global", "id": None},
            "scope_source": "default",
            "priority": "normal",
            "epoch": 0,
        }
        if blob:
            fields["dag_ref"] = {"sha256": "0" * 64, "size": 5, "mxc": f"mxc://x/m{self.count}"}
        else:
            fields["tasks"] = [{"id": "a", "command": "true"}]
        message = Message(
            kind=kind,
            message_id=f"m{self.count}",
            sender="node-2",
            target="node-1",
            run_id=f"run-{self.count}",
            created_at_us=NOW_US,
            expires_at_us=NOW_US + (-HOUR_US if expired else HOUR_US),
            fields=fields,
        )
        event_id = f"$e{self.count}"
        event = RoomEvent(
            event_id=event_id,
            room_id=ROOM,
            sender=USER,
            type=str(kind),
            content=seal(message, self.key, room_id=ROOM),
            sent_at_us=NOW_US,
        )
        with self.store.transaction():
            self.store.journal([event])
        return event_id

    def state(self, event_id: str) -> JournalState:
        """Return how an event stands."""
        event = self.store.room_event(event_id)
        assert event is not None
        return event.state

    def works(self) -> frozenset[str]:
        """Act on all that is new; return the types of what waits."""
        return asyncio.run(self.journal.work())


@contextmanager
def reading(folder: Path, fault: RoomError, *, may: tuple[str, ...] = ("execute",)) -> Iterator[Reader]:
    """Give a test node-1, whose homeserver answers *fault* to whoever wants a medium."""
    path = folder / "cis.db"
    store, key = open_sqlite(path), Signer(new_private_key())
    with store.transaction():
        store.put_peer(
            PeerRecord(node_id="node-2", public_key=key.public_key, may=may, trusted_at_us=1, matrix_user=USER)
        )
    writer, readers = Writer(lambda: open_sqlite(path)), Readers(lambda: open_sqlite(path))
    desk = NodeDesk(
        site=Site(
            node_id="node-1",
            skills=InstalledSkills(),
            clock_us=lambda: NOW_US,
            new_id=iter(map(str, range(1, 10_000))).__next__,
        ),
        logfiles=LogFiles(folder / "logs"),
        writer=writer,
        readers=readers,
        keys=KeyFile(folder / "node.key"),
        woken=lambda _: None,
    )
    reception, media = Reception(desk, heard=lambda _: None, taken=lambda _: None), Media(fault)

    async def no_chat(_: RoomEvent) -> None:
        raise AssertionError("nobody chats here")

    journal = Journal(desk, reception, media, room_id=ROOM, me="@node-1:x", chat=no_chat)  # type: ignore[arg-type]  # all that it uses
    try:
        yield Reader(store, journal, media, key)
    finally:
        readers.close()
        writer.close()
        store.close()


@pytest.mark.parametrize("status", [403, 404, 410])
def test_an_event_whose_medium_the_homeserver_refuses_is_refused_for_good(tmp_path: Path, status: int) -> None:
    with reading(tmp_path, RoomRefusedError("no", errcode="M_NO", status=status)) as node:
        event_id = node.event(blob=True)
        waiting = node.works()
        told = [item.fields["refused"] for item in node.store.outbox_of_run("run-1")]

        assert waiting == frozenset()
        assert node.state(event_id) is JournalState.REFUSED
        assert len(told) == 1


@pytest.mark.parametrize("fault", [RoomUnreachableError("gone"), RoomRefusedError("wait", errcode="M_L", status=429)])
def test_what_has_to_wait_holds_up_nothing_behind_it(tmp_path: Path, fault: RoomError) -> None:
    """Not even 250 of them, which is more than are read at once."""
    with reading(tmp_path, fault) as node:
        stuck = [node.event(blob=True) for _ in range(250)]
        last = node.event()
        waiting = node.works()

        assert waiting == {str(MessageKind.EXECUTE)}
        assert {node.state(event_id) for event_id in stuck} == {JournalState.NEW}
        assert node.state(last) is JournalState.DONE
        assert node.store.run("run-251") is not None


@pytest.mark.parametrize("why", ["expired", "no right", "not its run"])
def test_nothing_is_fetched_for_who_may_not_say_this(tmp_path: Path, why: str) -> None:
    may = ("read",) if why == "no right" else ("execute",)
    with reading(tmp_path, RoomUnreachableError("gone"), may=may) as node:
        kind = MessageKind.STATUS if why == "not its run" else MessageKind.EXECUTE
        event_id = node.event(blob=True, expired=why == "expired", kind=kind)
        waiting = node.works()

        assert waiting == frozenset()
        assert node.state(event_id) is JournalState.REFUSED
        assert node.media.asked == []
        assert [entry.action.partition(".")[0] for entry in node.store.audit(limit=9)] == ["refused"]
