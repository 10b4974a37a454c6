"""Nodes that share a database: what one of them stores, the other's workers and watchers hear of."""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from cis.node.home import Home
from cis.node.node import Node
from cis.node.settings import load_settings
from cis.worker.bell import FifoBell, WatchBell, bell_path
from tests.worlds.postgres import PostgresServer
from tests.worlds.waiting import wait_for

SOON_S = 30.0  # nothing looks by itself so seldom


@pytest.fixture
def nodes(postgres: PostgresServer, tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    """Two nodes of one database, which listen."""
    with ExitStack() as ends:
        url = ends.enter_context(postgres.database())
        made = []
        for name in ("a", "b"):
            home = Home(tmp_path / name, url)
            settings = load_settings(home, environ={"CIS_NODE_ID": name})
            made.append(ends.enter_context(Node(home, settings)))
        with psycopg.connect(url, autocommit=True) as connection:
            asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
            wait_for(lambda: connection.execute(asked).fetchone() == (2,), what="both to listen")
        yield made[0], made[1]


def test_a_worker_of_another_node_is_rung_when_it_has_something_to_do(nodes: tuple[Node, Node]) -> None:
    mine, other = nodes
    bell = FifoBell(bell_path(other.home.run, "worker-project-p"))
    mine.wake(["worker-project-p"])
    rung, _, _ = select.select([bell.fileno()], [], [], SOON_S)
    bell.close()

    assert rung


def test_who_watches_at_another_node_is_woken_by_what_is_stored_here(nodes: tuple[Node, Node]) -> None:
    mine, other = nodes
    with WatchBell(other.home.run, "me") as bell:
        assert bell._bell is not None
        mine._told()
        rung, _, _ = select.select([bell._bell.fileno()], [], [], SOON_S)

    assert rung


def test_nodes_that_hear_each_other_do_not_tell_back_what_they_heard(nodes: tuple[Node, Node]) -> None:
    mine, other = nodes
    heard: list[object] = []
    tell = mine._tell
    mine._tell = lambda: heard.append(tell())  # type: ignore[method-assign]
    bell = FifoBell(bell_path(other.home.run, "worker-project-p"))
    for _ in range(3):
        mine.wake(["worker-project-p"])
        assert select.select([bell.fileno()], [], [], SOON_S)[0]
        bell.drain()
    bell.close()
    fence = FifoBell(bell_path(mine.home.run, "worker-project-p"))
    other.wake(["worker-project-p"])
    assert select.select([fence.fileno()], [], [], SOON_S)[0]
    wait_for(lambda: len(heard) >= 4, what="the fence")
    fence.close()

    assert len(heard) == 4  # its own, and the fence
