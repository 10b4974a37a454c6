"""``max_runs``: a scope has as many runs at once as its table says, and none waits for ever."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from cis.engine.accept.admission import let_in
from cis.engine.accept.control import cancel
from cis.engine.accept.submit import SubmitRequest, submit
from cis.engine.observe.views import read_run
from cis.engine.this_node import ThisNode
from cis.model.scope_rules import ScopeRules, ScopeTable
from cis.model.states import Priority, RunState
from cis.store.records import QueueState, RunRecord
from tests.worlds.deciding import Decider, decider, spec_of
from tests.worlds.looping import Worker, working


class Ruled(Decider):
    """Node-1, where the global scope has one run at once."""

    @property
    def this_node(self) -> ThisNode:
        return replace(super().this_node, scopes=[ScopeTable(pattern="global", rules=ScopeRules(max_runs=1))])


@contextmanager
def served(folder: Path) -> Iterator[tuple[Ruled, Worker]]:
    with decider(folder) as plain:
        node = Ruled(plain.store, plain.logfiles, now_us=plain.now_us, _numbers=plain._numbers)
        with working(node, folder) as worker:
            yield node, worker


def begun(node: Decider, *tasks: dict[str, Any], **document: Any) -> RunRecord:
    with node.store.transaction():
        spec = spec_of(*tasks, **{"dag_id": "d", "scope": "global", "target_node": "node-1", **document})
        return submit(node.store, SubmitRequest(spec=spec), this_node=node.this_node).run


def marked(folder: Path, name: str) -> dict[str, Any]:
    """Return a task that fails if another of its kind runs."""
    return {"id": name, "command": f"set -e; mkdir {folder}/one; sleep 0.05; rmdir {folder}/one"}


def test_runs_of_a_scope_come_one_after_the_other_the_most_urgent_first(tmp_path: Path) -> None:
    with served(tmp_path) as (node, worker):
        runs = [begun(node, marked(tmp_path, "t")) for _ in range(3)]
        urgent = begun(node, marked(tmp_path, "t"), priority="critical")

        assert [worker.queued(run.run_id) for run in runs] == ["queued", "waiting", "waiting"]
        view = read_run(worker.store, urgent.run_id)
        assert view["waiting"]["message"] == "waits until fewer runs of its scope are at work (max_runs)"
        worker.until(lambda: node.run(runs[2].run_id).status.final, "the end of the last")

        ends = [node.run(run.run_id) for run in (runs[0], urgent, runs[1], runs[2])]
        assert [run.status for run in ends] == [RunState.COMPLETED] * 4
        assert [run.finished_at_us for run in ends] == sorted(run.finished_at_us or 0 for run in ends)
        assert urgent.priority is Priority.CRITICAL


def test_a_run_below_another_needs_no_place_of_its_own(tmp_path: Path) -> None:
    with served(tmp_path) as (node, worker):
        child = {"dag_id": "c", "scope": "global", "tasks": [{"id": "t", "command": "true"}]}
        first = begun(node, {"id": "c", "command": None, "skill": "dag", "params": {"document": child}})
        second = begun(node)

        worker.until(lambda: node.run(second.run_id).status.final, "the end of both")

        assert node.run(first.run_id).status is RunState.COMPLETED


def test_a_place_that_nobody_gave_on_is_given_by_whoever_looks_around(tmp_path: Path) -> None:
    with served(tmp_path) as (node, worker):
        first, second, third = begun(node), begun(node), begun(node)
        with node.store.transaction():
            cancel(node.store, first.run_id, now_us=node.now_us)
            assert worker.queued(second.run_id) == QueueState.WAITING
            assert node.store.queue.workers_waited_for("node-1") == ["worker-global"]
            let_in(node.store.queue, "worker-global", this_node=node.this_node)

        assert worker.queued(second.run_id) == QueueState.QUEUED
        assert worker.queued(third.run_id) == QueueState.WAITING
        with node.store.transaction():
            let_in(node.store.queue, "worker-global", this_node=replace(node.this_node, scopes=()))  # the table is gone
        assert worker.queued(third.run_id) == QueueState.QUEUED
        assert node.store.queue.workers_waited_for("node-1") == []


def test_what_waits_for_a_place_waits_in_the_queue_and_counts_there(tmp_path: Path) -> None:
    with served(tmp_path) as (node, worker):
        runs = [begun(node) for _ in range(3)]

        assert node.store.queue.waiting_count("node-1") == 3
        with node.store.transaction():
            cancel(node.store, runs[2].run_id, now_us=node.now_us)
        assert node.store.queue.waiting_count("node-1", below=False, holder="worker-global") == 2
        assert worker.queued(runs[2].run_id) is None
        assert node.run(runs[2].run_id).status is RunState.CANCELLED
