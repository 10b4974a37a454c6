"""What holds between the parts of a document: ids, dependencies, cycles, and references.

A reference (``cis.model.references``) may stand in a task's ``env``, ``params``, ``cwd``, ``stdin`` and ``secrets``, and
in the items of a ``command`` that is a list; what is for every task may refer to parameters and to the run alone. It
never stands in what a shell reads as code.

The checks work on the plain tree, which may be wrong in any other way, and pass over what is not of the right type.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from cis.model.dag import COMMAND_SKILL, DAG_SKILL, Json
from cis.model.exit_codes import code_faults
from cis.model.graph import Graph
from cis.model.handlers import handlers_of
from cis.model.ids import did_you_mean
from cis.model.instances import MADE_OF, is_many, many_faults, matrix_names
from cis.model.references import Reference, malformed, references
from cis.model.tree import Path, clipped

# What other tools call a field, and what it is here.
WORDS_OF_A_TASK = {
    "needs": "depends_on",
    "after": "depends_on",
    "depends": "depends_on",
    "dependencies": "depends_on",
    "run": "command",
    "script": "command",
    "cmd": "command",
    "name": "id",
    "task_id": "id",
    "uses": "skill",
    "with": "params",
    "environment": "env",
    "dir": "cwd",
    "workdir": "cwd",
    "working_dir": "cwd",
    "working-directory": "cwd",
    "retries": "max_retries",
    "timeout-minutes": "timeout",
}
WORDS_OF_A_DAG = {
    "name": "dag_id",
    "id": "dag_id",
    "steps": "tasks",
    "jobs": "tasks",
    "environment": "env",
    "max-parallel": "max_parallel",
    "max_active_tasks": "max_parallel",
}
# Filled in by the process of the http skill, from its environment, so that it is stored nowhere.
OPENING_OF_SECRET = "${secrets."  # noqa: S105 - how one is written, not a secret
REFERENCE_TO_SECRET = re.compile(r"\$\{secrets\.([A-Za-z_][A-Za-z0-9_]*)\}")

MAX_CYCLE_SHOWN = 20
_NOT_IN_COMMANDS = (
    '{} is never pasted into a command; put the reference into env, as env: {{VALUE: {!r}}}, and use "$VALUE"'
)
_SHELLS = frozenset(("sh", "bash", "dash", "zsh", "ksh", "mksh", "ash", "fish", "busybox"))
_READS_CODE = re.compile(r"-[A-Za-z]*c")
Fault = tuple[Path, str]


def says_otherwise(part: Json, field: str, words: Mapping[str, str]) -> bool:
    """Whether a part of a document says a field in another tool's word."""
    return isinstance(part, Mapping) and any(word == field and name in part for name, word in words.items())


def relation_faults(root: Mapping[str, Json]) -> Iterator[Fault]:
    """Yield each fault that lies between parts, as (path, message)."""
    listed = root.get("tasks")
    tasks = [task if isinstance(task, dict) else {} for task in listed] if isinstance(listed, list) else []
    numbers: dict[str, int] = {}
    for number, task in enumerate(tasks):
        yield from _task_faults(("tasks", number), task)
        task_id = _name(task.get("id"))
        if task_id is None:
            continue
        if task_id in numbers:
            first = numbers[task_id]
            yield ("tasks", number, "id"), f"{task_id!r} is the id of tasks[{first}] already"
        else:
            numbers[task_id] = number
    parents: list[list[int]] = []
    for number, task in enumerate(tasks):
        parents.append([])
        for path, name in _dependencies(number, task):
            if name == _name(task.get("id")):
                yield path, f"task {name!r} depends on itself"
            elif name not in numbers:
                yield path, f"there is no task {name!r}{did_you_mean(name, _near(name, numbers))}"
            else:
                parents[-1].append(numbers[name])
    graph = Graph.from_parents(parents)
    cycle = graph.find_cycle()
    if cycle is not None:
        names = [_name(tasks[number].get("id")) or f"tasks[{number}]" for number in cycle]
        yield ("tasks", cycle[0], "depends_on"), f"the tasks wait for each other: {_spelled(names)}"
    declared = root.get("params")
    handlers = [(("handlers", name), task) for name, task in handlers_of(root) if isinstance(task, dict)]
    params = [*map(str, declared)] if isinstance(declared, dict) else []
    known = _Known(tasks, numbers, graph, params, handlers)
    for here, task in handlers:
        yield from _task_faults(here, task)
    yield from _misplaced_references(root, known)
    yield from _reference_faults(known)
    yield from _handler_faults(known)
    yield from _condition_faults(known, declared if isinstance(declared, dict) else {})


def _task_faults(here: Path, task: Mapping[str, Json]) -> Iterator[Fault]:
    command, skill = task.get("command"), task.get("skill")
    if not task:
        return
    if command is not None and skill is not None:
        yield here, "has both command and skill; a task is one of them"
    elif command is None and skill is None and not says_otherwise(task, "command", WORDS_OF_A_TASK):
        yield here, "has neither command nor skill; a task is one of them"
    if command is not None and skill is None and task.get("params") is not None:
        yield (*here, "params"), "goes with skill; a command gets what it needs through env"
    if task.get("shell") is not None and isinstance(command, list):
        yield (*here, "shell"), "goes with a command that is text; a list is run without a shell"
    elif task.get("shell") is not None and skill not in (None, COMMAND_SKILL):
        yield (*here, "shell"), f"goes with a command; the skill {_name(skill)!r:.60} has none"
    if task.get("stdin") is not None and skill not in (None, COMMAND_SKILL):
        yield (*here, "stdin"), f"goes with a command; the skill {_name(skill)!r:.60} has its params"
    if task.get("output") is not None and skill == DAG_SKILL:
        yield (*here, "output"), "goes with a command; a DAG hands up what its document names in outputs"
    if task.get("depends_on") is not None and task.get("deps") is not None:
        yield (*here, "deps"), "is another spelling of depends_on, which is there as well; keep one"
    yield from _secret_faults(here, task)
    yield from code_faults(here, task)
    yield from many_faults(here, task)
    agrees = {"shell": "command", "skill": "skill"}.get(str(task.get("type")))
    if agrees is not None and task.get(agrees) is None:
        yield (*here, "type"), f"{task['type']!r} does not agree: the task has no {agrees}"


def _secret_faults(here: Path, task: Mapping[str, Json]) -> Iterator[Fault]:
    asked, env, skill = task.get("secrets"), task.get("env"), task.get("skill")
    given = {str(name) for name in asked} if isinstance(asked, dict | list) else set()
    if asked is not None and skill == "dag":
        yield (*here, "secrets"), "are not handed to a DAG as a task; its own tasks ask for those that they need"
    for name in sorted(given & env.keys()) if isinstance(env, dict) else ():
        yield (*here, "secrets"), f"give {name} a value, and so does env; keep one"
    for path, value in _strings(here, task, opening=OPENING_OF_SECRET) if skill == "http" else ():
        if path[2] != "params":
            yield path, "refers to a secret, which is filled in only in params"
        elif value.count(OPENING_OF_SECRET) != len(REFERENCE_TO_SECRET.findall(value)):
            yield path, "refers to a secret, but not as ${secrets.NAME}"
        for name in REFERENCE_TO_SECRET.findall(value):
            if name not in given:
                yield path, f"refers to the secret {name}; add it to the task's secrets"


def _dependencies(number: int, task: Mapping[str, Json]) -> Iterator[tuple[Path, str]]:
    for key in ("depends_on", "deps"):
        names = task.get(key)
        if _name(names) is not None:
            yield ("tasks", number, key), str(_name(names))
        for place, name in enumerate(names if isinstance(names, list) else ()):
            text = _name(name)
            if text is not None:
                yield ("tasks", number, key, place), text


class _Known(NamedTuple):
    """What references may name: the tasks by their ids, what lies between them, and the parameters."""

    tasks: Sequence[Mapping[str, Json]]
    numbers: Mapping[str, int]
    graph: Graph
    params: Sequence[str]
    handlers: Sequence[tuple[Path, Mapping[str, Json]]] = ()

    @property
    def placed(self) -> Iterator[tuple[Path, Mapping[str, Json]]]:
        """The tasks and the handlers, each behind its place."""
        yield from ((("tasks", number), task) for number, task in enumerate(self.tasks))
        yield from self.handlers


def _misplaced_references(root: Mapping[str, Json], known: _Known) -> Iterator[Fault]:
    defaults = root.get("defaults")
    given = defaults if isinstance(defaults, dict) else {}
    for place, part in (((), root), (("defaults",), given)):
        for path, value in _strings(place, part, fields=("env", "cwd")):
            for one in references(value):
                if one.task is not None:
                    yield path, f"is for every task, so it cannot refer to one; use the task's {path[len(place)]}"
            yield from _unknown(path, value, known)
    yield from _handed_up_faults(root, known)
    for here, task in known.placed:
        command, shell, many = task.get("command"), task.get("shell"), is_many(task)
        if isinstance(task.get("stdin"), str) and _reads_code(command):
            yield from _pasted((*here, "stdin"), task["stdin"], many=many)
        if isinstance(command, str):
            yield from _pasted((*here, "command"), command, many=many)
            if shell is None and given.get("shell") is None:  # what no shell could read either
                yield from _unknown((*here, "command"), command, known)
        for item in _code(command):
            yield from _pasted((*here, "command", item), command[item] if isinstance(command, list) else "", many=many)
        for one in references(shell, many=many):
            yield (*here, "shell"), f"names a program, and cannot hold {one.text}"


def _handed_up_faults(root: Mapping[str, Json], known: _Known) -> Iterator[Fault]:
    for path, value in _strings((), root, fields=("outputs",)):
        yield from _unknown(path, value, known)
        for one in references(value):
            if one.task is not None and one.task not in known.numbers:
                yield path, _no_task(one.task, known)


def _pasted(path: Path, code: str, *, many: bool) -> Iterator[Fault]:
    found = next(references(code, many=many), None)
    if found is not None:
        what = "an output of a task" if found.task else "a parameter" if found.param else found.text
        yield path, _NOT_IN_COMMANDS.format(what, found.text)


def _code(command: Json) -> Iterator[int]:
    """Yield the places in a list of arguments that a shell reads as code: behind its ``-c``."""
    if not isinstance(command, list):
        return
    words = [word if isinstance(word, str) else "" for word in command]
    shell = next((place for place, word in enumerate(words) if word.rpartition("/")[2] in _SHELLS), len(words))
    for place in range(shell + 2, len(words)):
        if _READS_CODE.fullmatch(words[place - 1]) and "${" in words[place]:
            yield place


def _reads_code(command: Json) -> bool:
    """Whether a list of arguments is a shell that reads its code from standard input."""
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        return False
    name, *rest = [word.rpartition("/")[2] for word in command[:1]] + command[1:]
    return name in _SHELLS and (
        all(word.startswith("-") for word in rest) and not any(map(_READS_CODE.fullmatch, rest))
    )


def _reference_faults(known: _Known) -> Iterator[Fault]:
    distant: list[tuple[Path, int, int]] = []
    for number, task in enumerate(known.tasks):
        parents = set(known.graph.parents[number])
        code = {("tasks", number, "command", place) for place in _code(task.get("command"))}
        for path, value in _strings(("tasks", number), task, fields=_MAY_REFER):
            if path in code:
                continue
            many = is_many(task) and path[2] not in MADE_OF
            yield from _unknown(path, value, known, many=many)
            for one in references(value, many=many):
                yield from _of_no_instance(path, one, task)
                other = None if one.task is None else known.numbers.get(one.task)
                if other is None or other == number:
                    yield from _of_no_other(path, one, known)
                    continue
                if one.instances and not is_many(known.tasks[other]):
                    yield path, f"refers to instances of {one.task!r}, which has no foreach or matrix"
                elif other not in parents:
                    distant.append((path, number, other))
    strangers = known.graph.strangers((number, other) for _, number, other in distant) if distant else set()
    for path, number, other in distant:
        if (number, other) in strangers:
            yield path, f"refers to an output of {_name(known.tasks[other]['id'])!r}; add it to depends_on"


def _of_no_other(path: Path, one: Reference, known: _Known) -> Iterator[Fault]:
    """Yield what is wrong with a reference that names no other task."""
    if one.task is None:
        return
    if one.task not in known.numbers:
        yield path, _no_task(one.task, known)
    else:
        yield path, f"refers to {_part(one)} of its own task, which has none before it ran"


def _of_no_instance(path: Path, one: Reference, task: Mapping[str, Json]) -> Iterator[Fault]:
    """Yield what is wrong with a reference to what an instance is given."""
    names = matrix_names(task) if one.matrix is not None else []
    if one.matrix is not None and one.matrix not in names:
        yield path, f"refers to {one.text}, for which the matrix has no name{did_you_mean(one.matrix, names)}"
    if one.item and task.get("foreach") is None:
        yield path, f"refers to {one.text}, and the task has no foreach; ${{matrix.NAME}} is what it is given"


def _handler_faults(known: _Known) -> Iterator[Fault]:
    """Yield what references of handlers do not name; they may name every task."""
    for here, task in known.handlers:
        code = {(*here, "command", place) for place in _code(task.get("command"))}
        for path, value in _strings(here, task, fields=_MAY_REFER):
            if path in code:
                continue
            yield from _unknown(path, value, known)
            for one in references(value):
                if one.task is not None and one.task not in known.numbers:
                    yield path, _no_task(one.task, known)


def _condition_faults(known: _Known, declared: Mapping[str, Json]) -> Iterator[Fault]:
    if any(isinstance(task.get("when"), str) for task in known.tasks):
        from cis.model.conditions import Known, condition_faults  # noqa: PLC0415 - most documents have none

        params = {str(name): one if isinstance(one, dict) else {} for name, one in declared.items()}
        yield from condition_faults(Known(known.tasks, known.numbers, known.graph, params))


def _no_task(name: str, known: _Known) -> str:
    return f"refers to task {name!r}, which does not exist{did_you_mean(name, _near(name, known.numbers))}"


def _part(reference: Reference) -> str:
    return "an output" if reference.output is not None else "the status"


def _unknown(path: Path, value: Json, known: _Known, *, many: bool = False) -> Iterator[Fault]:
    """Yield a fault for what begins like a reference and names nothing, with the nearest that does."""
    if not isinstance(value, str) or "${" not in value:
        return
    for text in malformed(value, many=many):
        word, _, rest = text.removeprefix("${").removesuffix("}").partition(".")
        if word == "tasks":
            yield path, "refers to an output, but not as ${tasks.ID.outputs.NAME}"
            continue
        if many and word in ("matrix", "item"):
            yield path, f"refers to {clipped(text, limit=80)}, but not as ${{item}}, ${{item.key}} or ${{matrix.NAME}}"
            continue
        nearest = f"what is filled in is ${{tasks.ID.outputs.NAME}}{' or ${params.NAME}' if known.params else ''}"
        if word == "task":
            nearest = f"did you mean ${{tasks.{rest}}}?"
        elif word == "env":
            nearest = f'a command reads "${rest}" from its environment'
        yield path, f"refers to {clipped(text, limit=80)}, which names nothing; {nearest} (that text itself is $${{…}})"
    for one in references(value, many=many):
        if one.param is not None and one.param not in known.params:
            nearest = did_you_mean(one.param, list(known.params)) or (
                f"; known: {', '.join(known.params[:20])}" if known.params else "; params: declares them"
            )
            yield (
                path,
                f"refers to {clipped(one.text, limit=80)}, which names nothing{nearest} (that text itself is $${{…}})",
            )


_MAY_REFER = ("env", "params", "cwd", "stdin", "secrets", "command", *MADE_OF)


def _strings(
    here: Path, part: Mapping[str, Json], *, fields: Sequence[str] = ("env", "params", "cwd"), opening: str = "${"
) -> Iterator[tuple[Path, str]]:
    """Yield the strings in which references may stand, if they hold one."""
    params = part.get("params")
    if part.get("skill") == "dag" and isinstance(params, dict) and isinstance(params.get("document"), dict):
        params = {name: value for name, value in params.items() if name != "document"}  # its references are its own
    stack: list[tuple[Path, Json]] = [
        ((*here, key), params if key == "params" else part.get(key))
        for key in fields
        if key != "command" or isinstance(part.get(key), list)
    ]
    while stack:
        path, value = stack.pop()
        if isinstance(value, str):
            if opening in value:
                yield path, value
        elif isinstance(value, dict):
            stack.extend(((*path, str(key)), item) for key, item in value.items())
        elif isinstance(value, list):
            stack.extend(((*path, place), item) for place, item in enumerate(value))


def _spelled(names: Sequence[str]) -> str:
    if len(names) <= MAX_CYCLE_SHOWN:
        return " -> ".join([*names, names[0]])
    return f"{' -> '.join(names[:MAX_CYCLE_SHOWN])} -> … -> {names[0]} ({len(names):,} tasks)"


def _near(name: str, numbers: Mapping[str, int]) -> list[str]:
    """Return the ids worth comparing with *name*: a document may have 100,000."""
    return list(islice((known for known in numbers if abs(len(known) - len(name)) <= 3), 1000))


def _name(value: Json) -> str | None:
    text = getattr(value, "text", value)
    return text if isinstance(text, str) else None
