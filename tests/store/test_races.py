"""What is checked and then written in one transaction, by two at once: each check of the port, on every store.

Two threads, each with a store of its own, meet in the middle: both have begun, or one waits for the other to commit.
Whatever the order, the outcome has to be one that some order of the two alone would have.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cis.errors import CisError, ConflictError, FencedError
from cis.model.states import RunState
from cis.store.access_records import TokenRecord
from cis.store.cluster import OfferState, PeerRecord
from cis.store.port import Store
from cis.store.records import EventRecord, QueueState, RunChange, WorkerState
from tests.worlds.cluster_rows import offer
from tests.worlds.rows import WORKER, definition, item, put_queued, put_run, run, worker

ROUNDS = 2
PAGE = Path(__file__).parents[2] / "docs/explanation/stores.md"
Work = Callable[[Store, Callable[[], None]], Any]


def both(open_store: Callable[[], Store], *works: Work) -> list[Any]:
    """Do each work in a transaction, all at once; each calls the function that it is given when it has read.

    That one waits until the others have read as well, or wait for a lock: a moment at most.
    """
    met = threading.Barrier(len(works))
    results: list[Any] = [None] * len(works)

    def meet() -> None:
        try:
            met.wait(timeout=0.05)
        except threading.BrokenBarrierError:
            return  # another one waits for what this one holds

    def do(number: int, work: Work) -> None:
        store = open_store()
        try:
            with store.transaction():
                results[number] = work(store, meet)
        except CisError as error:
            results[number] = error
        finally:
            store.close()

    threads = [threading.Thread(target=do, args=each) for each in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    return results


class TestRaces:
    @pytest.fixture(autouse=True, params=range(ROUNDS))
    def _again(self) -> None:
        """Each of them some times: the two may meet in another order."""

    def test_two_take_the_last_place_of_the_queue_and_one_gets_it(self, open_store: Callable[[], Store]) -> None:
        store = open_store()
        for run_id in ("r1", "r2"):
            put_run(store, run_id)

        def submit(run_id: str) -> Work:
            def work(mine: Store, meet: Callable[[], None]) -> bool:
                count = mine.queue.waiting_count("n")
                meet()
                if count == 0:
                    mine.queue.add("n", item(run_id))
                return count == 0

            return work

        assert sorted(both(open_store, submit("r1"), submit("r2"))) == [False, True]
        assert store.queue.waiting_count("n") == 1

    def test_two_submit_under_one_idempotency_key_and_one_finds_the_run_of_the_other(
        self, open_store: Callable[[], Store]
    ) -> None:
        store = open_store()
        with store.transaction():
            number = store.definitions.put(definition())

        def submit(run_id: str) -> Work:
            def work(mine: Store, meet: Callable[[], None]) -> str:
                found = mine.runs.by_key("k")
                meet()
                if found is None:
                    mine.runs.add(run(run_id, idempotency_key="k", definition_id=number), [])
                return found.run_id if found else run_id

            return work

        first, second = both(open_store, submit("r1"), submit("r2"))
        assert first == second

    def test_two_take_a_worker_id_and_the_later_one_holds_it(self, open_store: Callable[[], Store]) -> None:
        def take(mine: Store, meet: Callable[[], None]) -> int:
            meet()
            return mine.workers.take(worker()).epoch

        assert sorted(both(open_store, take, take)) == [1, 2]

    def test_nobody_takes_a_worker_id_in_the_middle_of_a_turn(self, open_store: Callable[[], Store]) -> None:
        store = open_store()
        put_queued(store, "r1")
        with store.transaction():
            store.workers.take(worker())

        def turn(mine: Store, meet: Callable[[], None]) -> int:
            mine.workers.check_epoch("n", WORKER, 1)
            meet()
            return len(mine.queue.claim("n", WORKER, epoch=1, limit=1))

        def take(mine: Store, meet: Callable[[], None]) -> int:
            meet()
            taken = mine.workers.take(worker())
            return len(mine.queue.hand_over("n", WORKER, epoch=taken.epoch))

        claimed, handed = both(open_store, turn, take)
        assert (claimed, handed) == (1, 1) or (isinstance(claimed, FencedError) and handed == 0)

    def test_a_parent_that_is_parked_while_its_child_ends_is_queued_in_the_end(
        self, open_store: Callable[[], Store]
    ) -> None:
        store = open_store()
        put_queued(store, "parent")
        child = put_run(store, "child", parent_run_id="parent", parent_task_id="t0", status=RunState.RUNNING)
        with store.transaction():
            store.queue.claim("n", WORKER, epoch=1, limit=1)

        def park(mine: Store, meet: Callable[[], None]) -> None:
            mine.queue.move("parent", QueueState.PARKED, only=QueueState.CLAIMED)
            found = mine.runs.get("child")
            meet()
            if found is None or found.status.final:
                mine.queue.move("parent", QueueState.QUEUED, only=QueueState.PARKED)

        def end(mine: Store, meet: Callable[[], None]) -> None:
            mine.runs.change(child, RunChange(status=RunState.COMPLETED, finished_at_us=1))
            meet()

        assert both(open_store, park, end) == [None, None]
        place = store.queue.get("parent")
        assert place is not None
        assert place.status is QueueState.QUEUED

    def test_two_workers_claim_each_run_once(self, open_store: Callable[[], Store]) -> None:
        store = open_store()
        put_queued(store, "r1", "r2", "r3")

        def claim(mine: Store, meet: Callable[[], None]) -> list[str]:
            mine.workers.take(worker())
            meet()
            return [each.run_id for each in mine.queue.claim("n", WORKER, epoch=1, limit=3)]

        first, second = both(open_store, claim, claim)
        assert sorted([*first, *second]) == ["r1", "r2", "r3"]

    def test_a_worker_that_beats_and_one_who_declares_it_dead_agree(self, open_store: Callable[[], Store]) -> None:
        store = open_store()
        with store.transaction():
            store.workers.take(worker())

        def bury(mine: Store, meet: Callable[[], None]) -> bool:
            found = mine.workers.get("n", WORKER)
            meet()
            return found is not None and mine.workers.set_status(
                "n", WORKER, epoch=1, status=WorkerState.DEAD, now_us=9
            )

        def turn(mine: Store, meet: Callable[[], None]) -> bool:
            mine.workers.check_epoch("n", WORKER, 1)
            meet()
            return True

        buried, turned = both(open_store, bury, turn)
        assert buried is True
        assert turned is True or isinstance(turned, FencedError)

    def test_a_run_is_withdrawn_before_it_comes_or_it_is_there(self, open_store: Callable[[], Store]) -> None:
        store = open_store()
        with store.transaction():
            number = store.definitions.put(definition())

        def accept(mine: Store, meet: Callable[[], None]) -> bool:
            refused = mine.remotes.withdrawn("r1", sender="origin")
            meet()
            if not refused:
                mine.runs.add(run("r1", definition_id=number), [])
            return refused

        def withdraw(mine: Store, meet: Callable[[], None]) -> bool:
            mine.remotes.withdraw("r1", sender="origin", expires_at_us=9)
            meet()
            return mine.runs.get("r1") is None

        refused, before = both(open_store, accept, withdraw)
        assert refused == before

    def test_events_are_seen_in_the_order_of_their_numbers(self, open_store: Callable[[], Store]) -> None:
        store = open_store()

        def tell(run_id: str) -> Work:
            def work(mine: Store, meet: Callable[[], None]) -> None:
                mine.events.append([EventRecord(seq=0, at_us=1, kind="run", status="x", run_id=run_id)])
                meet()

            return work

        both(open_store, tell("r1"), tell("r2"), tell("r3"))
        assert [event.seq for event in store.events.after(0, limit=9)] == [1, 2, 3]

    def test_two_take_the_last_place_of_a_scope_and_one_gets_it(self, open_store: Callable[[], Store]) -> None:
        store = open_store()
        for run_id in ("r1", "r2"):
            put_run(store, run_id)

        def submit(run_id: str) -> Work:
            def work(mine: Store, meet: Callable[[], None]) -> bool:
                count = mine.queue.admitted_count("n", WORKER, at_most=5)
                meet()
                if count == 0:
                    mine.queue.add("n", item(run_id))
                return count == 0

            return work

        assert sorted(both(open_store, submit("r1"), submit("r2"))) == [False, True]
        with store.transaction():
            assert store.queue.admitted_count("n", WORKER, at_most=5) == 1

    def test_of_two_runs_that_want_one_worker_on_two_nodes_one_finds_the_other(
        self, open_store: Callable[[], Store]
    ) -> None:
        store = open_store()
        with store.transaction():
            number = store.definitions.put(definition())

        def submit(run_id: str, target: str) -> Work:
            def work(mine: Store, meet: Callable[[], None]) -> bool:
                found = mine.runs.unfinished_elsewhere(WORKER, target)
                meet()
                if found is None:
                    mine.runs.add(run(run_id, target_node=target, definition_id=number), [])
                return found is None

            return work

        assert sorted(both(open_store, submit("r1", "n1"), submit("r2", "n2"))) == [False, True]

    def test_two_that_grow_one_tree_count_each_other(self, open_store: Callable[[], Store]) -> None:
        open_store()

        def grow(mine: Store, meet: Callable[[], None]) -> int:
            meet()
            return mine.runs.grow_tree("root")

        assert sorted(both(open_store, grow, grow)) == [1, 2]

    def test_two_store_one_version_of_a_dag_and_there_is_one(self, open_store: Callable[[], Store]) -> None:
        store = open_store()

        def put(mine: Store, meet: Callable[[], None]) -> int:
            meet()
            return mine.definitions.put(definition())

        first, second = both(open_store, put, put)
        assert first == second
        assert len(store.definitions.page(limit=5).items) == 1

    def test_two_save_two_versions_of_a_dag_and_one_of_them_is_the_stored_one(
        self, open_store: Callable[[], Store]
    ) -> None:
        store = open_store()
        with store.transaction():
            numbers = [store.definitions.put(definition(sha256=sha)) for sha in ("a", "b")]

        def save(number: int) -> Work:
            def work(mine: Store, meet: Callable[[], None]) -> None:
                meet()
                mine.definitions.save(number, at_us=number)

            return work

        assert both(open_store, *map(save, numbers)) == [None, None]
        found = [store.definitions.get(number) for number in numbers]
        assert sum(one is not None and one.saved_at_us is not None for one in found) == 1

    def test_two_give_one_name_to_a_token_and_one_finds_it_taken(self, open_store: Callable[[], Store]) -> None:
        open_store()

        def give(sha256: str) -> Work:
            def work(mine: Store, meet: Callable[[], None]) -> bool:
                free = not mine.tokens.all()
                meet()
                if free:
                    mine.tokens.put(TokenRecord(name="ci", sha256=sha256, may=("read",), created_at_us=1))
                return free

            return work

        assert sorted(both(open_store, give("a"), give("b"))) == [False, True]

    def test_two_nodes_that_are_trusted_with_one_key_are_not_both(self, open_store: Callable[[], Store]) -> None:
        store = open_store()

        def trust(node_id: str) -> Work:
            def work(mine: Store, meet: Callable[[], None]) -> None:
                meet()
                mine.peers.put(PeerRecord(node_id=node_id, public_key="k", may=(), trusted_at_us=1))

            return work

        told = both(open_store, trust("a"), trust("b"))
        assert sorted(map(type, told), key=str) == sorted([type(None), ConflictError], key=str)
        assert len(store.peers.all()) == 1

    def test_one_who_acts_on_a_peers_right_and_one_who_takes_it_away_come_one_after_the_other(
        self, open_store: Callable[[], Store]
    ) -> None:
        store = open_store()
        with store.transaction():
            store.peers.put(PeerRecord(node_id="a", public_key="k", may=("execute",), trusted_at_us=1))
            number = store.definitions.put(definition())

        def accept(mine: Store, meet: Callable[[], None]) -> bool:
            trusted = mine.peers.get("a") is not None
            meet()
            if trusted:
                mine.runs.add(run("r1", definition_id=number), [])
            return trusted

        def untrust(mine: Store, meet: Callable[[], None]) -> bool:
            meet()
            mine.peers.delete("a", farewell_until_us=9)
            return mine.runs.get("r1") is not None

        accepted, seen = both(open_store, accept, untrust)
        assert accepted == seen

    def test_of_two_that_grant_one_offer_the_second_sees_the_first(self, open_store: Callable[[], Store]) -> None:
        store = open_store()
        with store.transaction():
            store.offers.put(offer("r1"))

        def grant(mine: Store, meet: Callable[[], None]) -> bool:
            found = mine.offers.get("r1")
            meet()
            is_open = found is not None and found.state is OfferState.OPEN
            if is_open:
                mine.offers.set_state("r1", OfferState.CLOSED)
            return is_open

        assert sorted(both(open_store, grant, grant)) == [False, True]


def test_the_page_has_each_of_these_races_and_no_other() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    told = {name for line in rows[2:] for name in re.findall(r"`(test_\w+)", line)}
    raced = {name for name in vars(TestRaces) if name.startswith("test_")}

    assert {name for name in raced if not name.startswith(tuple(told))} == set()
    assert {start for start in told if not any(name.startswith(start) for name in raced)} == set()
