"""What a node hears in its room, claims there, sends into it, and tells of the runs that came from it.

The homeserver is there only as far as it keeps blobs, or does not, and takes events.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import apsw
import httpx
import pytest

from cis.engine.accept import control
from cis.engine.accept.submit import Origin, SubmitRequest, submit
from cis.engine.logfiles import LogFiles
from cis.engine.this_node import ThisNode
from cis.engine.transitions import move_tasks
from cis.errors import RoomError, RoomRefusedError, RoomUnreachableError
from cis.federation.executing.claiming import Claimer
from cis.federation.executing.first_word import FirstWord
from cis.federation.executing.reporter import Reporter
from cis.federation.inbox import Inbox
from cis.federation.messages import INCOMPLETE, Receive
from cis.federation.origin.courier import Courier, _Line
from cis.model.message import BlobRef, Message, MessageKind, Result
from cis.model.states import Priority, RunState, TaskState
from cis.node.handle import NodeHandle
from cis.node.hub import EventHub
from cis.node.identity import KeyFile
from cis.node.store_threads import Readers, Writer
from cis.skills.registry import InstalledSkills
from cis.store import open_store
from cis.store.cluster import JournalState, OfferRecord, OfferState, PeerRecord, RemoteRole, RemoteRun, RoomEvent
from cis.store.port import Store
from cis.store.records import RunChange, RunRecord
from cis.store.sqlite.store import SqliteStore
from cis.transports.envelope import MEDIA_TYPE, SigningNode, frame, seal
from cis.transports.keys import Signer, new_private_key
from cis.transports.matrix.journal import Journal
from cis.transports.matrix.sender import RoomSender
from cis.transports.push import PushClient
from cis.transports.receiver import Receiver
from tests.worlds.deciding import spec_of
from tests.worlds.migrated import new_database
from tests.worlds.waiting import wait_for

ROOM, USER = "!room:x", "@node-2:x"
NOW_US = 1_700_000_000_000_000
SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US
RUN_ID = "run-of-node-2"

T = TypeVar("T")


@dataclass(slots=True)
class Office:
    """Node-1: its handle, with the threads behind it, a store for the test's own thread, and the time; and node-2's key."""

    handle: NodeHandle
    store: SqliteStore
    key: Signer
    now_us: int = NOW_US

    def change(self, job: Callable[[Store], T]) -> T:
        """Write something, from the test's thread."""
        with self.store.transaction():
            return job(self.store)

    def remote(self, run_id: str = RUN_ID) -> RemoteRun:
        found = self.store.remotes.get(run_id)
        assert found is not None
        return found

    def received(self, *tasks: dict[str, Any], **remote: Any) -> RunRecord:
        """Take a run of node-2 on, and begin its first task."""
        origin = Origin(node_id="node-2", run_id=RUN_ID, created_at_us=NOW_US)

        def job(store: Store) -> RunRecord:
            run = submit(store, SubmitRequest(spec=spec_of(*tasks), origin=origin), this_node=self.handle.this_node).run
            store.remotes.put(RemoteRun(run_id=RUN_ID, role=RemoteRole.RECEIVED, peer_id="node-2", **remote))
            return store.runs.change(run, RunChange(status=RunState.RUNNING, started_at_us=NOW_US))

        run = self.change(job)
        self.moves(run, "t0")
        return run

    def moves(self, run: RunRecord, task_id: str, status: TaskState = TaskState.RUNNING) -> None:
        """Change a task, as a worker would."""
        old = self.store.tasks.get(run.run_id, task_id)
        assert old is not None
        changes = [(old, old._replace(status=status, version=old.version + 1))]

        def job(store: Store) -> None:
            move_tasks(store, run, changes, at_us=NOW_US)

        self.change(job)


@contextmanager
def office(
    folder: Path, *, may: tuple[str, ...] = ("execute",), url: str | None = None, offers: bool = False
) -> Iterator[Office]:
    """Give a test node-1, which trusts node-2."""
    path = new_database(folder)
    store, key = open_store(path), Signer(new_private_key())
    peer = PeerRecord(node_id="node-2", public_key=key.public_key, may=may, trusted_at_us=1, matrix_user=USER, url=url)
    writer, readers = Writer(lambda: open_store(path)), Readers(lambda: open_store(path))
    stager = Readers(lambda: open_store(path), threads=1)
    hub = EventHub(lambda: open_store(path))
    handle = NodeHandle(
        this_node=ThisNode(
            node_id="node-1",
            skills=InstalledSkills(),
            clock_us=lambda: place.now_us,
            uptime_us=lambda: place.now_us,
            new_id=iter(map(str, range(1, 10_000))).__next__,
            has_room=True,
            offers=offers,
        ),
        events=hub,
        logs=LogFiles(folder / "logs"),
        writer=writer,
        readers=readers,
        stager=stager,
        keys=KeyFile(folder / "node.key"),
        woken=lambda _: None,
    )
    place = Office(handle, store, key)
    place.change(lambda store: store.peers.put(peer))
    try:
        yield place
    finally:
        hub.close()
        stager.close()
        readers.close()
        writer.close()
        store.close()


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
    handle: NodeHandle
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
        return self.journalled(message)

    def for_all(self, kind: MessageKind, **fields: Any) -> str:
        """Journal what node-2 says to everyone of its run, and return the event's id."""
        self.count += 1
        message = Message(
            kind=kind,
            message_id=f"m{self.count}",
            sender="node-2",
            run_id=RUN_ID,
            created_at_us=NOW_US,
            expires_at_us=NOW_US + HOUR_US,
            fields=fields,
        )
        return self.journalled(message)

    def journalled(self, message: Message) -> str:
        event_id = f"$e{self.count}"
        event = RoomEvent(
            event_id=event_id,
            room_id=ROOM,
            sender=USER,
            type=str(message.kind),
            content=seal(message, self.key, room_id=ROOM),
            sent_at_us=NOW_US,
        )
        with self.store.transaction():
            self.store.room.append([event])
        return event_id

    def state(self, event_id: str) -> JournalState:
        """Return how an event stands."""
        event = self.store.room.event(event_id)
        assert event is not None
        return event.state

    def works(self) -> frozenset[str]:
        """Act on all that is new; return the types of what waits."""
        return asyncio.run(self.journal.work())


@contextmanager
def reading(folder: Path, fault: RoomError, *, may: tuple[str, ...] = ("execute",)) -> Iterator[Reader]:
    """Give a test node-1, whose homeserver answers *fault* to whoever wants a medium."""
    with office(folder, may=may) as place:
        receiver, media = (
            Receiver(place.handle, Inbox(place.handle, taken=lambda _: None), spoke=lambda _: None),
            Media(fault),
        )

        async def no_chat(_: RoomEvent) -> None:
            raise AssertionError("nobody chats here")

        journal = Journal(place.handle, receiver, media, room_id=ROOM, me="@node-1:x", chat=no_chat)  # type: ignore[arg-type]  # all that it uses
        yield Reader(place.store, journal, media, place.key, place.handle)


def late(kind: MessageKind, *, number: int, expires_in_s: float) -> Message:
    """Return what node-2 says, whose clock is an hour late."""
    fields: dict[str, Any] = {
        "dag_id": "d",
        "scope": {"type": "global", "id": None},
        "epoch": 0,
        "tasks": [{"id": "a", "command": "true"}],
    }
    return Message(
        kind=kind,
        message_id=f"late-{number}",
        sender="node-2",
        target="node-1",
        run_id="" if kind is MessageKind.PING else "run-late",
        created_at_us=NOW_US - HOUR_US,
        expires_at_us=NOW_US - HOUR_US + round(expires_in_s * SECOND_US),
        fields={} if kind is MessageKind.PING else fields,
    )


@pytest.mark.parametrize("way", ["room", "push"])
def test_a_clock_of_which_nothing_was_known_is_known_once_its_node_has_pinged(tmp_path: Path, way: str) -> None:
    """The run expires in ten seconds, which were over an hour ago by the clock of whoever gets it."""
    with reading(tmp_path, RoomUnreachableError("gone")) as node:
        messages = [
            late(MessageKind.PING, number=1, expires_in_s=300),
            late(MessageKind.EXECUTE, number=2, expires_in_s=10),
        ]
        if way == "room":
            for message in messages:
                node.count += 1
                node.journalled(message)
            node.works()
        else:
            asyncio.run(pushed(node, messages))

        assert node.store.runs.get("run-late") is not None


async def pushed(node: Reader, messages: list[Message]) -> None:
    """Take in what was pushed, one after the other."""
    receiver = Receiver(node.handle, Inbox(node.handle, taken=lambda _: None), spoke=lambda _: None)

    async def nothing(_: BlobRef) -> bytes:
        raise AssertionError("nothing travels beside it")

    for message in messages:
        peer = node.store.peers.get("node-2")
        assert peer is not None
        await receiver.receive(message, peer, source="test", fetch=nothing)


@pytest.mark.parametrize("status", [403, 404, 410])
def test_an_event_whose_medium_the_homeserver_refuses_is_refused_for_good(tmp_path: Path, status: int) -> None:
    with reading(tmp_path, RoomRefusedError("no", errcode="M_NO", status=status)) as node:
        event_id = node.event(blob=True)
        waiting = node.works()
        told = [item.fields["refused"] for item in node.store.outbox.of_run("run-1")]

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
        assert node.store.runs.get("run-251") is not None


def test_an_event_at_which_this_program_fails_is_set_aside_and_the_next_is_acted_upon(tmp_path: Path) -> None:
    """Or every restart of the room would meet it again."""
    with reading(tmp_path, ZeroDivisionError("a fault of this program")) as node:  # type: ignore[arg-type]  # just that
        poison, good = node.event(blob=True), node.event()
        waiting = node.works()

        assert waiting == frozenset()
        assert (node.state(poison), node.state(good)) == (JournalState.REFUSED, JournalState.DONE)


def test_an_event_of_a_node_whose_row_cannot_be_read_waits_until_it_can(tmp_path: Path) -> None:
    with reading(tmp_path, RoomUnreachableError("gone")) as node:
        event_id = node.event()
        node.store._db.connection.execute("UPDATE peers SET clock_ahead_us = 9223372036854775807")
        waiting = node.works()
        state = node.state(event_id)
        node.store._db.connection.execute("UPDATE peers SET clock_ahead_us = NULL")
        later = node.works()

        assert (waiting, state) == (frozenset({str(MessageKind.EXECUTE)}), JournalState.NEW)
        assert (later, node.state(event_id)) == (frozenset(), JournalState.DONE)


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
        assert [entry.action.partition(".")[0] for entry in node.store.audit.page(limit=9)] == ["refused"]


def test_a_node_that_refuses_what_it_was_granted_says_so_under_that_grant_and_claims_it_no_more(
    tmp_path: Path,
) -> None:
    offer = {
        "dag_id": "d",
        "scope": {"type": "global", "id": None},
        "priority": "normal",
        "labels": [],
        "lease_ms": 60_000,
        "nonces": True,
        "tasks": [{"id": "a", "skill": "no-such-skill", "params": {}}],
    }
    with reading(tmp_path, RoomUnreachableError("gone")) as node:
        claims: list[str] = []
        nonces: list[Any] = []
        claimer = claiming(node.handle, claims, nonces=nonces)
        node.for_all(MessageKind.EXECUTE, epoch=0, **offer)
        node.works()
        asyncio.run(claimer._turn())
        grant = node.for_all(MessageKind.GRANT, node_id="node-1", epoch=1, lease_ms=60_000, nonce=nonces[-1])
        node.works()
        (told,) = node.store.outbox.of_run(RUN_ID)
        node.for_all(MessageKind.EXECUTE, epoch=1, **offer)
        node.works()
        asyncio.run(claimer._turn())

        assert claims == [RUN_ID]
        assert node.state(grant) is JournalState.REFUSED
        assert (told.kind, told.node_id, told.fields["epoch"]) == (MessageKind.STATUS, "node-2", 1)
        assert "no-such-skill" in told.fields["refused"]["detail"]
        assert node.store.runs.get(RUN_ID) is None


# Claims.


class SkippingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time a test can put on."""

    skipped_s = 0.0

    def time(self) -> float:
        return super().time() + self.skipped_s


def play(scenario: Coroutine[Any, Any, None]) -> None:
    """Run a test's scenario in a loop whose time can be put on (``skip``)."""
    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        runner.run(scenario)


def skip(seconds: float) -> None:
    """Put the running loop's time on."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SkippingLoop)
    loop.skipped_s += seconds


async def soon(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition while the loop runs."""
    await asyncio.to_thread(wait_for, condition, what=what)


def claiming(
    handle: SigningNode,
    claims: list[str],
    *,
    jitter: float = 0.0,
    while_sent: Callable[[], None] | None = None,
    nonces: list[Any] | None = None,
) -> Claimer:
    """Return what claims for node-1, four runs at once; *claims* are the runs that it claimed."""

    async def send(claim: Message) -> bool:
        claims.append(claim.run_id)
        if nonces is not None:
            nonces.append(claim.fields["nonce"])
        if while_sent is not None:
            while_sent()
        return True

    return Claimer(handle, labels=[], capacity=4, grace_s=1.0, send=send, jitter=lambda: jitter)


def offered(run_id: str) -> OfferRecord:
    return OfferRecord(
        run_id=run_id,
        origin_id="node-2",
        event_id=f"${run_id}",
        epoch=0,
        priority=Priority.NORMAL,
        content={"labels": [], "lease_ms": 60_000, "nonces": True},
        state=OfferState.OPEN,
        created_at_us=NOW_US,
        expires_at_us=NOW_US + HOUR_US,
        claim_at_us=NOW_US,
    )


def test_claims_that_nobody_answers_keep_a_node_from_others_only_for_a_while(tmp_path: Path) -> None:
    claims: list[str] = []
    dead, live = [f"dead-{number}" for number in range(4)], [f"live-{number}" for number in range(3)]

    async def scenario(place: Office) -> None:
        def see(run_ids: list[str]) -> None:
            with place.store.transaction():
                for run_id in run_ids:
                    place.store.offers.put(offered(run_id))

        claimer = claiming(place.handle, claims, jitter=0.9)
        see(dead)
        await claimer._turn()
        skip(0.2)  # chance is over
        await claimer._turn()
        assert sorted(claims) == dead

        see(live)
        await claimer._turn()
        skip(1)
        await claimer._turn()
        assert sorted(claims) == dead

        skip(4)
        await claimer._turn()
        assert sorted(claims) == [*dead, *live]

    with office(tmp_path) as place:
        play(scenario(place))


def test_a_claim_is_noted_as_of_before_it_was_sent(tmp_path: Path) -> None:
    """The machine may sleep while it is on its way; the lease that it brings counts from this time."""
    with office(tmp_path) as place:
        place.change(lambda store: store.offers.put(offered(RUN_ID)))
        place.now_us += 7 * SECOND_US

        def sleep() -> None:
            place.now_us += HOUR_US // 2

        asyncio.run(claiming(place.handle, [], while_sent=sleep)._turn())
        offer = place.store.offers.get(RUN_ID)

        assert offer is not None
        assert (offer.state, offer.claim_at_us) == (OfferState.CLAIMED, NOW_US + 7 * SECOND_US)


def test_an_offer_that_was_granted_while_this_node_claimed_it_stays_closed(tmp_path: Path) -> None:
    with office(tmp_path) as place:
        place.change(lambda store: store.offers.put(offered(RUN_ID)))

        def grant() -> None:
            place.change(lambda store: store.offers.set_state(RUN_ID, OfferState.CLOSED))

        asyncio.run(claiming(place.handle, [], while_sent=grant)._turn())
        offer = place.store.offers.get(RUN_ID)

        assert offer is not None
        assert offer.state is OfferState.CLOSED


# Sending.


@dataclass(slots=True)
class Takes:
    """A homeserver that takes every event; *meanwhile* happens while it does."""

    meanwhile: Callable[[], None] = lambda: None
    sent: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    async def send(self, room_id: str, *, type: str, content: Mapping[str, Any], txn_id: str) -> str:  # noqa: A002 - Matrix' word
        assert (room_id, bool(txn_id)) == (ROOM, True)
        self.meanwhile()
        self.sent.append((type, content))
        return f"$sent-{len(self.sent)}"


@dataclass(slots=True)
class Meddler:
    """A handle at which somebody else writes something just before the first transaction."""

    handle: NodeHandle
    first: Callable[[Store], object] | None

    @property
    def this_node(self) -> ThisNode:
        return self.handle.this_node

    @property
    def logs(self) -> LogFiles:
        return self.handle.logs

    @property
    def keys(self) -> KeyFile:
        return self.handle.keys

    async def read(self, function: Callable[[Store], T]) -> T:
        return await self.handle.read(function)

    async def write(self, job: Callable[[Store], T]) -> T:
        first, self.first = self.first, None
        if first is not None:
            await self.handle.write(first)
        return await self.handle.write(job)

    def wake(self, worker_ids: Iterable[str] = ()) -> None:
        self.handle.wake(worker_ids)


def sending(handle: SigningNode, client: Takes) -> RoomSender:
    return RoomSender(handle, client, room_id=ROOM, jitter=lambda: 0.0, offered=lambda: None)  # type: ignore[arg-type]  # all that it uses


@pytest.mark.parametrize(("cancelled", "count"), [(False, 1), (True, 0)])
def test_the_room_is_sent_nothing_that_was_taken_back_since_it_was_looked_at(
    tmp_path: Path, *, cancelled: bool, count: int
) -> None:
    with office(tmp_path, offers=True) as place:
        run = place.change(
            lambda store: submit(store, SubmitRequest(spec=spec_of()), this_node=place.handle.this_node).run
        )

        def cancel(store: Store) -> None:
            control.cancel(store, run.run_id, now_us=NOW_US)

        client = Takes()
        asyncio.run(sending(Meddler(place.handle, cancel if cancelled else None), client)._serve())
        stored = place.store.runs.get(run.run_id)

        assert [kind for kind, _ in client.sent] == [MessageKind.EXECUTE] * count
        assert stored is not None
        assert stored.status.final == cancelled


def test_a_run_whose_offer_cannot_be_made_fails_and_waits_for_nobody(tmp_path: Path) -> None:
    with office(tmp_path, offers=True) as place:
        run = place.change(
            lambda store: submit(store, SubmitRequest(spec=spec_of()), this_node=place.handle.this_node).run
        )
        connection = apsw.Connection(str(tmp_path / "cis.db"))
        connection.execute("UPDATE dag_definitions SET document = '{'")
        connection.close()
        client = Takes()
        asyncio.run(sending(place.handle, client)._serve())
        stored = place.store.runs.get(run.run_id)

        assert client.sent == []
        assert stored is not None
        assert stored.status is RunState.FAILED
        assert place.store.outbox.of_run(run.run_id) == []


@pytest.mark.parametrize(("cancelled", "count"), [(False, 1), (True, 0)])
def test_a_peer_is_sent_nothing_that_was_taken_back_since_it_was_looked_at(
    tmp_path: Path, *, cancelled: bool, count: int
) -> None:
    requests: list[httpx.Request] = []

    def away(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        raise httpx.ConnectError("nobody is there", request=request)

    async def scenario(handle: SigningNode) -> None:
        client = push_client(handle, transport=httpx.MockTransport(away))
        courier = Courier(handle, client, jitter=lambda: 0.0, room_takes=lambda _: False, fall_back_after_s=60.0)
        await courier._serve_some("node-2", _Line())
        await client.aclose()

    with office(tmp_path, url="http://node-2.test") as place:
        request = SubmitRequest(spec=spec_of(target_node="node-2"))
        run = place.change(lambda store: submit(store, request, this_node=place.handle.this_node).run)

        def cancel(store: Store) -> None:
            control.cancel(store, run.run_id, now_us=NOW_US)

        asyncio.run(scenario(Meddler(place.handle, cancel if cancelled else None)))
        stored = place.store.runs.get(run.run_id)

        assert len(requests) == count
        assert stored is not None
        assert stored.status.final == cancelled


def test_an_offer_that_was_cancelled_while_it_was_sent_is_not_kept_as_one(tmp_path: Path) -> None:
    with office(tmp_path, offers=True) as place:
        run = place.change(
            lambda store: submit(store, SubmitRequest(spec=spec_of()), this_node=place.handle.this_node).run
        )

        def cancel() -> None:
            place.change(lambda store: control.cancel(store, run.run_id, now_us=NOW_US))

        asyncio.run(sending(place.handle, Takes(meanwhile=cancel))._serve())

        assert place.store.offers.get(run.run_id) is None
        assert [item.kind for item in place.store.outbox.of_run(run.run_id)] == []


def said(*, suspended: bool = False) -> Message:
    """Return a status message of the run that node-1 holds."""
    return Message(
        kind=MessageKind.STATUS,
        message_id="s",
        sender="node-1",
        target="node-2",
        run_id=RUN_ID,
        created_at_us=NOW_US,
        expires_at_us=NOW_US + HOUR_US,
        fields={"suspended": True} if suspended else {},
    )


LEASED: dict[str, Any] = {
    "epoch": 1,
    "event_id": "$offer",
    "lease_us": 60 * SECOND_US,
    "lease_until_us": NOW_US + 60 * SECOND_US,
}


@pytest.mark.parametrize("suspended", [False, True])
def test_a_homeserver_that_took_a_status_renews_no_lease(tmp_path: Path, *, suspended: bool) -> None:
    with office(tmp_path) as place:
        place.received(**LEASED)
        place.now_us += 10 * SECOND_US
        before = place.remote()
        sent = asyncio.run(sending(place.handle, Takes()).send_status(said(suspended=suspended), place.remote()))

        assert sent
        assert place.remote() == before


# Reports.


@dataclass(slots=True)
class Ear:
    """The room as a reporter has it: takes what it is told, the first reports when their *gates* are open."""

    told: list[Message] = field(default_factory=list)
    gates: list[asyncio.Event] = field(default_factory=list)

    async def __call__(self, message: Message, _: RemoteRun) -> bool:
        self.told.append(message)
        number = len(self.told) - 1
        if number < len(self.gates):
            await self.gates[number].wait()
        return True

    @property
    def epochs(self) -> list[int]:
        return [message.fields["epoch"] for message in self.told]

    @property
    def tasks(self) -> list[list[str]]:
        """Return, of each report, the tasks that it told."""
        return [[task["id"] for task in message.fields["report"]["tasks"]] for message in self.told]


async def quiet(reporter: Reporter) -> None:
    """Have a reporter look, and wait until all that was due is told."""
    reporter.wake()
    loop = asyncio.get_running_loop()

    def is_quiet() -> bool:
        telling = reporter._open.get(RUN_ID)
        return telling is not None and not telling.busy and telling.due_s > loop.time()

    await soon(is_quiet, "the reporter to be done")


def push_client(handle: SigningNode, *, transport: httpx.AsyncBaseTransport | None = None) -> PushClient:
    """Return what sends for a node by HTTP."""
    return PushClient(signer=handle.keys.signer, clock_us=handle.this_node.clock_us, transport=transport)


@contextmanager
def reporting(place: Office, client: PushClient, ear: Ear | None) -> Iterator[Reporter]:
    """Let a reporter serve, in the running loop."""
    reporter = Reporter(
        place.handle,
        client,
        jitter=lambda: 0.0,
        receive=cast(Receive, None),
        first_word=FirstWord(place.store, clock_s=time.monotonic),
    )
    reporter.to_room = ear
    service = asyncio.ensure_future(reporter.run())
    try:
        yield reporter
    finally:
        service.cancel()


def test_the_room_is_told_nothing_that_is_no_news_but_for_the_renewal_of_a_lease(tmp_path: Path) -> None:
    async def scenario(place: Office) -> None:
        ear = Ear()
        with reporting(place, push_client(place.handle), ear) as reporter:
            await soon(lambda: ear.told, "the first report")
            await quiet(reporter)
            for _ in range(12):
                skip(1.2)  # the run goes on, so it is looked at once a second
                assert reporter._open[RUN_ID].due_s <= asyncio.get_running_loop().time()
                await quiet(reporter)
            assert ear.tasks == [["t0"]]

            skip(1.2)  # a quarter of the lease
            await quiet(reporter)
            assert ear.tasks == [["t0"], []]
            nonces = [message.fields.get("nonce") for message in ear.told]
            assert None not in nonces
            assert len(set(nonces)) == len(nonces)

    with office(tmp_path) as place:
        place.received(**LEASED)
        play(scenario(place))


def test_a_run_without_a_lease_is_told_of_in_the_room_only_when_something_changed(tmp_path: Path) -> None:
    async def scenario(place: Office) -> None:
        ear = Ear()
        with reporting(place, push_client(place.handle), ear) as reporter:
            await soon(lambda: ear.told, "the first report")
            await quiet(reporter)
            for _ in range(3):
                skip(30)
                await quiet(reporter)
            assert ear.tasks == [["t0"]]

            place.moves(first, "t1")
            reporter.wake()
            await soon(lambda: len(ear.told) > 1, "the second report")
            assert ear.tasks == [["t0"], ["t1"]]

    with office(tmp_path) as place:
        first = place.received({}, {}, event_id="$execute")
        play(scenario(place))


def test_a_run_that_is_granted_anew_is_told_from_its_beginning_under_the_new_grant(tmp_path: Path) -> None:
    async def scenario(place: Office) -> None:
        ear = Ear()
        with reporting(place, push_client(place.handle), ear) as reporter:
            await soon(lambda: ear.told, "the first report")
            await quiet(reporter)
            place.change(lambda store: store.remotes.put(replace(place.remote(), epoch=2)))
            reporter.add(RUN_ID)
            await soon(lambda: len(ear.told) > 1, "the second report")

            assert ear.epochs == [1, 2]
            assert ear.tasks == [["t0"], ["t0"]]

    with office(tmp_path) as place:
        place.received(**LEASED)
        play(scenario(place))


def test_the_end_that_was_on_its_way_under_the_old_grant_does_not_count_under_the_new_one(tmp_path: Path) -> None:
    async def scenario(place: Office) -> None:
        ear = Ear(gates=[asyncio.Event(), asyncio.Event()])
        with reporting(place, push_client(place.handle), ear) as reporter:
            await soon(lambda: ear.told, "the first report")
            (first,) = reporter._tasks
            place.change(lambda store: store.remotes.put(replace(place.remote(), epoch=2)))
            reporter.add(RUN_ID)
            await soon(lambda: len(ear.told) > 1, "the second report")
            ear.gates[0].set()
            await first
            assert RUN_ID in reporter._open
            assert place.remote().open

            ear.gates[1].set()
            await soon(lambda: not place.remote().open, "the end to be told")
            assert ear.epochs == [1, 2]

    with office(tmp_path) as place:
        begun = place.received(**LEASED)
        place.moves(begun, "t0", TaskState.COMPLETED)
        over = RunChange(status=RunState.COMPLETED, finished_at_us=NOW_US)
        place.change(lambda store: store.runs.change(begun, over))
        play(scenario(place))


class Body(httpx.AsyncByteStream):
    """A body that is read as it comes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._data


def test_an_origin_that_lacks_something_is_told_all_of_it_again(tmp_path: Path) -> None:
    told: list[list[str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content.partition(b"\n")[0])
        told.append([task["id"] for task in asked["report"]["tasks"]])
        lacks = len(told) == 2
        reply = Message(
            kind=MessageKind.ANSWER,
            message_id="a",
            sender="node-2",
            target="node-1",
            created_at_us=NOW_US,
            expires_at_us=NOW_US + HOUR_US,
            fields={
                "reply_to": asked["message_id"],
                "result": str(Result.LATER if lacks else Result.ACCEPTED),
                "code": INCOMPLETE if lacks else "",
                "detail": "",
            },
        )
        body = frame(seal(reply, place.key), reply)
        return httpx.Response(200, headers={"Content-Type": MEDIA_TYPE}, stream=Body(body))

    async def scenario() -> None:
        client = push_client(place.handle, transport=httpx.MockTransport(answer))
        with reporting(place, client, None) as reporter:
            await soon(lambda: told, "the first report")
            await quiet(reporter)
            place.moves(first, "t1")
            reporter.wake()
            await soon(lambda: len(told) > 1, "the second report")
            skip(1)
            reporter.wake()
            await soon(lambda: len(told) > 2, "the third report")
        await client.aclose()

    with office(tmp_path, url="http://node-2.test") as place:
        first = place.received({}, {})
        play(scenario())

        assert told[:3] == [["t0"], ["t1"], ["t0", "t1"]]
