"""A row about other nodes that cannot be read is left out and reported; it never stops what goes on around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from cis.errors import PoisonRecordError
from cis.store import open_store
from cis.store.cluster import OfferState, RemoteRole, RemoteRun, Route
from cis.store.sqlite.store import SqliteStore
from tests.worlds.cluster_rows import event, message, offer, peer
from tests.worlds.migrated import new_database
from tests.worlds.rows import put_run

BROKEN_TEXT = "CAST(x'ff61' AS TEXT)"
DEEP = "'" + "[" * 100_000 + "'"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """A store with two rows of each kind."""
    store = open_store(new_database(tmp_path))
    for number in (1, 2):
        put_run(store, f"r{number}")
        with store.transaction():
            store.peers.put(peer(f"n{number}"))
            store.outbox.add(message(f"m{number}"))
            store.remotes.put(RemoteRun(run_id=f"r{number}", role=RemoteRole.SENT, peer_id="n2"))
            store.room.append([event(number)])
            store.offers.put(offer(f"r{number}"))
    yield store
    store.close()


def due(store: SqliteStore) -> list[str]:
    return [one.message_id for one in store.outbox.due(Route.PUSH, now_us=10, limit=9)]


def opened(store: SqliteStore) -> list[str]:
    return [one.run_id for one in store.remotes.open(RemoteRole.SENT)]


def news(store: SqliteStore) -> list[str]:
    return [one.event_id for one in store.room.new_events(limit=9)]


def offers(store: SqliteStore) -> list[str]:
    return [one.run_id for one in store.offers.in_state(OfferState.OPEN, limit=9)]


def trusted(store: SqliteStore) -> list[str]:
    return [one.node_id for one in store.peers.all()]


@pytest.mark.parametrize(
    ("change", "ask", "rest"),
    [
        ("outbox SET fields = '{' WHERE message_id = 'm1'", due, ["m2"]),
        ("outbox SET fields = '[1]' WHERE message_id = 'm1'", due, ["m2"]),
        ("outbox SET priority = 7 WHERE message_id = 'm1'", due, ["m2"]),
        (f"outbox SET fault = {BROKEN_TEXT} WHERE message_id = 'm1'", due, ["m2"]),
        (f"remote_runs SET peer = {BROKEN_TEXT} WHERE run_id = 'r1'", opened, ["r2"]),
        ("room_events SET content = '{' WHERE event_id = '$e1'", news, ["$e2"]),
        (f"room_events SET content = {DEEP} WHERE event_id = '$e1'", news, ["$e2"]),
        (f"room_events SET content = {BROKEN_TEXT} WHERE event_id = '$e1'", news, ["$e2"]),
        ("offers SET content = '7' WHERE run_id = 'r1'", offers, ["r2"]),
        (f"peers SET url = {BROKEN_TEXT} WHERE node_id = 'n1'", trusted, ["n2"]),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_a_list_leaves_out_the_row_that_cannot_be_read_and_says_so(
    store: SqliteStore,
    change: str,
    ask: Callable[[SqliteStore], Sequence[str]],
    rest: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with store.transaction():
        assert store._db.write(f"UPDATE {change}") == 1

    assert ask(store) == rest
    assert "a row was left out" in caplog.messages


def test_one_row_that_cannot_be_read_is_named_by_the_error(store: SqliteStore) -> None:
    with store.transaction():
        store._db.write("UPDATE remote_runs SET role = 'odd'")
        store._db.write("UPDATE offers SET content = '{'")
        store._db.write("UPDATE room_events SET state = 'odd'")

    with pytest.raises(PoisonRecordError, match="remote run 'r1'"):
        store.remotes.get("r1")
    with pytest.raises(PoisonRecordError, match="offer 'r1'"):
        store.offers.get("r1")
    with pytest.raises(PoisonRecordError, match=r"room event '\$e1'"):
        store.room.event("$e1")
