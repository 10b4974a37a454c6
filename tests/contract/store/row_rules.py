"""Rules and invariants of runs, tasks, attempts and the queue, for a machine that draws any sequence of changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from cis.errors import IllegalStateError, StaleVersionError
from cis.model.dag import Priority
from cis.model.states import AttemptState, RunState, TaskState
from cis.store.records import RunChange, RunRecord, TaskRecord
from cis.store.sqlite.store import open_sqlite
from tests.arrows import LEGAL_RUN, LEGAL_TASK
from tests.contract.store.rows import WORKER, attempt, item, put_run
from tests.migrated import fast_folder, new_database

QUEUED, SUSPENDED = 0, -1  # what stands in the queue's model for an epoch when no worker holds the run


class RowRules(RuleBasedStateMachine):
    """Changes rows as they were read at some time, maybe long ago, and compares with what must hold."""

    reads = Bundle("reads")
    task_reads = Bundle("task_reads")

    def __init__(self) -> None:
        super().__init__()
        self.folder = fast_folder()
        self.store = open_sqlite(new_database(Path(self.folder.name)))
        self.runs: dict[str, tuple[RunState, int]] = {}
        self.tasks: dict[str, tuple[TaskState, int]] = {}
        self.attempts: dict[tuple[str, int], AttemptState] = {}
        self.epoch = 0
        self.queue: dict[str, tuple[Priority, int]] = {}  # run id -> priority, and the epoch that holds it
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
        self.change_task(self.store.tasks(run.run_id)[0], TaskState.RUNNING)
        return self.store.tasks(run.run_id)[0]

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
        fresh = self.store.run(run.run_id)
        assert fresh is not None
        return fresh

    @rule(target=task_reads, run=reads)
    def read_task(self, run: RunRecord) -> TaskRecord:
        return self.store.tasks(run.run_id)[0]

    @rule(run=reads, to=st.sampled_from(RunState))
    def change_as_it_is(self, run: RunRecord, to: RunState) -> None:
        self.change(self.read(run), to)

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
    def change_task_as_it_is(self, task: TaskRecord, to: TaskState) -> None:
        self.change_task(self.store.tasks(task.run_id)[0], to)

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

    @rule(task=task_reads, number=st.integers(1, 2))
    def succeed(self, task: TaskRecord, number: int) -> None:
        """An attempt's success and the end of its task are one change: both are accepted, or neither."""
        key = (task.run_id, number)
        _, version = self.tasks[task.run_id]
        possible = (
            task.version == version
            and task.status is TaskState.RUNNING
            and self.attempts.get(key) is AttemptState.RUNNING
        )
        try:
            with self.store.transaction():
                self.store.finish_attempts([attempt(task.run_id, number, status=AttemptState.COMPLETED)])
                self.store.change_tasks([(task, replace(task, status=TaskState.COMPLETED))])
        except (IllegalStateError, StaleVersionError):
            assert not possible or task.status is TaskState.COMPLETED
        else:
            # The task may have been read when it had ended already: that changes nothing but its version.
            assert possible or task.status is TaskState.COMPLETED
            self.attempts[key] = AttemptState.COMPLETED
            self.tasks[task.run_id] = (TaskState.COMPLETED, version + 1)
            self.successes[task.run_id] = self.successes.get(task.run_id, 0) + 1

    @rule(run=reads, priority=st.sampled_from(Priority))
    def enqueue(self, run: RunRecord, priority: Priority) -> None:
        if run.run_id not in self.queue:
            with self.store.transaction():
                self.store.enqueue("n", item(run.run_id, priority=priority))
            self.queue[run.run_id] = (priority, QUEUED)

    @rule(limit=st.integers(1, 3), above=st.sampled_from([None, *Priority]))
    def claim(self, limit: int, above: Priority | None) -> None:
        """The most urgent first, then who waits longest; a dict keeps the order in which runs came."""
        waiting = [
            (p, run_id) for run_id, (p, held) in self.queue.items() if held == QUEUED and (above is None or p > above)
        ]
        expected = [run_id for _, run_id in sorted(waiting, key=lambda one: -one[0])[:limit]]
        epoch = max(self.epoch, 1)
        with self.store.transaction():
            claimed = self.store.claim("n", WORKER, epoch=epoch, limit=limit, above=above)
        assert [one.run_id for one in claimed] == expected
        self.queue.update({run_id: (self.queue[run_id][0], epoch) for run_id in expected})

    @rule(run=reads)
    def release(self, run: RunRecord) -> None:
        with self.store.transaction():
            self.store.release(run.run_id)
        self.stand(run.run_id, QUEUED)

    @rule(run=reads)
    def suspend(self, run: RunRecord) -> None:
        with self.store.transaction():
            self.store.suspend(run.run_id)
        self.stand(run.run_id, SUSPENDED)

    def stand(self, run_id: str, held: int) -> None:
        """Note where a run stands in the queue, if it is in it."""
        if run_id in self.queue:
            self.queue[run_id] = (self.queue[run_id][0], held)

    @rule(run=reads)
    def dequeue(self, run: RunRecord) -> None:
        with self.store.transaction():
            self.store.dequeue(run.run_id)
        self.queue.pop(run.run_id, None)

    @rule(run=reads)
    def set_aside(self, run: RunRecord) -> None:
        with self.store.transaction():
            changed = self.store.set_aside(run.run_id, error="odd", now_us=9)
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
        self.queue.pop(run.run_id, None)

    @rule()
    def reopen(self) -> None:
        """Nothing of all this is kept in memory."""
        self.store.close()
        self.store = open_sqlite(Path(self.folder.name) / "cis.db")

    @invariant()
    def every_row_is_as_the_model_has_it(self) -> None:
        self.check_rows()

    def check_rows(self) -> None:
        """Compare what is stored with what should be."""
        for run_id, (state, version) in self.runs.items():
            run = self.store.run(run_id)
            assert run is not None
            assert (run.status, run.version) == (state, version)
            task = self.store.tasks(run_id)[0]
            assert (task.status, task.version) == self.tasks[run_id]
            assert self.successes.get(run_id, 0) <= 1
        stored = {(one.run_id, one.attempt): one.status for run_id in self.runs for one in self.store.attempts(run_id)}
        assert stored == self.attempts

    @invariant()
    def the_queue_is_as_the_model_has_it(self) -> None:
        held = {one.run_id: one.epoch for one in self.store.claimed("n", WORKER)}
        assert held == {run_id: epoch for run_id, (_, epoch) in self.queue.items() if epoch > 0}
        waiting = [priority for priority, epoch in self.queue.values() if epoch == QUEUED]
        assert self.store.queued_count("n") == len(waiting)
        demand = self.store.queue_demand("n")
        assert [(one.count, one.priority) for one in demand] == ([(len(waiting), max(waiting))] if waiting else [])
