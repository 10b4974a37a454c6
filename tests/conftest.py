"""Settings of all tests."""

from __future__ import annotations

import gc
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.worlds.homeserver import Homeserver, running_homeserver
from tests.worlds.migrated import MEMORY, new_database
from tests.worlds.postgres import PostgresServer, running_postgres
from tests.worlds.serving import NodeUnderTest, node_under_test

TESTS = Path(__file__).parent
ROOM_BYTES = 4 * 2**30  # a whole run leaves some hundred MiB
LONGEST_FIRST = ("chaos", "acceptance", "store", "federation", "engine", "executors", "worker", "transports", "api")

# A busy machine is no fault of the code: time is limited by pytest-timeout alone.
settings.register_profile("cis", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("cis")


def pytest_configure() -> None:
    """Have the folders of the tests in memory where there is room: what is flushed to a disk takes half of their time.

    What whoever starts the tests ignores (``nohup``, a build server) is no signal that the commands of a test ignore.
    """
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if MEMORY.is_dir() and os.access(MEMORY, os.W_OK):
        found = os.statvfs(MEMORY)
        if found.f_bavail * found.f_frsize >= ROOM_BYTES and not found.f_flag & os.ST_NOEXEC:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where workers share the files, hand out the long ones first, so that no worker ends long after the other.

    In the folders of ``LONGEST_FIRST`` a file takes as long as its processes live, and one of few tests as long as any.
    """
    if not hasattr(config, "workerinput"):
        return
    tests = Counter(item.path for item in items)

    def place(item: pytest.Item) -> tuple[int, int, str]:
        folder = item.path.relative_to(TESTS).parts[0]
        rank = LONGEST_FIRST.index(folder) if folder in LONGEST_FIRST else len(LONGEST_FIRST)
        return rank, -tests[item.path], str(item.path)

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Spare the garbage collector what is there to the end: it would look at all tests again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def homeserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Homeserver]:
    """Give the tests of a worker of pytest-xdist a homeserver without limits; who ends it starts it again."""
    with running_homeserver(tmp_path_factory.mktemp("homeserver")) as homeserver:
        yield homeserver


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Give the tests of a worker of pytest-xdist a PostgreSQL server."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeUnderTest]:
    """Give the test a node without workers, behind the real API."""
    with node_under_test(tmp_path) as node:
        yield node


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Where the writer's store is."""
    return new_database(tmp_path)
