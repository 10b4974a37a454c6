"""Runs, tasks and the worker's epoch under any sequence of changes: no illegal state can be stored."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from cis.errors import FencedError, IllegalStateError, StaleVersionError
from cis.model.states import AttemptState, RunState, TaskState
from cis.store.records import RunChange, RunRecord, TaskRecord
from cis.store.sqlite.store import open_sqlite
from tests.contract.store.rows import WORKER, attempt, put_run, worker

LEGAL_RUN = {
    RunState.PENDING: {RunState.RUNNING, RunState.PAUSED, RunState.FAILED, RunState.CANCELLED},
    RunState.RUNNING: {RunState.PAUSED, RunState.COMPLETED, RunState.FAILED, RunState.CANCELLED},
    RunState.PAUSED: set(RunState) - {RunState.PAUSED},
}
LEGAL_TASK = {
    TaskState.PENDING: {TaskState.RUNNING, TaskState.FAILED, TaskState.SKIPPED, TaskState.CANCELLED},
    TaskState.RUNNING: {TaskState.PENDING, TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED},
}


class Machine(RuleBasedStateMachine):
    """Changes rows as they were read at some time, maybe long ago, and compares with what must hold."""

    reads = Bundle("reads")
    task_reads = Bundle("task_reads")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = open_sqlite(Path(self.folder.name) / "cis.db")
        self.runs: dict[str, tuple[RunState, int]] = {}
        self.tasks: dict[str, tuple[TaskState, int]] = {}
        self.attempts: dict[tuple[str, int], AttemptState] = {}
        self.epoch = 0

    def teardown(self) -> None:
        """Close the database of this example."""
        self.store.close()
        self.folder.cleanup()

    @rule(target=reads)
    def submit(self) -> RunRecord:
        run_id = f"r{len(self.runs):03}"
        run = put_run(self.store, run_id, tasks=1)
        self.runs[run_id] = (RunState.PENDING, 1)
        self.tasks[run_id] = (TaskState.PENDING, 1)
        return run

    @rule(target=reads, run=reads)
    def read(self, run: RunRecord) -> RunRecord:
        fresh = self.store.run(run.run_id)
        assert fresh is not None
        return fresh

    @rule(target=task_reads, run=reads)
    def read_task(self, run: RunRecord) -> TaskRecord:
        return self.store.tasks(run.run_id)[0]

    @rule(run=reads, to=st.sampled_from(RunState))
    def change(self, run: RunRecord, to: RunState) -> None:
        state, version = self.runs[run.run_id]
        legal = to is run.status or to in LEGAL_RUN.get(run.status, set())
        try:
            with self.store.transaction():
                changed = self.store.change_run(run, RunChange(status=to))
        except IllegalStateError:
            assert not legal
        except StaleVersionError:
            assert run.version != version
        else:
            assert legal
            assert run.version == version
            assert run.status is state
            assert changed.version == version + 1
            self.runs[run.run_id] = (to, version + 1)

    @rule(task=task_reads, to=st.sampled_from(TaskState))
    def change_task(self, task: TaskRecord, to: TaskState) -> None:
        _, version = self.tasks[task.run_id]
        legal = to is task.status or to in LEGAL_TASK.get(task.status, set())
        try:
            with self.store.transaction():
                self.store.change_tasks([(task, replace(task, status=to))])
        except IllegalStateError:
            assert not legal
        except StaleVersionError:
            assert task.version != version
        else:
            assert legal
            assert task.version == version
            self.tasks[task.run_id] = (to, version + 1)

    @rule(run=reads, number=st.integers(1, 2))
    def start_attempt(self, run: RunRecord, number: int) -> None:
        if (run.run_id, number) not in self.attempts:
            with self.store.transaction():
                self.store.start_attempts([attempt(run.run_id, number)])
            self.attempts[run.run_id, number] = AttemptState.RUNNING

    @rule(run=reads, number=st.integers(1, 2), to=st.sampled_from(AttemptState))
    def end_attempt(self, run: RunRecord, number: int, to: AttemptState) -> None:
        now = self.attempts.get((run.run_id, number))
        try:
            with self.store.transaction():
                self.store.finish_attempts([attempt(run.run_id, number, status=to)])
        except IllegalStateError:
            assert to is AttemptState.RUNNING
        except StaleVersionError:
            assert now is not AttemptState.RUNNING
        else:
            assert now is AttemptState.RUNNING
            self.attempts[run.run_id, number] = to

    @rule()
    def take_office(self) -> None:
        with self.store.transaction():
            self.epoch += 1
            assert self.store.take_worker(worker()).epoch == self.epoch

    @rule(back=st.integers(0, 2))
    def write_under_an_epoch(self, back: int) -> None:
        try:
            with self.store.transaction():
                self.store.check_epoch("n", WORKER, self.epoch - back)
        except FencedError:
            assert back > 0 or self.epoch == 0
        else:
            assert back == 0

    @rule(run=consumes(reads))
    def forget(self, run: RunRecord) -> None:
        """Let hypothesis drop a read, so that examples do not only grow."""

    @invariant()
    def rows_are_as_the_model_has_them(self) -> None:
        for run_id, (state, version) in self.runs.items():
            run = self.store.run(run_id)
            assert run is not None
            assert (run.status, run.version) == (state, version)
            task = self.store.tasks(run_id)[0]
            assert (task.status, task.version) == self.tasks[run_id]
        stored = {(one.run_id, one.attempt): one.status for run_id in self.runs for one in self.store.attempts(run_id)}
        assert stored == self.attempts


TestStoredStates = Machine.TestCase
TestStoredStates.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
