"""What every store promises about its transactions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cis.errors import (
    StoreError,
)
from cis.store.port import Store
from cis.store.records import (
    EventRecord,
)
from tests.worlds.rows import definition


class TestTransaction:
    def test_a_transaction_that_raises_leaves_nothing_behind(self, store: Store) -> None:
        with pytest.raises(RuntimeError), store.transaction():
            store.definitions.put(definition())
            raise RuntimeError

        assert store.definitions.current("d") is None

    def test_a_savepoint_that_raises_undoes_itself_alone(self, store: Store) -> None:
        with store.transaction():
            store.definitions.put(definition("kept"))
            with pytest.raises(RuntimeError), store.savepoint():
                store.definitions.put(definition("undone"))
                raise RuntimeError

        assert store.definitions.current("kept") is not None
        assert store.definitions.current("undone") is None

    def test_nothing_can_be_written_outside_of_a_transaction(self, store: Store) -> None:
        with pytest.raises(StoreError, match="outside of a transaction"):
            store.definitions.put(definition())
        with pytest.raises(StoreError, match="outside of a transaction"):
            store.events.append([EventRecord(kind="run", at_us=1, status="x")])

        assert store.definitions.current("d") is None
        assert store.events.last_seq() == 0

    def test_another_connection_sees_what_was_committed_and_only_that(self, open_store: Callable[[], Store]) -> None:
        one, other = open_store(), open_store()
        with one.transaction():
            one.definitions.put(definition())
            assert other.definitions.current("d") is None

        assert other.definitions.current("d") is not None
