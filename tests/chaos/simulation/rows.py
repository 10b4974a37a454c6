"""What the database of a history holds after a commit, as far as the invariants speak of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import apsw

from cis.model.added import added_task
from cis.model.dag import DagSpec, TaskSpec
from cis.store.port import read_spec

TaskKey = tuple[str, int]
AttemptKey = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Run:
    """A run's row."""

    status: str
    version: int
    cancel: int
    definition_id: int
    parent: str | None
    started_at_us: int | None


@dataclass(frozen=True, slots=True)
class Task:
    """A task's row."""

    status: str
    version: int
    attempts: int
    failures: int
    task_id: str
    part_of: int | None
    given: str | None
    outcome: str | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt's row."""

    status: str
    worker_id: str
    epoch: int
    error: str | None


@dataclass(frozen=True, slots=True)
class Rows:
    """All rows of one committed state."""

    runs: dict[str, Run] = field(default_factory=dict)
    tasks: dict[TaskKey, Task] = field(default_factory=dict)
    attempts: dict[AttemptKey, Attempt] = field(default_factory=dict)
    queue: dict[str, tuple[str, int]] = field(default_factory=dict)
    workers: dict[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def unfinished(self) -> list[str]:
        """The runs that are not over."""
        return [run_id for run_id, run in self.runs.items() if run.status in ("pending", "running", "paused")]

    @property
    def running(self) -> list[AttemptKey]:
        """The attempts without an end."""
        return [key for key, attempt in self.attempts.items() if attempt.status == "running"]

    def number(self, run_id: str, task_id: str) -> int:
        """Return the number of a task of a run."""
        return next(no for (run, no), task in self.tasks.items() if (run, task.task_id) == (run_id, task_id))

    def tasks_of(self, run_id: str) -> dict[int, Task]:
        """Return the tasks of a run by their numbers."""
        return {no: task for (run, no), task in self.tasks.items() if run == run_id}

    def instances(self, run_id: str, number: int) -> list[Task]:
        """Return the instances of a task."""
        return [task for task in self.tasks_of(run_id).values() if task.part_of == number]

    def began(self, run_id: str) -> bool:
        """Whether a run ever began."""
        return self.runs[run_id].started_at_us is not None

    def settled(self, run_id: str) -> str | None:
        """Return how a run had ended when its handlers began; None: none did."""
        given = [task.given for task in self.tasks_of(run_id).values() if task.given and task.part_of is None]
        return str(json.loads(given[0])["status"]) if given else None

    def of_task(self, run_id: str, number: int) -> list[tuple[int, Attempt]]:
        """Return the attempts of a task, the first one first."""
        return [(key[2], one) for key, one in self.attempts.items() if key[:2] == (run_id, number)]


def read_rows(connection: apsw.Connection) -> Rows:
    """Return what is committed."""
    runs = connection.execute(
        "SELECT run_id, status, version, cancel_requested, definition_id, parent_run_id, started_at_us FROM dag_runs"
    )
    tasks = connection.execute(
        "SELECT run_id, task_no, status, version, attempts, failures, task_id, part_of, given, outcome FROM run_tasks"
    )
    attempts = connection.execute(
        "SELECT run_id, task_no, attempt, status, worker_id, epoch, error FROM task_executions ORDER BY 1, 2, 3"
    )
    queue = connection.execute("SELECT run_id, status, epoch FROM worker_queue")
    workers = connection.execute("SELECT worker_id, epoch, status FROM workers")
    return Rows(
        runs={row[0]: Run(*row[1:]) for row in runs},
        tasks={(row[0], row[1]): Task(*row[2:]) for row in tasks},
        attempts={(row[0], row[1], row[2]): Attempt(*row[3:]) for row in attempts},
        queue={run_id: (status, epoch) for run_id, status, epoch in queue},
        workers={worker_id: (epoch, status) for worker_id, epoch, status in workers},
    )


@dataclass(frozen=True, slots=True)
class Change:
    """An event that tells of a run (its version) or of a task (its attempts so far)."""

    seq: int
    status: str
    run_id: str
    task_id: str | None
    version: int | None
    attempts: int | None


def read_changes(connection: apsw.Connection, *, after: int) -> list[Change]:
    """Return the committed events of runs and tasks that follow one, in order."""
    found = connection.execute(
        "SELECT seq, status, run_id, task_id, data ->> 'version', data ->> 'attempt' FROM events"
        " WHERE seq > ? AND kind IN ('run', 'task') ORDER BY seq",
        (after,),
    )
    return [Change(*row) for row in found]


class Specs:
    """The documents of the runs, each read once."""

    def __init__(self) -> None:
        self._specs: dict[int, DagSpec] = {}

    def learn(self, connection: apsw.Connection, rows: Rows) -> None:
        """Read the documents that are new."""
        for definition_id in {run.definition_id for run in rows.runs.values()} - self._specs.keys():
            text = connection.execute(
                "SELECT document FROM dag_definitions WHERE definition_id = ?", (definition_id,)
            ).get
            self._specs[definition_id] = read_spec(text)

    def of(self, rows: Rows, run_id: str) -> DagSpec:
        """Return a run's document."""
        return self._specs[rows.runs[run_id].definition_id]

    def task(self, rows: Rows, run_id: str, number: int) -> TaskSpec:
        """Return a task as its document has it; of an instance, the one that it is made of."""
        spec, row = self.of(rows, run_id), rows.tasks[run_id, number]
        found = spec.tasks[number] if row.given is None else added_task(spec, row.task_id, row.part_of)
        assert found is not None, f"{row.task_id} is nothing that the document adds"
        return found

    def parents(self, rows: Rows, run_id: str, number: int) -> list[TaskKey]:
        """Return what a task depends on."""
        ids = [task.id for task in self.of(rows, run_id).tasks]
        if rows.tasks[run_id, number].given is not None and rows.tasks[run_id, number].part_of is None:
            return []
        return [(run_id, ids.index(parent)) for parent in self.task(rows, run_id, number).depends_on]
