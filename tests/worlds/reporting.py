"""Two nodes, one of which executes what the other has accepted, and what it tells of it."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from cis.federation.executing.report import Cursor, Report, build_report
from cis.federation.origin.mirror import Applied, apply_report
from cis.model.states import RunState
from cis.store.cluster import RemoteRole, RemoteRun
from cis.store.records import RunChange, RunRecord, TaskRecord
from tests.worlds.serving import NodeUnderTest

PEER = "node-2"


@dataclass(slots=True, repr=False)
class Pair:
    """Two nodes: one accepts runs, the other executes them."""

    origin: NodeUnderTest
    executor: NodeUnderTest

    def handed_over(self, *tasks: dict[str, Any]) -> RunRecord:
        """Accept a run on the one node, take it on at the other, and return it as it is there."""
        run = self.origin.submitted(*tasks)
        with self.origin.store.transaction():
            self.origin.store.queue.remove(run.run_id)
            self.origin.store.remotes.put(RemoteRun(run_id=run.run_id, role=RemoteRole.SENT, peer_id=PEER))
        self.executor.this_node = replace(self.executor.this_node, new_id=lambda: run.run_id)
        taken_on = self.executor.submitted(*tasks)
        with self.executor.store.transaction():
            self.executor.store.queue.remove(run.run_id)  # or a thousand runs fill the queue
        return taken_on

    def begun(self, run: RunRecord) -> RunRecord:
        """Make a run running, as its worker would."""
        return self.moved(run, RunChange(status=RunState.RUNNING, started_at_us=self.executor.this_node.clock_us()))

    def over(self, run: RunRecord, status: RunState = RunState.COMPLETED, **change: Any) -> RunRecord:
        """End a run, as its worker would."""
        return self.moved(run, RunChange(status=status, finished_at_us=self.executor.this_node.clock_us(), **change))

    def moved(self, run: RunRecord, change: RunChange) -> RunRecord:
        with self.executor.store.transaction():
            return self.executor.store.runs.change(run, change)

    def report(
        self, run: RunRecord, cursor: Cursor | None = None, *, tasks: Collection[str] | None = None, **limits: Any
    ) -> Report:
        """Return a report as it comes out of its message: with nothing in it that is no JSON."""
        built = build_report(
            self.executor.store,
            self.executor.logfiles,
            run.run_id,
            tasks=tasks,
            cursor=cursor or Cursor(),
            **limits,
        )
        return replace(built, content=json.loads(json.dumps(built.content), parse_float=no_float))

    def pages(
        self, run: RunRecord, cursor: Cursor | None = None, *, tasks: Collection[str] | None = None, **limits: Any
    ) -> list[Report]:
        """Return one telling of what is new since *cursor*, page by page."""
        pages = [self.report(run, cursor, tasks=tasks, **limits)]
        while pages[-1].more:
            assert len(pages) < 10_000
            pages.append(self.report(run, pages[-1].cursor, tasks=(), **limits))
        return pages

    def hear(self, run: RunRecord, content: Any) -> Applied:
        store = self.origin.store
        with store.transaction():
            remote = store.remotes.get(run.run_id)
            assert remote is not None
            return apply_report(store, self.origin.logfiles, remote, content, now_us=self.origin.this_node.clock_us())

    def hear_all(self, run: RunRecord, reports: list[Report]) -> list[Applied]:
        return [self.hear(run, report.content) for report in reports]

    def remote(self, run: RunRecord) -> RemoteRun:
        remote = self.origin.store.remotes.get(run.run_id)
        assert remote is not None
        return remote

    def run(self, run: RunRecord) -> RunRecord:
        """Return a run as the node that accepted it has it."""
        found = self.origin.store.runs.get(run.run_id)
        assert found is not None
        return found

    def task(self, run: RunRecord, task_id: str) -> TaskRecord:
        found = self.origin.store.tasks.get(run.run_id, task_id)
        assert found is not None
        return found


def no_float(text: str) -> float:
    raise AssertionError(f"{text} is a float, which canonical JSON does not have")


def packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()
