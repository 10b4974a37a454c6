"""What the references of one run stand for: its parameters, its id, and what its tasks have ended with.

Also what every task of the run sees of them: the DAG's own ``env``, and ``CIS_PARAM_…``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from cis.engine.ports import LONGEST_TEXT
from cis.engine.run.handling import is_handler
from cis.errors import LaunchError
from cis.model.dag import DagSpec, Json
from cis.model.references import NoValueError, Reference, fill, text_of
from cis.store.records import TaskRecord

MOST_IN_ENV = LONGEST_TEXT - 256  # bytes of the value of one variable, beside its name


class Values:
    """Looks up references of one run; *tasks* is the plan's own list, so what ends is seen."""

    def __init__(self, run_id: str, spec: DagSpec, tasks: Sequence[TaskRecord], params: Mapping[str, Json]) -> None:
        self._run_id = run_id
        self._spec = spec
        self._tasks = tasks
        self._params = params

    def of(self, number: int) -> Values:
        """Return them as the task with this number sees them: to a handler, what a task has not put out is null."""
        if number < len(self._spec.tasks) or not is_handler(self._tasks[number]):
            return self
        return _OfHandler(self._run_id, self._spec, self._tasks, self._params)

    @cached_property
    def shared_env(self) -> Mapping[str, str]:
        """The variables of every task: parameters, and the DAG's own. Raises LaunchError.

        A parameter that is too long for a variable has none; it is handed on by ``stdin``.
        """
        given = {f"CIS_PARAM_{name.upper()}": text_of(value) for name, value in self._params.items()}
        given = {name: text for name, text in given.items() if len(text.encode()) <= MOST_IN_ENV}
        return {**given, **{name: self.text(value) for name, value in self._spec.env.items()}}

    def filled(self, value: Json) -> Json:
        """Return *value* with what its references name in their place. Raises LaunchError."""
        try:
            return fill(value, self._lookup)
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

    def _lookup(self, reference: Reference) -> Json:
        if reference.param is not None:
            if reference.param not in self._params:
                raise NoValueError(f"{reference.text} names no parameter of this run")
            return self._params[reference.param]
        if reference.task is None:
            return self._run_id
        task = self._task(reference.task)
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
