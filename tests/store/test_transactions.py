"""What every store promises about its transactions."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from cis.errors import StoreBusyError, StoreError, StoreRefusedError
from cis.store.port import Store
from cis.store.records import EventRecord
from cis.store.sqlite.store import SqliteStore
from tests.worlds.rows import definition, put_run, run


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

    def test_after_a_row_was_refused_a_savepoint_around_it_gives_the_transaction_back(self, store: Store) -> None:
        put_run(store, "r")
        with store.transaction():
            store.definitions.put(definition("before"))
            with pytest.raises(StoreRefusedError), store.savepoint():
                store.runs.add(run("r"), [])
            store.definitions.put(definition("after"))

        assert None not in [store.definitions.current(name) for name in ("before", "after")]

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

    def test_one_that_may_not_wait_is_refused_at_once_and_the_next_one_waits_again(
        self, open_store: Callable[[], Store]
    ) -> None:
        one, other = open_store(), open_store()
        if not isinstance(one, SqliteStore):
            pytest.skip("nobody waits to begin a transaction there")
        other.wait_at_most(0.05)
        with one.transaction():
            with pytest.raises(StoreBusyError), other.transaction(wait=False):
                pass
            waited = [other.waited]
            with pytest.raises(StoreBusyError), other.transaction():
                pass
            waited.append(other.waited)
        with other.transaction(wait=False):
            other.definitions.put(definition())

        assert waited == [False, True]
        assert one.definitions.current("d") is not None

    def test_whoever_waits_for_what_another_holds_gives_up_in_time_with_nothing_done(
        self, open_store: Callable[[], Store]
    ) -> None:
        one, other = open_store(), open_store()
        other.wait_at_most(0.05)
        with one.transaction():
            one.runs.by_key("k")
            with pytest.raises(StoreBusyError), other.transaction():
                other.definitions.put(definition())
                other.runs.by_key("k")
        with other.transaction():
            other.runs.by_key("k")

        assert one.definitions.current("d") is None


class TestEvents:
    def test_a_part_that_is_undone_takes_no_event_of_before_with_it(self, open_store: Callable[[], Store]) -> None:
        store = open_store()
        with store.transaction():
            store.events.append([event("before")])
            with pytest.raises(RuntimeError), store.savepoint():
                store.events.append([event("within")])
                assert store.events.last_seq() == 2
                raise RuntimeError
            store.events.append([event("after")])

        assert [each.status for each in store.events.after(0, limit=9)] == ["before", "after"]

    def test_what_was_told_before_tasks_were_cancelled_comes_before_that(self, open_store: Callable[[], Store]) -> None:
        store = open_store()
        put_run(store, "r1")
        with store.transaction():
            store.events.append([event("before")])
            store.tasks.cancel_unfinished("r1", now_us=9)
            store.events.append([event("after")])

        assert [each.status for each in store.events.after(0, limit=9)] == ["before", *["cancelled"] * 2, "after"]


def event(status: str) -> EventRecord:
    """Return an event of a run."""
    return EventRecord(seq=0, at_us=1, kind="run", status=status, run_id="r")


def tells_whose(store: Store) -> bool:
    """Whether a store knows its own writes from others': the port asks no more of it than to err on the safe side."""
    return isinstance(store, SqliteStore)


class TestOthersWrites:
    def test_they_are_counted_within_a_transaction_and_without(self, open_store: Callable[[], Store]) -> None:
        one, other = open_store(), open_store()
        seen = [one.others_writes()]
        for number, store in enumerate((one, other, one, one, other)):
            with store.transaction():
                if store is one:
                    seen.append(one.others_writes())
                store.definitions.put(definition(f"d{number}"))
            seen.append(one.others_writes())
        grew = [later > earlier for earlier, later in pairwise(seen)]

        must_grow = [False, False, True, False, False, False, False, True]
        assert grew == (must_grow if tells_whose(one) else [True] * len(grew))

    def test_what_came_before_a_transaction_counts_although_only_a_read_saw_it(
        self, open_store: Callable[[], Store]
    ) -> None:
        one, other = open_store(), open_store()
        before = one.others_writes()
        with other.transaction():
            other.definitions.put(definition())
        one.definitions.current("d")
        with one.transaction():
            inside = one.others_writes()

        assert inside > before
        assert not tells_whose(one) or before == one.others_writes() - 1

    def test_what_this_connection_undoes_is_nobody_elses(self, open_store: Callable[[], Store]) -> None:
        one = open_store()
        before = one.others_writes()
        with pytest.raises(RuntimeError), one.transaction():
            one.definitions.put(definition())
            raise RuntimeError
        with one.transaction():
            one.definitions.put(definition())

        assert not tells_whose(one) or one.others_writes() == before
