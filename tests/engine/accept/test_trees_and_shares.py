"""DAGs that start DAGs are bounded: by name, by number, and by the share of the queue that each scope has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cis.engine.accept.admission import OWNER, Asker
from cis.engine.accept.submit import SubmitRequest, save, submit
from cis.engine.observe.views import read_run
from cis.engine.this_node import ThisNode
from cis.errors import OverloadedError, ShareExceededError
from cis.federation.executing.accept import take_on
from cis.federation.messages import ReceivedMessage
from cis.federation.origin.outbox import message_of
from cis.federation.requested import requested_run
from cis.model.dag import DagSpec
from cis.model.document import dag_from_plain
from cis.model.message import MessageKind
from cis.model.scope import GLOBAL, parse_scope
from cis.model.scope_rules import ScopeRules, ScopeTable
from cis.model.states import RunState, TaskState
from cis.store.records import RunRecord
from tests.worlds.deciding import Decider, decider, spec_of
from tests.worlds.looping import Worker, working


class Narrow(Decider):
    """Node-1 with bounds of the test's own."""

    bounds: dict[str, Any] = {}  # noqa: RUF012 - a test's own

    @property
    def this_node(self) -> ThisNode:
        return replace(super().this_node, **self.bounds)


def narrow(node: Decider, **bounds: Any) -> Narrow:
    """Return the node with these bounds."""
    found = Narrow(node.store, node.logfiles, now_us=node.now_us, _numbers=node._numbers)
    Narrow.bounds = bounds
    return found


def by_name(task_id: str, dag_id: str, **fields: Any) -> dict[str, Any]:
    """Return a task that is a stored DAG."""
    return {"id": task_id, "command": None, "skill": "dag", "params": {"dag_id": dag_id}, **fields}


def inline(task_id: str, document: dict[str, Any]) -> dict[str, Any]:
    """Return a task that is a DAG."""
    return {"id": task_id, "command": None, "skill": "dag", "params": {"document": document}}


def stored(node: Decider, dag_id: str, *tasks: dict[str, Any], **fields: Any) -> DagSpec:
    """Keep a DAG of the global scope under its id."""
    spec = spec_of(*tasks, dag_id=dag_id, **{"scope": "global", **fields})
    with node.store.transaction():
        save(node.store.definitions, spec, this_node=node.this_node)
    return spec


def begun(node: Decider, spec: DagSpec, **request: Any) -> RunRecord:
    """Hand a DAG in, to be run here."""
    with node.store.transaction():
        wanted = SubmitRequest(spec=replace(spec, target_node="node-1"), **request)
        return submit(node.store, wanted, this_node=node.this_node).run


def over(worker: Worker, run: RunRecord) -> list[str]:
    """Wait for the end of a run, and return the errors of its tasks."""
    worker.until(lambda: worker.node.run(run.run_id).status.final, "the end of the run")
    return [task.error or "" for task in worker.store.tasks.of_run(run.run_id)]


def all_runs(worker: Worker) -> int:
    return len(worker.store._db.rows("SELECT 1 FROM dag_runs"))


def test_a_dag_that_starts_itself_by_its_name_is_refused_with_the_chain(tmp_path: Path) -> None:
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        run = begun(node, stored(node, "bomb", *(by_name(f"t{number}", "bomb") for number in range(20))))

        errors = over(worker, run)

        assert all_runs(worker) == 1
        assert len(errors) == 20
        for error in errors:
            assert "DAG 'bomb' would start itself: bomb -> bomb" in error
            assert "[queue] max_recursion" in error


def test_a_circle_of_several_dags_is_refused_where_it_closes(tmp_path: Path) -> None:
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        first = stored(node, "a", by_name("t", "b"))
        stored(
            node, "b", inline("t", {"dag_id": "c", "scope": "global", "tasks": [by_name("t", "a") | {"command": None}]})
        )

        run = begun(node, first)
        over(worker, run)

        told = [
            task.error or ""
            for one in worker.store._db.rows("SELECT run_id FROM dag_runs")
            for task in worker.store.tasks.of_run(one[0])
        ]
        assert all_runs(worker) == 3
        assert any("a -> b -> c -> a" in error for error in told)


def test_its_owner_may_allow_as_many_rounds_as_it_needs(tmp_path: Path) -> None:
    with decider(tmp_path) as plain:
        node = narrow(plain, max_recursion=2)
        with working(node, tmp_path) as worker:
            run = begun(node, stored(node, "again", by_name("t", "again")))

            over(worker, run)

            assert all_runs(worker) == 3  # the first, and two rounds more


def test_a_dag_may_be_written_out_within_one_of_its_own_id(tmp_path: Path) -> None:
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        inner = {"dag_id": "same", "scope": "global", "tasks": [{"id": "t", "command": "true"}]}
        nested = begun(node, spec_of(inline("t", inner), dag_id="same", scope="global"))

        over(worker, nested)

        assert node.run(nested.run_id).status is RunState.COMPLETED


def test_a_tree_has_no_more_runs_than_it_may_and_what_is_beyond_fails(tmp_path: Path) -> None:
    with decider(tmp_path) as plain:
        node = narrow(plain, max_descendants=7)
        with working(node, tmp_path) as worker:
            stored(node, "leaf", {"id": "t", "command": "true"})
            stored(node, "middle", *(by_name(f"t{number}", "leaf") for number in range(3)))
            run = begun(node, stored(node, "top", *(by_name(f"t{number}", "middle") for number in range(4))))

            over(worker, run)

            assert all_runs(worker) == 8
            failed = [
                task.error or ""
                for one in worker.store._db.rows("SELECT run_id FROM dag_runs")
                for task in worker.store.tasks.of_run(one[0])
                if task.status is TaskState.FAILED
            ]
            assert any("there are 7 runs below one already ([queue] max_descendants)" in error for error in failed)
            other = begun(node, stored(node, "another", by_name("t", "leaf")))
            assert over(worker, other) == [""]  # each tree has its own count


def test_what_stands_above_and_the_tree_travel_with_a_dag_to_another_node(tmp_path: Path) -> None:
    for name in ("origin", "executor"):
        (tmp_path / name).mkdir()
    with decider(tmp_path / "origin") as origin, decider(tmp_path / "executor") as node:
        stored(origin, "middle", by_name("t", "top"), target_node="node-2", scope="user:u")
        stored(node, "top", {"id": "t", "command": "true"})
        with working(origin, tmp_path / "origin") as sender:
            root = begun(origin, spec_of(by_name("t", "middle"), dag_id="top", scope="global"))
            sender.until(lambda: sender.store.runs.children(root.run_id), "the child to be handed over")
            (item,) = origin.posted(sender.child(root.run_id), MessageKind.EXECUTE)
            message = replace(message_of(origin.store, item, sender="node-2", lease_s=60.0), target="node-1")
        wanted = requested_run(message, blob=None, parse=dag_from_plain)
        peer = node.store.peers.get("node-2")
        assert peer is not None
        here = replace(wanted, spec=replace(wanted.spec, scope=GLOBAL))
        with node.store.transaction():
            run = take_on(
                node.store,
                ReceivedMessage(message=message, peer=peer, source="test", requested=here),
                here,
                this_node=node.this_node,
            )
        assert node.store.queue.waiting_count("node-1", below=True) == 1
        with working(node, tmp_path / "executor") as worker:
            (error,) = over(worker, run)

        assert (run.tree, run.above, run.depth) == (f"node-2:{root.run_id}", ("top",), 1)
        assert "top -> middle -> top" in error
        with node.store.transaction():
            assert node.store.runs.grow_tree(f"node-2:{root.run_id}") == 2


def shares_of(node: Decider, *documents: dict[str, Any], asker: Asker = OWNER) -> list[str]:
    """Hand DAGs in one after the other; return what came of each."""
    found = []
    for document in documents:
        request = SubmitRequest(spec=spec_of(target_node="node-1", **document), asker=asker)
        try:
            with node.store.transaction():
                submit(node.store, request, this_node=node.this_node)
            found.append("ok")
        except OverloadedError as error:
            found.append(error.code)
    return found


def of(scope: str, count: int) -> Sequence[dict[str, Any]]:
    return [{"dag_id": "d", "scope": scope}] * count


def test_a_scope_has_half_of_the_queue_unless_its_table_says_otherwise(tmp_path: Path) -> None:
    with decider(tmp_path) as plain:
        tables = [ScopeTable(pattern="project:small", rules=ScopeRules(max_queued=1))]
        node = narrow(plain, max_queued=6, scopes=tables)

        assert shares_of(node, *of("project:a", 4)) == ["ok"] * 3 + ["overloaded.share"]
        assert shares_of(node, *of("project:small", 2)) == ["ok", "overloaded.share"]
        assert shares_of(node, *of("user:u", 2)) == ["ok", "ok"]
        assert shares_of(node, *of("user:v", 1)) == ["overloaded"]
        with pytest.raises(ShareExceededError) as refused, node.store.transaction():
            narrow(plain, max_queued=8)
            submit(
                node.store,
                SubmitRequest(spec=spec_of(target_node="node-1", scope="project:a")),
                this_node=replace(node.this_node, max_queued=7),
            )
        assert "scope project:a has 3 runs waiting already" in str(refused.value)
        assert refused.value.retry_after_s > 0


def test_a_token_a_node_or_a_person_has_half_of_it_however_many_scopes_they_use(tmp_path: Path) -> None:
    with decider(tmp_path) as plain:
        node = narrow(plain, max_queued=8)
        documents = [{"dag_id": "d", "scope": f"user:u{number}"} for number in range(5)]

        assert shares_of(node, *documents, asker=Asker(name="token 'ci'", shares=True)) == ["ok"] * 4 + [
            "overloaded.share"
        ]
        assert shares_of(node, *documents[:1], asker=Asker(name="token 'x'", shares=True)) == ["ok"]
        assert shares_of(node, *documents[:4]) == ["ok", "ok", "ok", "overloaded"]  # the owner takes what is left


def test_a_scope_fills_no_outbox_either(tmp_path: Path) -> None:
    with decider(tmp_path) as plain:
        node = narrow(plain, max_queued=4)

        def sent(scope: str) -> str:
            try:
                with node.store.transaction():
                    submit(
                        node.store,
                        SubmitRequest(spec=spec_of(target_node="node-2", scope=scope)),
                        this_node=node.this_node,
                    )
            except OverloadedError as error:
                return error.code
            return "ok"

        assert [sent("project:a") for _ in range(3)] == ["ok", "ok", "overloaded.share"]
        assert [sent("project:b") for _ in range(3)] == ["ok", "ok", "overloaded"]


def test_a_child_that_finds_no_place_waits_says_so_and_starts_when_there_is_one(tmp_path: Path) -> None:
    with decider(tmp_path) as plain:
        node = narrow(plain, max_queued=2)
        with working(node, tmp_path) as worker:
            # Nobody serves project:a, so its children stay in the queue.
            child = {"dag_id": "c", "scope": "project:a", "tasks": [{"id": "t", "command": "true"}]}
            run = begun(node, spec_of(inline("one", child), inline("two", child), dag_id="p", scope="global"))
            worker.until(lambda: worker.task(run.run_id, "two").error, "the second to find no place")

            task = worker.task(run.run_id, "two")
            assert task.status is TaskState.PENDING
            assert task.attempts == 0
            view = next(one for one in read_run(worker.store, run.run_id)["tasks"] if one["id"] == "two")
            assert view["waiting"]["reason"] == "slot"
            assert "waits for a place: scope project:a has 1 run waiting already" in view["waiting"]["message"]
            # What waits at the door keeps no child out.
            assert shares_of(node, *of("project:b", 1)) == ["ok"]
            with worker.store.transaction():
                worker.store.queue.claim("node-1", parse_scope("project:a").worker_id, epoch=1, limit=1)
            node.later(2)
            worker.until(lambda: len(worker.store.runs.children(run.run_id)) == 2, "the second to start")
            assert worker.task(run.run_id, "two").error is None


def test_what_waits_at_the_door_keeps_no_child_out(tmp_path: Path) -> None:
    with decider(tmp_path) as plain:
        node = narrow(plain, max_queued=2)
        with working(node, tmp_path) as worker:
            child = {"dag_id": "c", "scope": "project:a", "tasks": [{"id": "t", "command": "true"}]}
            assert shares_of(node, *of("project:a", 2)) == ["ok", "overloaded.share"]
            run = begun(node, spec_of(inline("one", child), dag_id="p", scope="global"))

            worker.until(lambda: worker.store.runs.children(run.run_id), "the child to start")

            assert worker.store.queue.waiting_count("node-1", below=True, holder="worker-project-a") == 1
            assert GLOBAL.worker_id == "worker-global"
