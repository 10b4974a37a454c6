"""Any sequence of changes of runs, tasks and attempts, and what must hold after each."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from cis.errors import IllegalStateError, StaleVersionError
from cis.model.states import AttemptState, RunState, TaskState
from cis.store import open_store
from cis.store.records import RunChange, RunRecord, TaskRecord
from tests.worlds.arrows import LEGAL_RUN, LEGAL_TASK
from tests.worlds.migrated import fast_folder, new_database
from tests.worlds.rows import attempt, attempts_of, put_run


class RunRules(RuleBasedStateMachine):
    """Changes rows as they were read at some time, maybe long ago, and compares with what must hold."""

    reads = Bundle("reads")
    task_reads = Bundle("task_reads")
    examples = 0
    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.folder = fast_folder()
        self.store = open_store(new_database(Path(self.folder.name)))
        self.runs: dict[str, tuple[RunState, int]] = {}
        self.tasks: dict[str, tuple[TaskState, int]] = {}
        self.attempts: dict[tuple[str, int], AttemptState] = {}
        RunRules.examples += 1
        self.successes: dict[str, int] = {}  # run id -> how often a success of its task was accepted

    def teardown(self) -> None:
        """Close the database of this example."""
        self.store.close()
        self.folder.cleanup()

    @initialize(target=reads)
    def begin_with_a_run(self) -> RunRecord:
        """Without a run most rules have nothing to change."""
        return self.put_run()

    @initialize(target=task_reads)
    def begin_with_a_running_task(self) -> TaskRecord:
        """A worker has started it, and its end is to come."""
        run = self.put_run()
        self.start_attempt(run, 1)
        self.change_task(self.store.tasks.of_run(run.run_id)[0], TaskState.RUNNING)
        return self.store.tasks.of_run(run.run_id)[0]

    @rule(target=reads)
    def submit(self) -> RunRecord:
        return self.put_run()

    def put_run(self) -> RunRecord:
        """Store a new run of one task."""
        run_id = f"r{len(self.runs):03}"
        run = put_run(self.store, run_id, tasks=1)
        self.runs[run_id] = (RunState.PENDING, 1)
        self.tasks[run_id] = (TaskState.PENDING, 1)
        return run

    @rule(target=reads, run=reads)
    def read_again(self, run: RunRecord) -> RunRecord:
        return self.read(run)

    def read(self, run: RunRecord) -> RunRecord:
        """Return a run as it is stored now."""
        fresh = self.store.runs.get(run.run_id)
        assert fresh is not None
        return fresh

    @rule(target=task_reads, run=reads)
    def read_task(self, run: RunRecord) -> TaskRecord:
        return self.store.tasks.of_run(run.run_id)[0]

    @rule(run=reads, to=st.sampled_from(RunState))
    def change_as_it_is(self, run: RunRecord, to: RunState) -> None:
        self.change(self.read(run), to)

    @rule(run=reads, to=st.sampled_from(RunState))
    def change(self, run: RunRecord, to: RunState) -> None:
        state, version = self.runs[run.run_id]
        legal = to is run.status or to in LEGAL_RUN.get(run.status, set())
        try:
            with self.store.transaction():
                changed = self.store.runs.change(run, RunChange(status=to))
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
    def change_task_as_it_is(self, task: TaskRecord, to: TaskState) -> None:
        self.change_task(self.store.tasks.of_run(task.run_id)[0], to)

    @rule(task=task_reads, to=st.sampled_from(TaskState))
    def change_task(self, task: TaskRecord, to: TaskState) -> None:
        _, version = self.tasks[task.run_id]
        legal = to is task.status or to in LEGAL_TASK.get(task.status, set())
        try:
            with self.store.transaction():
                self.store.tasks.change([(task, task._replace(status=to))])
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
                self.store.attempts.start([attempt(run.run_id, number)])
            self.attempts[run.run_id, number] = AttemptState.RUNNING

    @rule(run=reads, number=st.integers(1, 2), to=st.sampled_from(AttemptState))
    def end_attempt(self, run: RunRecord, number: int, to: AttemptState) -> None:
        now = self.attempts.get((run.run_id, number))
        try:
            with self.store.transaction():
                self.store.attempts.finish([attempt(run.run_id, number, status=to)])
        except IllegalStateError:
            assert to is AttemptState.RUNNING
        except StaleVersionError:
            assert now is not AttemptState.RUNNING
        else:
            assert now is AttemptState.RUNNING
            self.attempts[run.run_id, number] = to

    @rule(task=task_reads, number=st.integers(1, 2))
    def succeed(self, task: TaskRecord, number: int) -> None:
        """An attempt's success and the end of its task are one change: both are accepted, or neither."""
        if task.status is not TaskState.RUNNING:
            return  # nobody hands in a success of what it does not take for running
        _, version = self.tasks[task.run_id]
        key = (task.run_id, number)
        possible = task.version == version and self.attempts.get(key) is AttemptState.RUNNING
        try:
            with self.store.transaction():
                self.store.attempts.finish([attempt(task.run_id, number, status=AttemptState.COMPLETED)])
                self.store.tasks.change([(task, task._replace(status=TaskState.COMPLETED))])
        except StaleVersionError:
            assert not possible
        else:
            assert possible
            self.attempts[key] = AttemptState.COMPLETED
            self.tasks[task.run_id] = (TaskState.COMPLETED, version + 1)
            self.successes[task.run_id] = self.successes.get(task.run_id, 0) + 1

    @rule(run=reads)
    def set_aside(self, run: RunRecord) -> None:
        with self.store.transaction():
            changed = self.store.runs.set_aside(run.run_id, error="odd", now_us=9)
        state, version = self.runs[run.run_id]
        assert changed is (state in LEGAL_RUN)
        if changed:
            self.runs[run.run_id] = (RunState.FAILED, version + 1)
        task, task_version = self.tasks[run.run_id]
        if task in LEGAL_TASK:
            self.tasks[run.run_id] = (TaskState.CANCELLED, task_version + 1)
        for key, attempt_state in self.attempts.items():
            if key[0] == run.run_id and attempt_state is AttemptState.RUNNING:
                self.attempts[key] = AttemptState.LOST

    @rule()
    def reopen(self) -> None:
        """Nothing of all this is kept in memory."""
        self.store.close()
        self.store = open_store(Path(self.folder.name) / "cis.db")

    @invariant()
    def every_row_is_as_the_model_has_it(self) -> None:
        for run_id, (state, version) in self.runs.items():
            run = self.store.runs.get(run_id)
            assert run is not None
            assert (run.status, run.version) == (state, version)
            task = self.store.tasks.of_run(run_id)[0]
            assert (task.status, task.version) == self.tasks[run_id]
            assert self.successes.get(run_id, 0) <= 1
        stored = {
            (one.run_id, one.attempt): one.status for run_id in self.runs for one in attempts_of(self.store, run_id)
        }
        assert stored == self.attempts
        RunRules.steps += 1
