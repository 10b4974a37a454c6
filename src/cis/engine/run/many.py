"""A task that is made into many while its run goes on: how many of its instances are open, may start, and how it ends.

Its row runs from the moment at which its instances are stored, all of them in one transaction, until the last of them
is over. It has no attempts of its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from cis.engine.run.values import Values
from cis.errors import LaunchError
from cis.model.dag import Json, TaskSpec
from cis.model.instances import MAX_ITEMS_BYTES, Instance, of_list, of_matrix
from cis.model.states import Outcome, TaskState
from cis.store.records import TaskRecord


class Many:
    """The instances of one task, by their numbers; ``held`` wait for a place (``max_parallel``), ``active`` have one."""

    def __init__(self, spec: TaskSpec) -> None:
        self.spec = spec
        self.numbers: list[int] = []
        self.held: dict[int, None] = {}  # in order
        self.undecided: set[int] = set()  # whose condition is to be judged, before they get a place
        self.active = 0
        self.open = 0
        self.stopped = False  # by fail_fast: the others are cancelled

    def add(self, task: TaskRecord) -> None:
        """Know one more instance."""
        self.numbers.append(task.task_no)
        if not task.status.final:
            self.open += 1
            self.active += self.has_place(task)

    @staticmethod
    def has_place(task: TaskRecord) -> bool:
        """Whether an instance that is not over has begun: it keeps its place through retries, and through restarts."""
        return task.status is TaskState.RUNNING or task.attempts > 0

    def may_start(self, number: int) -> bool:
        """Whether an instance that could start has a place; if not it is held."""
        limit = self.spec.max_parallel
        if limit is not None and self.active >= limit:
            self.held[number] = None
            return False
        self.active += 1
        return True

    def take_end(self, number: int) -> int | None:
        """Note that an instance is over; return one that gets its place, if it had one."""
        self.open -= 1
        if number in self.undecided or number in self.held:
            self.undecided.discard(number)
            self.held.pop(number, None)
            return None
        self.active -= 1
        if not self.held:
            return None
        self.active += 1
        following = next(iter(self.held))
        del self.held[following]
        return following


def instances_of(task: TaskSpec, values: Values) -> list[Instance]:
    """Return the instances that a task is made into now. Raises LaunchError, which says why there are none."""
    try:
        made = (
            of_list(_list(values.filled(task.foreach))) if task.foreach is not None else of_matrix(_lists(task, values))
        )
    except ValueError as error:
        raise LaunchError(f"{'matrix' if task.matrix else 'foreach'}: {error}") from error
    size = sum(len(json.dumps(one.given)) for one in made)
    if size > MAX_ITEMS_BYTES:
        raise LaunchError(
            f"its items are {size:,} bytes of JSON, and may be {MAX_ITEMS_BYTES:,}; have it write files, and name their paths"
        )
    return made


def is_for_instances(task: TaskSpec) -> bool:
    """Whether the condition of a task is judged for each of its instances: it names what these are given."""
    from cis.model.conditions import uses  # noqa: PLC0415 - few tasks have one

    return uses(task.when or "").given


def rows_of(
    whole: TaskRecord, made: Sequence[Instance], *, first: int, there: Sequence[TaskRecord]
) -> list[TaskRecord]:
    """Return the rows of a task's instances from number *first* on, but for those that are *there* (a rerun kept them)."""
    kept = {task.task_id for task in there}
    rows: list[TaskRecord] = []
    for place, one in enumerate(made):
        task_id = f"{whole.task_id}[{one.key}]"
        if task_id not in kept:
            given = json.dumps({**one.given, "place": place}, ensure_ascii=False)
            number = first + len(rows)
            rows.append(
                TaskRecord(run_id=whole.run_id, task_no=number, task_id=task_id, part_of=whole.task_no, given=given)
            )
    return rows


def end_of(parts: Sequence[TaskRecord], *, given_up: bool) -> tuple[TaskState, Outcome | None, str | None]:
    """Return how a task ends whose instances are all over: its state, what that counts as, and what is said of it."""
    failed = sum(task.counts_as_failed for task in parts)
    if given_up and any(task.status is TaskState.CANCELLED for task in parts):
        return TaskState.CANCELLED, None, None
    if failed:
        own = sum(task.is_failure for task in parts)
        others = f", and {failed - own:,} were cancelled" if failed > own else ""
        return TaskState.FAILED, None, f"{own:,} of {len(parts):,} instances failed{others}"
    if parts and all(task.status is TaskState.SKIPPED for task in parts):
        return TaskState.SKIPPED, parts[0].outcome, None
    return TaskState.COMPLETED, None, None


def _lists(task: TaskSpec, values: Values) -> dict[str, Json]:
    return {name: _list(values.filled(items)) for name, items in task.matrix.items()}


def _list(value: Json) -> Json:
    """Return a value, or the JSON list that a text is: what is written by lines is text."""
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return found if isinstance(found, list) else value
    return value
