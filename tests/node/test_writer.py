"""The writer: grouped, durable before it answers, one failing job alone, bounded."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path

import pytest

from cis.errors import NotFoundError, OverloadedError, StoreError
from cis.node import store_threads as writer_module
from cis.node.store_threads import Writer
from cis.store import open_store
from cis.store.port import Store
from cis.store.sqlite.connection import GAP_S, LONGEST_PAUSE_S, Database
from cis.store.sqlite.store import SqliteStore
from tests.worlds.writing import CountingStore, audit, held, subjects


def test_an_answer_means_that_it_is_committed(database: Path) -> None:
    writer = Writer(lambda: open_store(database))

    result = writer.submit(lambda store: audit(store, "x")).result(10)

    assert result == "x"
    assert subjects(database) == {"x"}
    writer.close()


def test_what_gathers_while_the_writer_is_busy_shares_one_transaction(database: Path) -> None:
    CountingStore.transactions = 0
    writer = Writer(lambda: CountingStore(Database(database)))
    with held(writer):
        futures = [writer.submit(partial(audit, subject=str(number))) for number in range(50)]

    assert [future.result(10) for future in futures] == [str(number) for number in range(50)]
    assert CountingStore.transactions == 2
    writer.close()


def test_a_job_that_fails_undoes_itself_alone(database: Path) -> None:
    writer = Writer(lambda: open_store(database))

    def refused(store: Store) -> None:
        audit(store, "half done")
        raise NotFoundError("run", "x")

    with held(writer):
        before = writer.submit(lambda store: audit(store, "before"))
        failing = writer.submit(refused)
        after = writer.submit(lambda store: audit(store, "after"))

    assert (before.result(10), after.result(10)) == ("before", "after")
    with pytest.raises(NotFoundError):
        failing.result(10)
    assert subjects(database) == {"before", "after"}
    writer.close()


def test_when_the_database_fails_in_one_job_the_others_are_done_without_it(database: Path) -> None:
    writer = Writer(lambda: open_store(database))

    def broken(store: Store) -> None:
        audit(store, "half done")
        assert isinstance(store, SqliteStore)
        store._db.connection.execute("ROLLBACK")
        raise StoreError("the disk is full")

    with held(writer):
        before = writer.submit(lambda store: audit(store, "before"))
        failing = writer.submit(broken)
        after = writer.submit(lambda store: audit(store, "after"))

    assert (before.result(10), after.result(10)) == ("before", "after")
    with pytest.raises(StoreError, match="disk is full"):
        failing.result(10)
    assert subjects(database) == {"before", "after"}
    writer.close()


def test_when_the_commit_fails_every_job_of_the_group_fails_and_nothing_is_written(database: Path) -> None:
    writer = Writer(lambda: CountingStore(Database(database)))

    def doomed(store: Store) -> str:
        assert isinstance(store, CountingStore)
        store.fail_commit = True
        return audit(store, "x")

    with held(writer):
        futures = [writer.submit(doomed) for _ in range(3)]
    errors = [future.exception(10) for future in futures]

    assert [str(error) for error in errors] == ["the disk is full"] * 3
    assert subjects(database) == set()
    writer.close()


def test_between_two_groups_others_get_the_write_lock(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers write beside a node that never stops taking in submissions."""
    monkeypatch.setattr(writer_module, "MAX_GROUP", 2)
    writer, other = Writer(lambda: open_store(database)), open_store(database)
    done = [writer.submit(lambda _: threading.Event().wait(0.005)) for _ in range(300)]
    done[0].result()
    waited: list[int] = []
    for number in range(10):
        threading.Event().wait(0.015)
        before = sum(future.done() for future in done)
        with other.transaction():
            audit(other, str(number))
        waited.append(sum(future.done() for future in done) - before)
    writer.close()
    other.close()

    assert max(waited) <= 20


def test_no_wait_for_the_write_lock_is_as_long_as_the_gap_between_two_groups() -> None:
    assert LONGEST_PAUSE_S < GAP_S


def test_a_full_queue_refuses_and_says_when_to_come_back(database: Path) -> None:
    writer = Writer(lambda: open_store(database), max_waiting=2)
    with held(writer):
        accepted = [writer.submit(lambda store: audit(store, "x")) for _ in range(2)]
        with pytest.raises(OverloadedError) as caught:
            writer.submit(lambda store: audit(store, "y")).result(0)

    assert caught.value.retry_after_s > 0
    assert [future.result(10) for future in accepted] == ["x", "x"]
    writer.close()


def test_closing_does_what_waits_and_takes_nothing_more(database: Path) -> None:
    writer = Writer(lambda: open_store(database))
    with held(writer) as go:
        futures = [writer.submit(partial(audit, subject=str(number))) for number in range(5)]
        closer = threading.Thread(target=writer.close)
        closer.start()
        go.set()
        closer.join(10)

    assert {future.result(0) for future in futures} == subjects(database) == set("01234")
    assert not writer.alive
    with pytest.raises(OverloadedError):
        writer.submit(lambda store: audit(store, "late")).result(0)


def test_a_store_that_cannot_be_opened_is_told_where_the_writer_is_made(tmp_path: Path) -> None:
    (tmp_path / "cis.db").write_bytes(b"this is no database at all, but long enough to be looked at" * 50)

    with pytest.raises(StoreError):
        Writer(lambda: open_store(tmp_path / "cis.db"))
