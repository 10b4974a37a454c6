"""Nodes that share a database wake each other: by messages that may be lost, merged or late, and never come back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from cis.store import Shared, open_bells
from cis.store.opening import Bells
from cis.store.postgres import bells as module
from tests.worlds.postgres import PostgresServer
from tests.worlds.waiting import wait_for

OpenBells = Callable[[], tuple[Bells, list[frozenset[str] | None]]]
LISTENERS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    """A database of its own: messages stay in it."""
    with postgres.database() as url:
        yield url


@pytest.fixture
def open_one(url: str, tmp_path: Path) -> Iterator[OpenBells]:
    """Return one node's bells, listening, and what it hears."""
    with ExitStack() as ends:

        def factory() -> tuple[Bells, list[frozenset[str] | None]]:
            heard: list[frozenset[str] | None] = []
            before = listeners(url)
            bells = open_bells(Shared(url, tmp_path), heard.append)
            assert bells is not None
            ends.callback(bells.close)  # harmless when repeated
            wait_for(lambda: len(listeners(url)) > len(before), what="who listens")
            return bells, heard

        yield factory


def listeners(url: str) -> list[int]:
    """Return the processes of the server that listen, idle."""
    with psycopg.connect(url, autocommit=True) as connection:
        return [pid for (pid,) in connection.execute(LISTENERS)]


def test_what_one_stores_the_others_hear_and_it_does_not(open_one: OpenBells) -> None:
    (mine, own), (_, first), (_, second) = open_one(), open_one(), open_one()
    mine.told_work(["worker-global"])
    for heard in (first, second):
        wait_for(lambda heard=heard: heard, what="the message")  # type: ignore[misc]

    assert first == second == [frozenset({"worker-global"})]
    assert own == []


def test_many_messages_become_few_with_all_that_they_name(open_one: OpenBells) -> None:
    (mine, _), (_, heard) = open_one(), open_one()
    names = {f"worker-project-p{number}" for number in range(300)}
    for name in names:
        mine.told_work([name])
    wait_for(lambda: frozenset().union(*filter(None, heard)) == names, what="all names")

    assert len(heard) < 30


def test_names_that_fit_in_no_message_are_left_out_and_everybody_looks(open_one: OpenBells) -> None:
    (mine, _), (_, heard) = open_one(), open_one()
    mine.told_work([f"worker-project-{'x' * 100}{number}" for number in range(100)])
    wait_for(lambda: heard, what="the message")

    assert heard == [frozenset()]


def test_what_is_only_to_be_seen_says_that_nothing_is_to_be_done(open_one: OpenBells) -> None:
    (mine, _), (_, heard) = open_one(), open_one()
    mine.told()
    wait_for(lambda: heard, what="the message")

    assert heard == [None]


def test_one_that_lost_its_connection_listens_again_and_looks_for_what_it_missed(
    open_one: OpenBells, url: str, postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    (mine, _), (_, heard) = open_one(), open_one()
    before = listeners(url)
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        for pid in before:
            connection.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    wait_for(lambda: len({*listeners(url)} - {*before}) == 2, what="new connections")
    wait_for(lambda: heard, what="the look for what was missed")
    mine.told_work(["worker-global"])
    wait_for(lambda: frozenset({"worker-global"}) in heard, what="the message")

    assert heard[0] == frozenset()
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == 2  # once each


def test_one_whose_node_fails_at_what_it_hears_hears_the_next(url: str, tmp_path: Path, open_one: OpenBells) -> None:
    heard = threading.Semaphore(0)

    def fail(_: frozenset[str] | None) -> None:
        heard.release()
        raise ValueError("broken")

    mine, _ = open_one()
    other = open_bells(Shared(url, tmp_path), fail)
    assert other is not None
    wait_for(lambda: len(listeners(url)) == 2, what="who listens")
    for _ in range(2):
        mine.told()
        assert heard.acquire(timeout=30)
    other.close()


def test_bells_that_are_closed_say_nothing_and_harm_nobody(open_one: OpenBells) -> None:
    mine, _ = open_one()
    mine.close()
    mine.told()
    mine.told_work(["worker-global"])


def test_a_store_in_a_file_has_no_such_bells(tmp_path: Path) -> None:
    assert open_bells(tmp_path / "cis.db", lambda _: None) is None
    assert module.MAX_BYTES < 8000
