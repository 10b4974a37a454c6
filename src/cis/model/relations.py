"""What holds between the parts of a document: ids, dependencies, cycles, and references to outputs and secrets.

A reference is ``${tasks.ID.outputs.NAME}`` in a task's ``env``, ``params`` or ``cwd``. An id may hold dots; it ends at
the last ``.outputs.`` before the name. What only begins like one is refused, and ``$${`` before such a beginning stands
for ``${``. Anything else in braces is left alone.

The checks work on the plain tree, which may be wrong in any other way, and pass over what is not of the right type.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

from cis.model.dag import COMMAND_SKILL, Json
from cis.model.graph import Graph
from cis.model.ids import did_you_mean
from cis.model.tree import Path, clipped

_REFERENCE = re.compile(r"\$\{tasks\.([A-Za-z0-9][A-Za-z0-9._-]*)\.outputs\.([A-Za-z_][A-Za-z0-9_]*)\}")
OPENING = "${tasks."
_BEGINNING = r"(?:tasks?|params|env|run)\."
_FILLED = re.compile(rf"\$\$\{{(?={_BEGINNING})|{_REFERENCE.pattern}")
_ESCAPED = re.compile(rf"\$\$\{{(?={_BEGINNING})")
_NAMES_NOTHING = re.compile(r"\$\{((task|params|env|run)\.[^}]*)\}?")

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
    "outputs are never pasted into a command; put the reference into env, "
    'as env: {VALUE: "${tasks.ID.outputs.NAME}"}, and use "$VALUE"'
)
Fault = tuple[Path, str]


def references(value: Json) -> Iterator[tuple[str, str]]:
    """Yield (task id, output name) for each reference in a string or in the strings of nested JSON."""
    if isinstance(value, str):
        for match in _REFERENCE.finditer(_ESCAPED.sub("", value)):
            yield match[1], match[2]
    elif isinstance(value, dict):
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def malformed(value: str) -> bool:
    """Whether a string contains a malformed reference."""
    value = _ESCAPED.sub("", value)
    return value.count(OPENING) != sum(1 for _ in _REFERENCE.finditer(value))


def fill(value: Json, lookup: Callable[[str, str], str]) -> Json:
    """Return *value* with each reference in it replaced by ``lookup(task id, name)``, and ``$${`` by ``${``."""
    if isinstance(value, str):
        if "${" not in value:
            return value
        return _FILLED.sub(lambda match: "${" if match[1] is None else lookup(match[1], match[2]), value)
    if isinstance(value, dict):
        return {key: fill(item, lookup) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, lookup) for item in value]
    return value


def unescaped(value: str) -> str:
    """Return a string in which nothing is a reference, with ``$${`` as ``${``."""
    return _ESCAPED.sub("${", value) if "$${" in value else value


def says_otherwise(part: Json, field: str, words: Mapping[str, str]) -> bool:
    """Whether a part of a document says a field in another tool's word."""
    return isinstance(part, Mapping) and any(word == field and name in part for name, word in words.items())


def relation_faults(root: Mapping[str, Json]) -> Iterator[Fault]:
    """Yield each fault that lies between parts, as (path, message)."""
    listed = root.get("tasks")
    tasks = [task if isinstance(task, dict) else {} for task in listed] if isinstance(listed, list) else []
    numbers: dict[str, int] = {}
    for number, task in enumerate(tasks):
        yield from _task_faults(number, task)
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
    yield from _misplaced_references(root, tasks)
    yield from _reference_faults(tasks, numbers, graph)


def _task_faults(number: int, task: Mapping[str, Json]) -> Iterator[Fault]:
    here: Path = ("tasks", number)
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
    if task.get("depends_on") is not None and task.get("deps") is not None:
        yield (*here, "deps"), "is another spelling of depends_on, which is there as well; keep one"
    yield from _secret_faults(here, task)
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


def _misplaced_references(root: Mapping[str, Json], tasks: Sequence[Mapping[str, Json]]) -> Iterator[Fault]:
    defaults = root.get("defaults")
    given = defaults if isinstance(defaults, dict) else {}
    for place, shared in (((), root.get("env")), (("defaults",), given.get("env"))):
        for name, value in shared.items() if isinstance(shared, dict) else ():
            path: Path = (*place, "env", str(name))
            if isinstance(value, str) and OPENING in _ESCAPED.sub("", value):
                yield path, "is for every task, so it cannot refer to the outputs of one; use the task's env"
            yield from _nothing(path, value)
    cwd = given.get("cwd")
    if isinstance(cwd, str) and OPENING in cwd:
        yield ("defaults", "cwd"), "is for every task, so it cannot refer to the outputs of one; use the task's cwd"
    yield from _nothing(("defaults", "cwd"), cwd)
    for number, task in enumerate(tasks):
        command = task.get("command")
        words = command if isinstance(command, list) else [command]
        if any(isinstance(word, str) and OPENING in word for word in words):
            yield ("tasks", number, "command"), _NOT_IN_COMMANDS
        if isinstance(command, str) and task.get("shell") is None and given.get("shell") is None:
            yield from _nothing(("tasks", number, "command"), command)  # what no shell could read either
        shell = task.get("shell")
        if isinstance(shell, str) and OPENING in shell:
            yield ("tasks", number, "shell"), "names a program, and cannot refer to the outputs of a task"


def _reference_faults(tasks: Sequence[Mapping[str, Json]], numbers: Mapping[str, int], graph: Graph) -> Iterator[Fault]:
    distant: list[tuple[Path, int, int]] = []
    for number, task in enumerate(tasks):
        parents = set(graph.parents[number])
        for path, value in _strings(("tasks", number), task, opening="${"):
            yield from _nothing(path, value)
            if malformed(value):
                yield path, "refers to an output, but not as ${tasks.ID.outputs.NAME}"
            for name, _ in references(value):
                other = numbers.get(name)
                if other is None:
                    hint = did_you_mean(name, _near(name, numbers))
                    yield path, f"refers to task {name!r}, which does not exist{hint}"
                elif other == number:
                    yield path, "refers to an output of its own task, which has none before it ran"
                elif other not in parents:
                    distant.append((path, number, other))
    strangers = graph.strangers((number, other) for _, number, other in distant) if distant else set()
    for path, number, other in distant:
        if (number, other) in strangers:
            yield path, f"refers to an output of {_name(tasks[other]['id'])!r}; add it to depends_on"


def _nothing(path: Path, value: Json) -> Iterator[Fault]:
    """Yield a fault for what begins like a reference and names nothing, with the nearest that does."""
    if not isinstance(value, str) or "${" not in value:
        return
    for found in _NAMES_NOTHING.finditer(_ESCAPED.sub("", value)):
        word, rest = found[2], found[1].partition(".")[2]
        if word == "task":
            nearest = f"did you mean ${{tasks.{rest}}}?"
        elif word == "env":
            nearest = f'a command reads "${rest}" from its environment'
        elif rest == "id":
            nearest = 'a command reads "$CIS_RUN_ID"'
        else:
            nearest = "what is filled in is ${tasks.ID.outputs.NAME}"
        yield (
            path,
            f"refers to {clipped(found[0], limit=80)}, which names nothing; {nearest} (that text itself is $${{…}})",
        )


def _strings(here: Path, task: Mapping[str, Json], *, opening: str = OPENING) -> Iterator[tuple[Path, str]]:
    """Yield the strings in which references may stand, if they hold one."""
    params = task.get("params")
    if task.get("skill") == "dag" and isinstance(params, dict) and isinstance(params.get("document"), dict):
        params = {name: value for name, value in params.items() if name != "document"}  # its references are its own
    stack: list[tuple[Path, Json]] = [
        ((*here, key), value) for key, value in (("env", task.get("env")), ("params", params), ("cwd", task.get("cwd")))
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
