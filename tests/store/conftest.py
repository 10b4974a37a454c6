"""Every store, each test with a new one. A further database joins by one more factory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cis import store as stores
from cis.store.opening import Address, Shared
from cis.store.port import Store
from tests.worlds.migrated import new_database

OpenStore = Callable[[], Store]


@pytest.fixture(params=["sqlite", "postgres"])
def open_store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[OpenStore]:
    """Open the test's database once more; all are closed in the end."""
    opened: list[Store] = []
    with ExitStack() as ends:
        address: Address = tmp_path / "cis.db"
        if request.param == "postgres":
            address = Shared(ends.enter_context(request.getfixturevalue("postgres").database()), tmp_path)
        else:
            new_database(tmp_path)

        def factory() -> Store:
            opened.append(stores.open_store(address))
            return opened[-1]

        yield factory
        for store in opened:
            store.close()


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    """An empty store."""
    return open_store()
