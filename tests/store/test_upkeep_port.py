"""What every store promises about rights, and about forgetting (``cis.store.upkeep_port``)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cis.errors import StoreError
from cis.model.states import AttemptState, RunState
from cis.store.access_records import AuditRecord, TokenRecord
from cis.store.cluster import (
    LeaseAsk,
    RemoteRole,
    RemoteRun,
)
from cis.store.port import Store
from cis.store.records import EventRecord
from cis.store.sqlite.store import SqliteStore
from cis.store.upkeep_port import EndedRun, HomeRecord, Pruned, RestoreRecord, Schema
from tests.worlds.cluster_rows import message
from tests.worlds.rows import attempt, attempts_of, item, put_ended, put_queued, put_run


def pruned(store: Store, run_id: str, *, at_most: int = 100) -> Pruned:
    """Prune one run in a transaction of its own."""
    with store.transaction():
        return store.pruning.prune(run_id, at_most=at_most)


def with_attempts(store: Store, run_id: str, count: int) -> None:
    """Give a run that many attempts, each at a task of its own, which are over."""
    one = attempt(run_id, status=AttemptState.COMPLETED, finished_at_us=6)
    with store.transaction():
        store.attempts.start(one._replace(task_no=number, task_id=f"t{number}") for number in range(count))


HOLDS: dict[str, Callable[[Store], Any]] = {
    "it is not over": lambda _: None,
    "it is queued": lambda store: store.queue.add("n", item("r1")),
    "something about it is to be sent": lambda store: store.outbox.add(message("m1", run_id="r1")),
    "another node's part is open": lambda store: store.remotes.put(
        RemoteRun(run_id="r1", role=RemoteRole.RECEIVED, peer_id="n2")
    ),
    "a child is there": lambda _: None,
    "its parent is not over": lambda _: None,
}


class TestTokensAndAudit:
    def test_tokens_and_audit_are_kept(self, store: Store) -> None:
        token = TokenRecord(name="ci", sha256="h", may=("read", "execute"), created_at_us=1)
        with store.transaction():
            store.tokens.put(token)
            for number in range(3):
                store.audit.append(AuditRecord(at_us=number, actor="me", action="x", subject=str(number), source="cli"))
        assert list(store.tokens.all()) == [token]
        assert store.tokens.by_sha256("h") == token
        assert store.tokens.by_sha256("other") is None
        newest = store.audit.page(limit=2)
        assert [entry.subject for entry in newest] == ["2", "1"]
        assert [entry.subject for entry in store.audit.page(limit=2, before=newest[-1].seq)] == ["0"]
        with store.transaction():
            assert store.tokens.delete("ci")
            assert not store.tokens.delete("ci")


class TestPruning:
    def test_dags_with_ended_runs_come_by_name_and_page_by_page(self, store: Store) -> None:
        for number, dag_id in enumerate(("b", "a", "c", "a")):
            put_ended(store, f"r{number}", 5, dag_id=dag_id)
        put_run(store, "going", dag_id="d")
        put_ended(store, "child", 5, dag_id="e", parent_run_id="going")

        assert list(store.pruning.ended_dags(after="", limit=2)) == ["a", "b"]
        assert list(store.pruning.ended_dags(after="b", limit=2)) == ["c"]

    def test_runs_expire_by_age_oldest_first_and_page_by_page(self, store: Store) -> None:
        for run_id, at_us in (("r1", 30), ("r2", 10), ("r3", 20), ("r4", 20), ("r5", 40)):
            put_ended(store, run_id, at_us)
        put_run(store, "going")
        put_ended(store, "other", 1, dag_id="other")

        def page(after: EndedRun | None) -> list[EndedRun]:
            return list(store.pruning.expired_runs("d", before_us=30, keep=None, until_us=100, after=after, limit=2))

        assert page(None) == [EndedRun(10, "r2"), EndedRun(20, "r3")]
        assert page(EndedRun(20, "r3")) == [EndedRun(20, "r4")]
        assert page(EndedRun(20, "r4")) == []

    def test_runs_expire_when_they_are_not_among_the_newest(self, store: Store) -> None:
        for number in range(5):
            put_ended(store, f"r{number}", number)

        def beyond(keep: int, **bounds: int) -> list[str]:
            until_us = bounds.get("until_us", 100)
            found = store.pruning.expired_runs(
                "d", before_us=bounds.get("before_us"), keep=keep, until_us=until_us, after=None, limit=10
            )
            return [run.run_id for run in found]

        assert beyond(2) == ["r0", "r1", "r2"]
        assert beyond(2, until_us=3) == ["r0", "r1"]  # r4 is too young to count
        assert beyond(5) == []
        assert beyond(5, before_us=2) == ["r0", "r1"]
        assert beyond(2, before_us=1) == ["r0", "r1", "r2"]
        assert store.pruning.expired_runs("d", before_us=None, keep=None, until_us=100, after=None, limit=10) == []

    def test_a_family_comes_deepest_first_and_not_at_all_while_one_of_it_is_live(self, store: Store) -> None:
        put_ended(store, "root", 5)
        put_ended(store, "child", 4, parent_run_id="root")
        put_ended(store, "grandchild", 3, parent_run_id="child")
        put_ended(store, "stranger", 3)

        assert list(store.pruning.family("root")) == ["grandchild", "child", "root"]
        put_run(store, "late", parent_run_id="grandchild")
        assert list(store.pruning.family("root")) == []

    def test_a_run_goes_with_all_that_is_its_own(self, store: Store) -> None:
        put_ended(store, "r1", 5)
        put_ended(store, "r2", 5)
        for run_id in ("r1", "r2"):
            with_attempts(store, run_id, 2)
            with store.transaction():
                store.remotes.put(RemoteRun(run_id=run_id, role=RemoteRole.SENT, peer_id="n2", open=False))
                store.room.put_thread(run_id, room_id="!r", event_id="$e")

        assert pruned(store, "r1") is Pruned.GONE
        assert store.runs.get("r1") is None
        assert not store.tasks.of_run("r1")
        assert not attempts_of(store, "r1")
        assert store.remotes.get("r1") is None
        assert store.room.thread("r1") is None
        assert store.runs.get("r2") is not None
        assert (len(store.tasks.of_run("r2")), len(attempts_of(store, "r2"))) == (2, 2)
        assert store.remotes.get("r2") is not None
        assert pruned(store, "r1") is Pruned.GONE  # harmless when repeated

    def test_many_attempts_go_in_parts_before_the_run_and_its_tasks(self, store: Store) -> None:
        put_ended(store, "r1", 5)
        with_attempts(store, "r1", 10)

        assert pruned(store, "r1", at_most=4) is Pruned.MORE
        assert len(store.tasks.of_run("r1")) == 2
        assert 0 < len(attempts_of(store, "r1")) < 10
        states = [pruned(store, "r1", at_most=4) for _ in range(2)]
        assert states[-1] is Pruned.GONE
        assert store.runs.get("r1") is None

    @pytest.mark.parametrize("hold", HOLDS)
    def test_a_run_stays_whole_while(self, store: Store, hold: str) -> None:
        put_run(store, "parent", status=RunState.RUNNING)
        over: dict[str, Any] = {} if hold == "it is not over" else {"status": RunState.FAILED, "finished_at_us": 5}
        parent = "parent" if hold == "its parent is not over" else None
        put_run(store, "r1", parent_run_id=parent, **over)
        if hold == "a child is there":
            put_ended(store, "r2", 5, parent_run_id="r1")
        with store.transaction():
            HOLDS[hold](store)

        assert pruned(store, "r1") is Pruned.HELD
        assert store.runs.get("r1") is not None
        assert len(store.tasks.of_run("r1")) == 2
        assert store.pruning.family("r1") == (["r2", "r1"] if hold == "a child is there" else [])

    def test_a_copy_of_an_attempt_that_another_node_never_ended_holds_nothing(self, store: Store) -> None:
        put_ended(store, "r1", 5)
        with store.transaction():
            store.attempts.mirror([attempt("r1", worker_id="n2/worker-project-p")])

        assert pruned(store, "r1") is Pruned.GONE

    def test_ends_of_runs_are_told_of_those_that_are_known_and_none_of_the_live(self, store: Store) -> None:
        put_ended(store, "r1", 5)
        put_run(store, "r2")
        put_ended(store, "r3", 7, parent_run_id="r2")

        assert dict(store.pruning.ends(["r1", "r2", "r3", "r4", "it's"])) == {"r1": 5, "r2": None, "r3": None}

    def test_what_another_process_began_meanwhile_holds_a_run(self, open_store: Callable[[], Store]) -> None:
        """Listed as expired by one process, asked to be told anew by another, then pruned: it is looked at again."""
        one, other = open_store(), open_store()
        put_ended(one, "r1", 5)
        family = one.pruning.family("r1")
        with other.transaction():
            other.remotes.put(RemoteRun(run_id="r1", role=RemoteRole.RECEIVED, peer_id="n2", open=True))

        assert list(family) == ["r1"]
        assert pruned(one, "r1") is Pruned.HELD


class TestRestores:
    def test_a_restored_store_knows_what_happened_until_its_last_entry(self, store: Store) -> None:
        before = store.restores.last()
        with store.transaction():
            store.events.append([EventRecord(kind="run", at_us=5, status="running")])
            store.audit.append(AuditRecord(at_us=7, actor="me", action="x", subject="y", source="z"))
            store.offers.put_ask(
                LeaseAsk(run_id="r1", nonce="nonce", asked_at_us=1, asked_uptime_us=1, boot_id="b"), keep=3
            )
            first = store.restores.begin(now_us=20)
            second = store.restores.begin(now_us=30)

        assert before is None
        assert first == RestoreRecord(restored_at_us=20, known_until_us=7)
        assert store.restores.last() == second
        assert store.offers.ask("r1", "nonce") is None

    def test_a_run_is_in_doubt_until_that_is_settled_and_counts_while_it_is_not_over(self, store: Store) -> None:
        put_run(store, "r1")
        put_ended(store, "r2", 5)
        with store.transaction():
            for run_id in ("r1", "r2"):
                store.restores.doubt(run_id)
                store.restores.doubt(run_id)
        doubted = store.restores.doubted()
        with store.transaction():
            settled = [store.restores.settle("r1"), store.restores.settle("r1")]

        assert (doubted, store.restores.doubted()) == (1, 0)
        assert settled == [True, False]
        assert (store.restores.doubts("r1"), store.restores.doubts("r2")) == (False, True)

    def test_what_waits_can_be_forgotten_and_the_runs_stay(self, store: Store) -> None:
        put_queued(store, "r1")
        with store.transaction():
            store.outbox.add(message("m1"))
            store.restores.forget_queue()

        assert store.queue.get("r1") is None
        assert store.outbox.depths() == {}
        assert store.runs.get("r1") is not None


class TestHome:
    def test_a_store_knows_whose_home_it_is(self, store: Store) -> None:
        before = store.home.get()
        with store.transaction():
            store.home.put(HomeRecord(node_id="n1", machine="m", path="/a"))
            store.home.put(HomeRecord(node_id="n2", machine="", path="/b"))

        assert before is None
        assert store.home.get() == HomeRecord(node_id="n2", machine="", path="/b")


class TestUpkeep:
    def test_a_store_in_use_is_current_whole_and_writable(self, store: Store) -> None:
        store.upkeep.check_current()
        with store.transaction():
            store.upkeep.write_nothing()

        assert list(store.upkeep.faults()) == list(store.upkeep.faults(quick=True)) == []
        assert store.upkeep.schema() == Schema(is_newest=True, is_ours=True)

    def test_a_backup_is_the_store_of_one_moment(self, store: Store, tmp_path: Path) -> None:
        put_run(store, "r1")
        if not isinstance(store, SqliteStore):
            with pytest.raises(StoreError, match="pg_dump"):
                store.upkeep.back_up(tmp_path / "backup")
            return
        store.upkeep.back_up(tmp_path / "backup")
        with pytest.raises(StoreError):
            store.upkeep.back_up(tmp_path / "backup")

        assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o600
