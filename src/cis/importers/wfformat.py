"""Workflows recorded in WfFormat, of the WfCommons project, as DAGs.

Versions 1.5 and 1.6 keep the graph in ``workflow.specification.tasks[]`` (``id``, ``parents``, ``children``) and what
was measured in ``workflow.execution.tasks[]`` (``id``, ``runtimeInSeconds``, ``command``);
https://wfcommons.org/format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from cis.errors import DocumentError, Fault
from cis.model.dag import DagSpec, Json
from cis.model.document import MAX_FAULTS, dag_from_plain
from cis.model.durations import MAX_DURATION_S
from cis.model.ids import MAX_ID_LENGTH, id_fault

VERSIONS = ("1.5", "1.6")
_FOREIGN = re.compile(r"[^A-Za-z0-9._-]+|\.{2,}")


def dag_from_wfformat(plain: Mapping[str, Json], *, scale: float = 1.0, commands: bool = False) -> DagSpec:
    """Return the recorded workflow as a DAG with the same ids and edges.

    Each task sleeps for its recorded run time times *scale*, in seconds; with *commands* it runs the
    recorded command line instead (which wants that tool's programs and files). A task without a record sleeps for
    0 s. Ids that are none of ours are made so, and kept apart.

    Raises:
        DocumentError: not WfFormat 1.5 or 1.6, or a graph that is no DAG.
    """
    version = str(plain.get("schemaVersion", ""))
    if version not in VERSIONS:
        message = f"is {version or 'missing'!r}; WfFormat {' and '.join(VERSIONS)} can be read"
        raise DocumentError([Fault(place="schemaVersion", message=message)])
    recorded = _tasks(plain, "specification")
    measured = {str(task.get("id")): task for task in _tasks(plain, "execution", required=False)}
    names = _names(_ids(recorded))
    parents: dict[str, dict[str, None]] = {name: {} for name in names}
    for number, (parent, child) in _edges(recorded):
        if parent not in names or child not in names:
            missing = child if parent in names else parent
            place = f"workflow.specification.tasks[{number}]"
            raise DocumentError([Fault(place=place, message=f"names the task {missing!r:.140}, which does not exist")])
        parents[child][parent] = None
    tasks: list[Json] = []
    for old, name in names.items():
        record = measured.get(old, {})
        command = _recorded_command(record) if commands else _sleep(record, scale=scale)
        tasks.append({"id": name, "command": command, "depends_on": [names[parent] for parent in parents[old]]})
    dag_id = _cleaned(str(plain.get("name", ""))) or "workflow"
    description = str(plain.get("description") or f"imported from WfFormat {version}")
    return dag_from_plain({"dag_id": dag_id, "description": description, "tasks": tasks})


def _tasks(plain: Mapping[str, Json], part: str, *, required: bool = True) -> Sequence[Mapping[str, Json]]:
    workflow = plain.get("workflow")
    section = workflow.get(part) if isinstance(workflow, dict) else None
    tasks = section.get("tasks") if isinstance(section, dict) else None
    if isinstance(tasks, list) and all(isinstance(task, dict) for task in tasks):
        return tasks
    if required or tasks is not None:
        raise DocumentError([Fault(place=f"workflow.{part}.tasks", message="must be a list of tasks")])
    return ()


def _ids(tasks: Sequence[Mapping[str, Json]]) -> list[str]:
    numbers: dict[str, int] = {}
    faults: list[Fault] = []
    for number, task in enumerate(tasks):
        place = f"workflow.specification.tasks[{number}].id"
        task_id = task.get("id")
        if not isinstance(task_id, str) or not task_id:
            faults.append(Fault(place=place, message="is missing" if task_id is None else "must be a string with text"))
        elif task_id in numbers:
            faults.append(Fault(place=place, message=f"{task_id!r:.140} is the id of task {numbers[task_id]} already"))
        else:
            numbers[task_id] = number
    if faults:
        raise DocumentError(faults[:MAX_FAULTS])
    return list(numbers)


def _edges(tasks: Sequence[Mapping[str, Json]]) -> Iterator[tuple[int, tuple[str, str]]]:
    for number, task in enumerate(tasks):
        for key in ("parents", "children"):
            others = task.get(key) or []
            if not isinstance(others, list):
                place = f"workflow.specification.tasks[{number}].{key}"
                raise DocumentError([Fault(place=place, message="must be a list of ids")])
            for other in map(str, others):
                yield number, (other, task["id"]) if key == "parents" else (task["id"], other)


def _names(ids: Sequence[str]) -> dict[str, str]:
    """Return our id for each of theirs: their own where it is one, else a cleaned one that nobody has."""
    names = {old: old for old in ids if id_fault(old) is None}
    taken = set(names.values())
    last: dict[str, int] = {}
    for old in ids:
        if old in names:
            continue
        cleaned = _cleaned(old) or "task"
        name, stem = cleaned, cleaned[: MAX_ID_LENGTH - 8]
        while name in taken:
            last[stem] = last.get(stem, 1) + 1
            name = f"{stem}-{last[stem]}"
        taken.add(name)
        names[old] = name
    return {old: names[old] for old in ids}


def _cleaned(text: str) -> str:
    return _FOREIGN.sub("-", text).lstrip("._-")[:MAX_ID_LENGTH].rstrip(".-")


def _sleep(record: Mapping[str, Json], *, scale: float) -> list[str]:
    seconds = record.get("runtimeInSeconds", record.get("runtime", 0.0))
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not 0 <= seconds <= MAX_DURATION_S:
        place = f"workflow.execution task {record.get('id')!r:.140}"
        raise DocumentError([Fault(place=place, message="has a malformed run time; give seconds, 0 or more")])
    return ["sleep", f"{seconds * scale:.6f}"]


def _recorded_command(record: Mapping[str, Json]) -> str:
    command = record.get("command")
    place = f"workflow.execution task {record.get('id')!r:.140}"
    if not isinstance(command, dict) or not command.get("program"):
        raise DocumentError([Fault(place=place, message="has no command")])
    arguments = command.get("arguments") or []
    if not isinstance(arguments, list):
        raise DocumentError([Fault(place=place, message="has arguments that are not a list")])
    # Recorders keep redirections and already quoted groups as arguments: they are joined as they stand.
    return " ".join(str(word) for word in (command["program"], *arguments))
