"""A task's ``when``: which names it may use, what can be said of it before it runs, and what it comes to.

It is an expression in CEL (``cis.model.cel``) over ``params``, ``tasks``, ``run`` and ``node``. A task is named in full,
``tasks.ID.status``, ``tasks.ID.outputs`` or ``tasks["an-id"]…``, so that what a condition waits for is known before it
runs. Whoever imports this has a ``when`` at hand: it costs nothing elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import islice
from typing import NamedTuple

from cis.model.cel.checker import BOOL, DYN, INT, LIST, MAP, STRING, Resolve, check
from cis.model.cel.evaluator import Evaluation, evaluate
from cis.model.cel.faults import CelError, CostError, pointed
from cis.model.cel.nodes import Call, Has, Index, Literal, Name, Node, Select, Value, parts
from cis.model.cel.parser import parse
from cis.model.cel.values import kind_of
from cis.model.graph import Graph
from cis.model.ids import did_you_mean
from cis.model.instances import ITEM, MATRIX, is_many, matrix_names
from cis.model.params import is_required, type_of
from cis.model.states import TaskState
from cis.model.task_kinds import MAX_EXPRESSION
from cis.model.tree import Path

MAX_WARNED = 20
_FOLDED_STEPS = 200  # in which it is found out whether a condition is always the same
RUN_FIELDS = ("id", "dag_id", "scope", "trigger", "scheduled_at")
NODE_FIELDS = ("id", "labels", "os", "arch")
_TASK_FIELDS = ("status", "outputs")
INSTANCES = "instances"
_ROOTS = ("params", "tasks", "run", "node")
_GIVEN = {ITEM: "foreach", MATRIX: "matrix"}
_SEEN = frozenset((TaskState.COMPLETED, TaskState.FAILED, TaskState.SKIPPED, TaskState.CANCELLED))
_TYPES = {"string": STRING, "secret": STRING, "integer": INT, "boolean": BOOL, "array": LIST, "object": MAP}


class Judged(NamedTuple):
    """Whether a condition holds, or why it is neither true nor false, and how many steps that took."""

    holds: bool
    error: str | None
    steps: int


class Uses(NamedTuple):
    """What a condition uses: tasks by their ids, parameters (None: any of them), and what an instance is given."""

    tasks: frozenset[str]
    params: frozenset[str] | None
    given: bool = False


class Known(NamedTuple):
    """The document that conditions stand in: its tasks, by their ids, what lies between them, declarations of parameters."""

    tasks: Sequence[Mapping[str, Value]]
    numbers: Mapping[str, int]
    graph: Graph
    params: Mapping[str, Mapping[str, Value]]


def condition_faults(known: Known) -> Iterator[tuple[Path, str]]:
    """Yield what is wrong with the conditions of a document."""
    distant: list[tuple[int, int, str]] = []
    for number, one in enumerate(known.tasks):
        text = one.get("when")
        for message in _faults(number, text, known, distant) if isinstance(text, str) else ():
            yield ("tasks", number, "when"), message
    strangers = known.graph.strangers((number, other) for number, other, _ in distant) if distant else set()
    for number, other, message in distant:
        if (number, other) in strangers:
            yield ("tasks", number, "when"), message


def _faults(number: int, text: str, known: Known, distant: list[tuple[int, int, str]]) -> Iterator[str]:
    if len(text) > MAX_EXPRESSION or not text.strip():
        return  # whoever read the field has said so
    try:
        tree = parse(text)
    except ValueError as error:
        yield str(error)
        return
    parents = set(known.graph.parents[number])

    def task(path: tuple[str, ...], at: int) -> str:
        other, kind = _task(path, known)
        if other == number:
            raise ValueError(f"{path[1]!r} is the task itself, which has neither before it ran")
        if other not in parents:
            why = f"{path[1]!r} does not come before this task; add it to depends_on"
            distant.append((number, other, pointed(why, text, at)))
        return kind

    names: dict[str, Resolve] = {
        "params": lambda path, _: _param(path, known.params),
        "tasks": task,
        "run": partial(_field, RUN_FIELDS, {}),
        "node": partial(_field, NODE_FIELDS, {"labels": LIST}),
    }
    mine = known.tasks[number]
    if mine.get("foreach") is not None:
        names[ITEM] = lambda *_: DYN
    elif mine.get("matrix") is not None:
        names[MATRIX] = partial(_of_matrix, matrix_names(mine))
    checked = check(tree, names, unknown=_unknown)
    for message, at in checked.faults:
        yield pointed(message, text, at)
    if checked.faults:
        return
    if not checked.names:
        yield from _failing(tree, text)
    if checked.kind not in (BOOL, DYN):
        yield pointed(f"a condition is true or false, and this is {checked.kind}", text, tree.at)


def _failing(tree: Node, text: str) -> Iterator[str]:
    """Yield why a condition without names always fails."""
    try:
        evaluate(tree, {}, most_steps=_FOLDED_STEPS)
    except CostError:
        return
    except CelError as error:
        yield pointed(f"this fails whatever happens: {error.message}", text, error.at)


def _unknown(name: str) -> str:
    if name in _GIVEN:
        return f"{name} is known in a task with {_GIVEN[name]} alone"
    return f"there is no {name!r:.60}{did_you_mean(name, _ROOTS) or '; known: ' + ', '.join(_ROOTS)}"


def _param(path: tuple[str, ...], declared: Mapping[str, Mapping[str, Value]]) -> str:
    if len(path) == 1:
        return MAP
    name = path[1]
    if name not in declared:
        known = did_you_mean(name, list(declared)) or (
            f"; known: {', '.join(list(declared)[:20])}" if declared else "; params: declares them"
        )
        raise ValueError(f"params.{name:.60} names nothing{known}")
    one = declared[name]
    may_be_null = not is_required(one) and "default" not in one
    return DYN if len(path) > 2 or may_be_null else _TYPES.get(type_of(one), DYN)


def _task(path: tuple[str, ...], known: Known) -> tuple[int, str]:
    """Return the number of the task that a path names, and the type of what it names."""
    if len(path) == 1:
        raise ValueError('tasks is followed by an id, as tasks.ID.status, tasks.ID.outputs.NAME or tasks["an-id"]')
    name = path[1]
    if name not in known.numbers:
        longer = next((one for one in known.numbers if one.startswith((f"{name}-", f"{name}."))), None)
        near = did_you_mean(name, [one for one in known.numbers if abs(len(one) - len(name)) <= 3][:1000])
        hint = f'; an id with "-" or "." is written tasks[{longer!r}]' if longer else near
        raise ValueError(f"there is no task {name!r:.140}{hint}")
    if len(path) == 2:
        raise ValueError(f"say what of the task: tasks.{name}.status or tasks.{name}.outputs.NAME")
    number = known.numbers[name]
    fields = (*_TASK_FIELDS, INSTANCES) if is_many(known.tasks[number]) else _TASK_FIELDS
    if path[2] not in fields:
        near = did_you_mean(path[2], fields) or f"; it has {', '.join(fields)}"
        raise ValueError(f"a task has no {path[2]!r:.60} here{near}")
    kinds = {"status": STRING, "outputs": MAP, INSTANCES: LIST} if len(path) == 3 else {}
    return number, kinds.get(path[2], DYN)


def _of_matrix(names: Sequence[str], path: tuple[str, ...], _at: int) -> str:
    if len(path) > 1 and names and path[1] not in names:
        near = did_you_mean(path[1], names) or f"; known: {', '.join(names)}"
        raise ValueError(f"the matrix has no name {path[1]!r:.60}{near}")
    return DYN if len(path) > 1 else MAP


def _field(fields: Sequence[str], kinds: Mapping[str, str], path: tuple[str, ...], _at: int) -> str:
    if len(path) == 1:
        return MAP
    if path[1] not in fields:
        near = did_you_mean(path[1], fields) or f"; known: {', '.join(fields)}"
        raise ValueError(f"{path[0]} has no {path[1]!r:.60}{near}")
    always = path[1] not in ("trigger", "scheduled_at")
    return kinds.get(path[1], STRING if always else DYN) if len(path) == 2 else DYN


@lru_cache(maxsize=256)
def uses(text: str) -> Uses:
    """Return which tasks and parameters a condition names; one that cannot be read names none."""
    try:
        return _uses(parse(text))
    except ValueError:
        return Uses(frozenset(), frozenset())


def _uses(tree: Node) -> Uses:
    tasks: set[str] = set()
    params: set[str] = set()
    any_param = given = False
    waiting: list[Node] = [tree]
    while waiting:
        node = waiting.pop()
        owner, name = _named(node)
        if owner is not None and owner.name in ("tasks", "params"):
            (tasks if owner.name == "tasks" else params).add(name)
        elif owner is not None:
            given |= owner.name in _GIVEN
        elif isinstance(node, Name):
            any_param |= node.name == "params"
            given |= node.name in _GIVEN
        else:
            waiting += parts(node)
    return Uses(frozenset(tasks), None if any_param else frozenset(params), given)


def _named(node: Node) -> tuple[Name | None, str]:
    """Return the variable of which a node selects something by a name that is written out, and that name."""
    match node:
        case Select(operand=Name() as owner, field=name) | Has(operand=Name() as owner, field=name):
            return owner, name
        case Index(operand=Name() as owner, place=Literal(value=str() as name)):
            return owner, name
    return None, ""


def judge(text: str, names: Mapping[str, Value]) -> Judged:
    """Return whether a condition holds; it never raises, whatever is stored and whatever the data are."""
    evaluation = Evaluation(names)
    try:
        tree = parse(text)
        value = evaluation.value(tree)
    except CelError as error:
        return Judged(False, pointed(error.message, text, error.at), evaluation.costs.steps)
    except (CostError, ValueError, ArithmeticError, RecursionError) as error:
        return Judged(False, str(error), evaluation.costs.steps)
    if type(value) is not bool:
        wrong = f"a condition is true or false, and this is {kind_of(value)}"
        return Judged(False, pointed(wrong, text, tree.at), evaluation.costs.steps)
    return Judged(value, None, evaluation.costs.steps)


def condition_warnings(conditions: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield what is to be said of conditions that are not wrong, each given with the id of its task."""
    found = (f"task {task_id!r}: when is {why}" for task_id, text in conditions for why in _doubts(text))
    yield from islice(found, MAX_WARNED)


def _doubts(text: str) -> Iterator[str]:
    tree = parse(text)
    try:
        always = evaluate(tree, {}, most_steps=_FOLDED_STEPS)
    except (CelError, CostError):
        always = None
    if isinstance(always, bool):
        yield "always false, so the task never runs" if not always else "always true, and can be left out"
        return
    for word, at in _no_statuses(tree):
        known = ", ".join(sorted(_SEEN))
        hint = did_you_mean(word, sorted(_SEEN))
        yield pointed(f"never so: no task that is over has the status {word!r:.40} ({known}){hint}", text, at)


def _no_statuses(tree: Node) -> Iterator[tuple[str, int]]:
    """Yield the texts that a task's status is compared with, and can never be, with their places."""
    waiting: list[Node] = [tree]
    while waiting:
        node = waiting.pop()
        waiting += parts(node)
        if isinstance(node, Call) and node.function == "==":
            for one, other in (node.args, node.args[::-1]):
                is_text = isinstance(other, Literal) and isinstance(other.value, str)
                if _is_status(one) and isinstance(other, Literal) and is_text and other.value not in _SEEN:
                    yield str(other.value), other.at


def _is_status(node: Node) -> bool:
    if not isinstance(node, Select) or node.field != "status":
        return False
    owner, _ = _named(node.operand)
    return owner is not None and owner.name == "tasks"
