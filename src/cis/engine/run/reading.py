"""Reading a run from its rows into a plan, at once or in pieces.

What is read inside a transaction keeps everybody else from writing, and a run of 100,000 tasks takes seconds to read.
So a worker reads a large one before it takes it, piece by piece, and between two pieces does whatever else is due.
Nobody changes the tasks or attempts of a run that is in the queue of this worker id but the worker itself: whatever
else happens to such a run changes the version of its row, which is compared once the transaction has begun
(``cis.engine.run.adoption``).
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence

from cis.engine.ports import SkillBook
from cis.engine.run.plan import RunPlan
from cis.engine.times import Instant
from cis.errors import NotFoundError, PoisonRecordError, StoreError
from cis.model.dag import TaskSpec, read_in_pieces
from cis.model.states import RunState
from cis.model.tree import clipped
from cis.store.port import Store
from cis.store.records import AS_DEFINED, AttemptRecord, QueuedRun, QueueItem, RunRecord, TaskRecord

ROWS_IN_A_PIECE = 500
BYTES_IN_A_PIECE = 2**20
SMALL_TASKS = 500
SMALL_BYTES = 128 * 2**10


def is_small(queued: QueuedRun) -> bool:
    """Whether a run is read in a few milliseconds, so that it may be read inside a transaction."""
    return queued.tasks <= SMALL_TASKS and queued.document_bytes <= SMALL_BYTES


class RunReading:
    """The rows of one run on their way to its plan.

    ``run`` is as it was when the reading began, None when its row is gone; ``plan`` is there once all is read, unless
    the run is over. ``attempts`` are those of its running tasks, by the task's number.
    """

    def __init__(
        self,
        store: Store,
        run_id: str,
        *,
        worker_id: str,
        skills: SkillBook,
        now: Instant,
        item: QueueItem | None = None,
    ) -> None:
        self.run_id = run_id
        self.worker_id = worker_id
        self.run: RunRecord | None = None
        self.plan: RunPlan | None = None
        self.attempts: dict[int, AttemptRecord | None] = {}
        self._store = store
        self._skills = skills
        self._now = now
        self._item = item
        self._steps = self._read()
        self._error: PoisonRecordError | None = None
        self.done = False

    @property
    def begun(self) -> bool:
        """Whether something was read."""
        return self.run is not None or self.done

    def advance(self) -> None:
        """Read one piece more.

        Raises:
            StoreError: the database failed. What cannot be understood is raised by ``finish``.
        """
        try:
            next(self._steps)
        except StopIteration:
            self.done = True
        except PoisonRecordError as error:
            self._error, self.done = error, True
        except StoreError:
            self._steps = self._read()  # what has raised is at its end, and would pass for all that there is
            self.attempts.clear()
            raise
        except (ValueError, RecursionError) as error:
            self._error = PoisonRecordError("a stored DAG", clipped(str(error), limit=500))
            self.done = True

    def finish(self) -> None:
        """Read what is left. Raises PoisonRecordError when the run cannot be read."""
        while not self.done:
            self.advance()
        if self._error is not None:
            raise self._error

    def _read(self) -> Generator[None, None, None]:
        store, run_id = self._store, self.run_id
        self.run = run = store.runs.get(run_id)
        if run is None or run.status.final:
            return
        item = self._item or store.queue.get(run_id)
        text = "" if item is None else item.dag_json
        plain = json.loads(self._defined(run) if text == AS_DEFINED else text)
        if not isinstance(plain, Mapping):
            raise PoisonRecordError("a stored DAG", "it is not a JSON object")
        yield
        spec = yield from read_in_pieces(plain)
        fresh = run.status is RunState.PENDING and run.task_count <= SMALL_TASKS  # few of its rows hold what is long
        tasks = list(store.tasks.of_run(run_id)) if fresh else []
        while not fresh and (some := self._tasks_after(tasks[-1].task_no if tasks else -1)):
            tasks += some
            yield
        if [task.task_id for task in tasks[: len(spec.tasks)]] != [task.id for task in spec.tasks]:
            raise PoisonRecordError(f"run {run_id}", "its tasks are not those of its document")
        if store.attempts.any_stray(run_id):
            raise PoisonRecordError(f"run {run_id}", "it has attempts that none of its tasks made")
        losses = () if fresh else store.attempts.losses(run_id)
        params = store.runs.params(run_id) if spec.params else None
        plan = RunPlan(run, spec, tasks, params=params, losses=losses, is_wait=self._is_wait)
        yield
        yield from plan.place_in_pieces(self._now, size=ROWS_IN_A_PIECE)
        if plan.cyclic:
            raise PoisonRecordError(f"run {run_id}", "its tasks wait for each other")
        for count, number in enumerate(sorted(plan.running | plan.waits | plan.children.keys())):
            task = plan.tasks[number]
            self.attempts[number] = store.attempts.get(run_id, number, task.attempts)
            if count % ROWS_IN_A_PIECE == 0:
                yield
        self.plan = plan

    def _is_wait(self, task: TaskSpec) -> bool:
        return task.skill is not None and self._skills.waits(task.skill)

    def _tasks_after(self, number: int) -> Sequence[TaskRecord]:
        return self._store.tasks.page(self.run_id, number, limit=ROWS_IN_A_PIECE, max_bytes=BYTES_IN_A_PIECE)

    def _defined(self, run: RunRecord) -> str:
        try:
            return self._store.definitions.document(run.definition_id)
        except NotFoundError as error:
            raise PoisonRecordError(f"run {run.run_id}", "its document is gone") from error
