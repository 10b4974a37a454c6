"""Workflows recorded in WfFormat, of the WfCommons project, as DAGs.

Versions 1.5 and 1.6 keep the graph in ``workflow.specification.tasks[]`` (``id``, ``parents``, ``children``) and what was
measured in ``workflow.execution.tasks[]`` (``id``, ``runtimeInSeconds``, ``command``); https://wfcommons.org/format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from cis.errors import DocumentError, Fault
from cis.model.dag import DagSpec, Json
from cis.model.document import dag_from_plain
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
    names = _names([_id(task, number) for number, task in enumerate(recorded)])
    parents: dict[str, dict[str, None]] = {name: {} for name in names}
    for number, (parent, child) in _edges(recorded):
        if parent not in names or child not in names:
            missing = child if parent in names else parent
            place = f"workflow.specification.tasks[{number}]"
            raise DocumentError([Fault(place=place, message=f"names the task {missing!r}, which does not exist")])
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


def _id(task: Mapping[str, Json], number: int) -> str:
    if not isinstance(task.get("id"), str):
        raise DocumentError([Fault(place=f"workflow.specification.tasks[{number}].id", message="is missing")])
    return str(task["id"])


def _edges(tasks: Sequence[Mapping[str, Json]]) -> Iterator[tuple[int, tuple[str, str]]]:
    for number, task in enumerate(tasks):
        for parent in task.get("parents") or ():
            yield number, (str(parent), str(task["id"]))
        for child in task.get("children") or ():
            yield number, (str(task["id"]), str(child))


def _names(ids: Sequence[str]) -> dict[str, str]:
    """Return our id for each of theirs: their own where it is one, else a cleaned one that nobody has."""
    names = {old: old for old in ids if id_fault(old) is None}
    taken = set(names.values())
    for old in ids:
        if old in names:
            continue
        cleaned, number = _cleaned(old) or "task", 1
        name = cleaned
        while name in taken:
            number += 1
            name = f"{cleaned[: MAX_ID_LENGTH - 8]}-{number}"
        taken.add(name)
        names[old] = name
    return {old: names[old] for old in ids}


def _cleaned(text: str) -> str:
    return _FOREIGN.sub("-", text).lstrip("._-")[:MAX_ID_LENGTH].rstrip(".-")


def _sleep(record: Mapping[str, Json], *, scale: float) -> list[str]:
    seconds = record.get("runtimeInSeconds", record.get("runtime", 0.0))
    if not isinstance(seconds, int | float) or seconds < 0:
        raise DocumentError([Fault(place=f"workflow.execution task {record.get('id')!r}", message="has no run time")])
    return ["sleep", f"{seconds * scale:.6f}"]


def _recorded_command(record: Mapping[str, Json]) -> str:
    command = record.get("command")
    if not isinstance(command, dict) or not command.get("program"):
        raise DocumentError([Fault(place=f"workflow.execution task {record.get('id')!r}", message="has no command")])
    arguments = [str(argument) for argument in command.get("arguments") or ()]
    # Recorders keep redirections and already quoted groups as arguments: they are joined as they stand.
    return " ".join([str(command["program"]), *arguments])
