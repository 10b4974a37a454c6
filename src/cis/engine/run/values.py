"""What the references of one run stand for: its parameters, its id, and what its tasks have ended with.

Also what every task of the run sees of them: the DAG's own ``env``, and ``CIS_PARAM_…``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from cis.engine.ports import LONGEST_TEXT
from cis.engine.run.handling import is_handler
from cis.errors import LaunchError
from cis.model.dag import DagSpec, Json
from cis.model.instances import ITEM, MATRIX
from cis.model.references import NoValueError, Reference, fill, text_of
from cis.store.records import TaskRecord

MOST_IN_ENV = LONGEST_TEXT - 256  # bytes of the value of one variable, beside its name


class Values:
    """Looks up references of one run; *tasks* is the plan's own list, so what ends is seen."""

    _many = False

    def __init__(self, run_id: str, spec: DagSpec, tasks: Sequence[TaskRecord], params: Mapping[str, Json]) -> None:
        self._run_id = run_id
        self._spec = spec
        self._tasks = tasks
        self.params = params
        self._parts: dict[int, list[TaskRecord]] = {}  # of tasks that are over, their instances
        self._ended: dict[int, dict[str, Json]] = {}  # of these, what a condition sees

    def of(self, number: int) -> Values:
        """Return them as the task with this number sees them: an instance its item, a handler null for what is not there."""
        if number < len(self._spec.tasks):
            return self
        task = self._tasks[number]
        if is_handler(task):
            return _OfHandler(self._run_id, self._spec, self._tasks, self.params)
        return _OfInstance(self, task)

    @cached_property
    def shared_env(self) -> Mapping[str, str]:
        """The variables of every task: parameters, and the DAG's own. Raises LaunchError.

        A parameter that is too long for a variable has none; it is handed on by ``stdin``.
        """
        given = {f"CIS_PARAM_{name.upper()}": text_of(value) for name, value in self.params.items()}
        given = {name: text for name, text in given.items() if len(text.encode()) <= MOST_IN_ENV}
        return {**given, **{name: self.text(value) for name, value in self._spec.env.items()}}

    def filled(self, value: Json) -> Json:
        """Return *value* with what its references name in their place. Raises LaunchError."""
        try:
            return fill(value, self._lookup, many=self._many)
        except NoValueError as error:
            raise LaunchError(str(error)) from error

    def text(self, value: str) -> str:
        """Return a string with what its references name in their place, as text. Raises LaunchError."""
        return value if "${" not in value else text_of(self.filled(value))

    @cached_property
    def _numbers(self) -> Mapping[str, int]:
        return {task.task_id: number for number, task in enumerate(self._tasks)}

    def _task(self, task_id: str) -> TaskRecord:
        return self._tasks[self._numbers[task_id]]

    def ended(self, task_ids: Iterable[str]) -> dict[str, Json]:
        """Return the status and the outputs of tasks of the document, as a condition sees them."""
        return {one: self._as_ended(self._task(one)) for one in task_ids if one in self._numbers}

    def given(self, number: int) -> Mapping[str, Json]:
        """Return what an instance was given, as a condition sees it."""
        given = json.loads(self._tasks[number].given or "{}")
        return {name: given[name] for name in (ITEM, MATRIX) if name in given}

    def _as_ended(self, task: TaskRecord) -> dict[str, Json]:
        if not self._spec.tasks[task.task_no].is_many:
            return {"status": str(task.status), "outputs": dict(task.outputs)}
        if task.task_no not in self._ended:
            instances = self._of_many(task, Reference("", task.task_id))
            outputs = [one["outputs"] for one in instances]
            names = dict.fromkeys(name for one in outputs for name in one)
            lists = {name: [one.get(name) for one in outputs] for name in names}
            self._ended[task.task_no] = {"status": str(task.status), "outputs": lists, "instances": instances}
        return self._ended[task.task_no]

    def _of_many(self, whole: TaskRecord, reference: Reference) -> Json:
        """Return what the instances of a task have put out under a name, or all that is to be said of them, in order."""
        parts = self._parts.get(whole.task_no)
        if parts is None:
            parts = sorted((task for task in self._tasks if task.part_of == whole.task_no), key=place_of)
            if whole.status.final:
                self._parts[whole.task_no] = parts
        if reference.output is not None:
            return [task.outputs.get(reference.output) for task in parts]
        first = len(whole.task_id) + 1
        return [
            {"key": one.task_id[first:-1], "status": str(one.status), "outputs": dict(one.outputs)} for one in parts
        ]

    def _lookup(self, reference: Reference) -> Json:
        if reference.param is not None:
            if reference.param not in self.params:
                raise NoValueError(f"{reference.text} names no parameter of this run")
            return self.params[reference.param]
        if reference.task is None:
            return self._run_id
        task = self._task(reference.task)
        if reference.instances or (reference.output is not None and self._spec.tasks[task.task_no].is_many):
            return self._of_many(task, reference)
        if reference.output is None:
            return str(task.status)
        if reference.output not in task.outputs:
            has = ", ".join(sorted(task.outputs)) or "none"
            raise NoValueError(f"task {reference.task!r} has no output {reference.output!r} (it has: {has})")
        return task.outputs[reference.output]


class _OfHandler(Values):
    """What a handler sees: it may name every task, and what one has not put out is null."""

    def _lookup(self, reference: Reference) -> Json:
        if reference.output is not None and reference.task is not None:
            return self._task(reference.task).outputs.get(reference.output)
        return super()._lookup(reference)


class _OfInstance(Values):
    """What an instance of a task sees: what it was given, too."""

    _many = True

    def __init__(self, all_of: Values, task: TaskRecord) -> None:
        vars(self).update(vars(all_of))
        self._given: Mapping[str, Json] = json.loads(task.given or "{}")

    def _lookup(self, reference: Reference) -> Json:
        if reference.item:
            return self._given.get(ITEM)
        if reference.matrix is not None:
            return self._given.get(MATRIX, {}).get(reference.matrix)
        return super()._lookup(reference)


def place_of(task: TaskRecord) -> int:
    """Return the place of an instance among those of its task."""
    place: int = json.loads(task.given or "{}").get("place", 0)
    return place
