"""No question that a user can ask makes SQLite read every run: each query plan is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from cis.model.states import RunState
from cis.store import open_store
from cis.store.cluster import OfferState, RemoteRole, Route
from cis.store.records import EventRecord, RunFilter
from cis.store.sqlite.store import SqliteStore
from cis.store.upkeep_port import EndedRun
from tests.store.questions import BIG, COMBINATIONS, FILTERS, QUESTIONS
from tests.worlds.migrated import new_database
from tests.worlds.rows import item, put_run, worker


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """A store with a few runs of each kind, so that the planner knows nothing better than a real one does."""
    store = open_store(new_database(tmp_path))
    for number in range(20):
        put_run(store, f"r{number:03}", status=list(RunState)[number % 6])
    yield store
    store.close()


def plans(store: SqliteStore, ask: object) -> list[str]:
    """Return the plan of every statement that *ask* runs."""
    statements: list[tuple[str, object]] = []

    def trace(_cursor: apsw.Cursor, sql: str, bindings: object) -> bool:
        statements.append((sql, bindings))
        return True

    connection = apsw.Connection(str(store.path))
    store._db._cursor.exec_trace = trace
    try:
        assert callable(ask)
        with store.transaction():
            ask()
    finally:
        store._db._cursor.exec_trace = None
    found = []
    for sql, bindings in statements:
        if sql.startswith(("SELECT", "WITH", "UPDATE", "DELETE")):
            rows = connection.execute(f"EXPLAIN QUERY PLAN {sql}", bindings)  # type: ignore[arg-type]
            found += [str(row[3]) for row in rows]
    connection.close()
    assert found
    return found


@pytest.mark.parametrize("names", COMBINATIONS, ids="+".join)
@pytest.mark.parametrize("paged", [False, True], ids=["first", "next"])
def test_a_list_of_runs_passes_over_no_run_that_it_does_not_show(
    store: SqliteStore, names: tuple[str, ...], *, paged: bool
) -> None:
    """Each step is a search in an index alone, by all that is asked for; then the rows are read by their ids."""
    where = RunFilter(**{name: FILTERS[name] for name in names})  # type: ignore[arg-type]
    cursor = store.runs.page(RunFilter(), limit=1).next_cursor if paged else None
    *found, table, ids, listed = plans(store, lambda: store.runs.page(where, limit=5, cursor=cursor))
    index = INDEXES[frozenset(names)]

    assert (table, ids) == ("SEARCH dag_runs USING PRIMARY KEY (run_id=?)", "LIST SUBQUERY 1")
    assert listed == "SCAN json_each VIRTUAL TABLE INDEX 1:"
    assert found
    if index is None:
        # Every run is wanted, newest first: an index has that order, and the limit ends the walk.
        how = "SEARCH" if paged else "SCAN"
        beyond = " ((accepted,run_id)<(?,?))" if paged else ""
        assert found == [f"{how} dag_runs USING COVERING INDEX dag_runs_by_acceptance{beyond}"]
        return
    assert {plan.partition(" (")[0] for plan in found} <= {
        f"SEARCH dag_runs USING COVERING INDEX {index}",
        f"SCAN dag_runs USING COVERING INDEX {index}",  # the first of all: the limit ends the walk at once
    }
    assert any(plan.endswith(f"({BOUND[index]}{' AND (accepted,run_id)<(?,?)' if paged else ''})") for plan in found)


BOUND = {
    "dag_runs_by_dag": "dag_id=?",
    "dag_runs_by_dag_scope": "dag_id=? AND scope_type=? AND scope_id=? AND owner_node=? AND status=?",
    "dag_runs_by_scope": "scope_type=? AND scope_id=? AND owner_node=? AND status=?",
    "dag_runs_by_owner": "owner_node=? AND status=?",
}
INDEXES = {
    frozenset(names): None
    if not names
    else "dag_runs_by_dag"
    if names == ("dag_id",)
    else "dag_runs_by_dag_scope"
    if "dag_id" in names
    else "dag_runs_by_scope"
    if "scope" in names
    else "dag_runs_by_owner"
    for names in COMBINATIONS
}


@pytest.mark.parametrize("ask", QUESTIONS)
def test_every_other_question_and_change_searches_an_index(store: SqliteStore, ask: object) -> None:
    assert callable(ask)
    with store.transaction():
        store.events.append([EventRecord(kind="run", at_us=1, status="x")])
        store.workers.take(worker())
        store.queue.add("n", item("r000"))
    scans = [plan for plan in plans(store, lambda: ask(store)) if any(f"SCAN {table}" in plan for table in BIG)]

    assert scans == []


def test_the_demand_is_answered_from_an_index_alone(store: SqliteStore) -> None:
    """A queued document may be megabytes: the rows themselves are not read."""
    found = plans(store, lambda: store.queue.demand("n"))

    assert "SEARCH worker_queue USING COVERING INDEX worker_queue_by_worker (node_id=? AND status=?)" in found


@pytest.mark.parametrize(
    ("ask", "plan"),
    [
        (
            lambda store: store.outbox.due(Route.PUSH, now_us=5, limit=5, node_id="n2"),
            "SEARCH outbox USING INDEX outbox_by_node (node_id=? AND route=?)",
        ),
        (
            lambda store: store.outbox.due(Route.ROOM, now_us=5, limit=5),
            "SEARCH outbox USING INDEX outbox_by_route (route=?)",
        ),
        (lambda store: store.outbox.of_run("r001"), "SEARCH outbox USING INDEX outbox_by_run (run_id=?)"),
        (lambda store: store.outbox.depths(), "SCAN outbox USING COVERING INDEX outbox_by_node"),
        (
            lambda store: store.remotes.open(RemoteRole.SENT),
            "SEARCH remote_runs USING INDEX remote_runs_open (role=?)",
        ),
        (lambda store: store.room.new_events(limit=5), "SEARCH room_events USING INDEX room_events_new (seq>?)"),
        (
            lambda store: store.offers.in_state(OfferState.OPEN, limit=5),
            "SEARCH offers USING INDEX offers_by_state (state=?)",
        ),
        (lambda store: store.peers.by_user("@n2:x"), "SEARCH peers USING INDEX peers_by_user (matrix_user=?)"),
    ],
)
def test_what_is_asked_of_other_nodes_again_and_again_walks_an_index_in_order(
    store: SqliteStore, ask: object, plan: str
) -> None:
    """One step alone: nothing is sorted. The walk over new events is one over an index of these alone."""
    assert callable(ask)

    assert plans(store, lambda: ask(store)) == [plan]


def test_the_nodes_to_send_to_and_the_load_are_answered_from_an_index_alone(store: SqliteStore) -> None:
    """What is not due yet is not even passed over."""
    due = plans(store, lambda: store.outbox.schedule(now_us=5))
    load = plans(store, lambda: store.queue.load("n", at_most=5))

    assert due[0] == "SEARCH outbox USING COVERING INDEX outbox_by_time (due_at_us<?)"
    assert due[-1] == "SEARCH outbox USING COVERING INDEX outbox_by_time"
    assert "SEARCH worker_queue USING COVERING INDEX worker_queue_by_worker (node_id=? AND status=?)" in load


def test_pruning_the_journal_passes_over_what_it_keeps_in_an_index_and_reads_no_event(store: SqliteStore) -> None:
    found = plans(store, lambda: store.room.prune(keep=10))

    assert "SCAN room_events USING COVERING INDEX room_events_settled" in found
    assert not {"SCAN room_events", "SEARCH room_events USING INTEGER PRIMARY KEY (rowid<?)"} & set(found)


def test_expired_runs_are_found_in_an_index_alone_and_nothing_is_sorted(store: SqliteStore) -> None:
    """However many runs are kept: what is asked every few minutes passes over none of them."""
    last = EndedRun(3, "r001")
    found = plans(store, lambda: store.pruning.expired_runs("d", before_us=5, keep=3, until_us=9, after=last, limit=5))
    names = plans(store, lambda: store.pruning.ended_dags(after="", limit=5))

    bounds = "(dag_id=? AND (finished_at_us,run_id)>(?,?) AND (finished_at_us,run_id)<(?,?))"
    assert found == [
        "SEARCH dag_runs USING COVERING INDEX dag_runs_ended (dag_id=? AND finished_at_us<?)",
        f"SEARCH dag_runs USING COVERING INDEX dag_runs_ended {bounds}",
    ]
    assert [plan for plan in names if "dag_runs" in plan and "COVERING INDEX dag_runs_ended" not in plan] == []


@pytest.mark.parametrize(
    ("ask", "may_scan"),
    [
        (lambda store: store.pruning.family("r001"), {"SCAN family"}),
        (lambda store: store.pruning.prune("r001", at_most=5), set()),
        (lambda store: store.pruning.ends(["r001", "r002"]), {"SCAN j VIRTUAL TABLE INDEX 1:"}),
        (lambda store: store.definitions.drop([1]), set()),
    ],
    ids=["family", "run", "ends", "documents"],
)
def test_pruning_walks_no_table_under_whatever_name(store: SqliteStore, ask: object, may_scan: set[str]) -> None:
    assert callable(ask)
    found = plans(store, lambda: ask(store))

    assert {plan for plan in found if plan.startswith("SCAN")} == may_scan
    assert [plan for plan in found if "AUTOMATIC" in plan] == []


def test_whether_a_document_is_in_use_is_answered_from_an_index(store: SqliteStore) -> None:
    found = plans(store, lambda: store.definitions.unused(limit=5))

    assert "SEARCH r USING COVERING INDEX dag_runs_by_definition (definition_id=?)" in found
