"""Whether a DAG that was read back is one: what is stored is not parsed again, but a row may hold anything.

Only what would stop the program is looked at: kinds of values, ids, and dependencies that exist. A hundred thousand
tasks take a second or two; parsing them takes several. Whoever has other things to do meanwhile reads them in pieces.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from itertools import islice

from cis.model.dag import DAG_FORM, TASK_FORM, DagSpec, Json, TaskSpec

TASKS_IN_A_PIECE = 500


def check_stored(spec: DagSpec) -> None:
    """Raise ValueError, which says what is wrong, unless every field of *spec* holds what it is declared to."""
    for _ in _checks(spec):
        pass


def read_in_pieces(plain: Mapping[str, Json]) -> Generator[None, None, DagSpec]:
    """Return the DAG of *plain*, checked, as ``DagSpec.from_dict`` and ``check_stored`` do; pause after each few tasks.

    Raises:
        ValueError: it is none; PoisonRecordError is one.
    """
    tasks: list[TaskSpec] = []
    try:
        listed = iter(plain["tasks"])
        while some := [TaskSpec.from_dict(task) for task in islice(listed, TASKS_IN_A_PIECE)]:
            tasks += some
            yield
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(repr(error)) from error
    spec = DagSpec.from_dict(plain, tasks=tuple(tasks))
    yield from _checks(spec)
    return spec


def _checks(spec: DagSpec) -> Generator[None, None, None]:
    wrong = DAG_FORM.wrong_field(spec)
    _demand(wrong is None, f"{wrong}")
    _demand(bool(spec.tasks), "tasks")
    for number, task in enumerate(spec.tasks):
        wrong = _wrong_field(task)
        _demand(wrong is None, f"tasks[{number}].{wrong}")
        if not number % TASKS_IN_A_PIECE:
            yield
    known = {task.id for task in spec.tasks}
    _demand(len(known) == len(spec.tasks), "tasks: an id stands twice")
    for number, task in enumerate(spec.tasks):
        _demand(known.issuperset(task.depends_on), f"tasks[{number}].depends_on")
        if not number % TASKS_IN_A_PIECE:
            yield


def _demand(holds: bool, field: str) -> None:  # noqa: FBT001 - it is the condition that is demanded
    if not holds:
        raise ValueError(f"{field} is not what a DAG holds there")


def _wrong_field(task: TaskSpec) -> str | None:
    is_skill = task.command is None and isinstance(task.skill, str) and task.skill
    if not is_skill and (task.command is None or task.skill is not None):
        return "command"
    return TASK_FORM.wrong_field(task)
