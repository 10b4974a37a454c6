"""Whether a DAG that was read back is one: what is stored is not parsed again, but a row may hold anything.

Only what would stop the program is looked at: kinds of values, ids, and dependencies that exist. A hundred thousand
tasks take a second or two; parsing them takes several. Whoever has other things to do meanwhile reads them in pieces.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Mapping
from itertools import islice
from typing import Any

from cis.model.dag import DagSpec, Json, TaskSpec
from cis.model.durations import MAX_DURATION_S
from cis.model.ids import id_fault

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
    _demand(_is_id(spec.dag_id), "dag_id")
    _demand(spec.target_node is None or _is_id(spec.target_node), "target_node")
    _demand(isinstance(spec.description, str), "description")
    _demand(_are_texts(spec.labels), "labels")
    _demand(_is_environment(spec.env), "env")
    _demand(spec.max_parallel is None or _is_count(spec.max_parallel, lowest=1), "max_parallel")
    _demand(spec.expires_s is None or _is_duration(spec.expires_s), "expires")
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
    is_skill = task.command is None and _is_text(task.skill)
    checks = (
        ("id", _is_id(task.id)),
        ("command", is_skill or (task.skill is None and _is_command(task.command))),
        ("params", _is_mapping(task.params)),
        ("depends_on", _are_texts(task.depends_on)),
        ("env", _is_environment(task.env)),
        ("secrets", _is_environment(task.secrets)),
        ("cwd", task.cwd is None or _is_text(task.cwd)),
        ("timeout", task.timeout_s is None or _is_duration(task.timeout_s)),
        ("retry_delay", _is_duration(task.retry_delay_s)),
        ("max_retries", _is_count(task.max_retries, lowest=0)),
        ("max_losses", _is_count(task.max_losses, lowest=0)),
        ("leave", isinstance(task.leave, bool)),
    )
    return next((name for name, holds in checks if not holds), None)


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and id_fault(value) is None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _are_texts(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _is_command(value: Any) -> bool:
    return _is_text(value) if isinstance(value, str) else isinstance(value, tuple) and bool(value) and _are_texts(value)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_environment(value: Any) -> bool:
    return isinstance(value, Mapping) and _are_texts(value.values())


def _is_count(value: Any, *, lowest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and lowest <= value < 2**53


def _is_duration(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and 0 <= value <= MAX_DURATION_S
