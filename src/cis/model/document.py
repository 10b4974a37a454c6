"""From a document to a DagSpec: every fault is found in one go, each with its place.

Fields are checked one by one by pydantic (``cis.model.fields``). What holds between tasks (ids, dependencies, cycles
and references) is checked on the plain tree (``cis.model.relations``), so that a wrong field hides no wrong edge. The
JSON Schema of a document (draft 2020-12) is made of the same fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cis.errors import DocumentError, Fault
from cis.model.dag import DEFAULT_MAX_LOSSES, Backoff, DagSpec, Json, OnLost, Priority, TaskSpec
from cis.model.fields import (
    MAX_TASKS,
    BackoffField,
    Command,
    Directory,
    Duration,
    Env,
    Flag,
    Id,
    Ids,
    Labels,
    Losses,
    OnLostField,
    Parallel,
    Params,
    PriorityField,
    Retries,
    ScopeField,
    Secrets,
    Text,
    TimeLimit,
    kind_of,
)
from cis.model.formats import Format, load_document
from cis.model.ids import did_you_mean
from cis.model.relations import relation_faults
from cis.model.tree import Path, Tree, clipped, place

_M = TypeVar("_M", bound=BaseModel)
MAX_FAULTS = 100

_EXAMPLE = {
    "dag_id": "proj-a-nightly",
    "tasks": [
        {"id": "compile", "command": "make all", "timeout": "10m"},
        {"id": "report", "skill": "http", "params": {"url": "http://127.0.0.1:8000/done"}, "depends_on": ["compile"]},
    ],
}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


class Tries(_Model):
    """How a task is tried; in ``defaults``, how every task is that does not say otherwise."""

    max_retries: Retries | None = Field(default=None, description="Attempts after the first. Default: 0.")
    retry_delay: Duration | None = Field(default=None, description="Wait before a retry. Default: 5s.")
    retry_backoff: BackoffField | None = Field(default=None, description="How the wait grows. Default: constant.")
    timeout: TimeLimit | None = Field(default=None, description="Time limit of one attempt. Default: none.")
    on_lost: OnLostField | None = Field(default=None, description="After a crash: retry (default) or fail.")
    max_losses: Losses | None = Field(
        default=None,
        description="How often in a row its worker may die while it runs alone, before it is failed; 0: no bound. Default: 3.",
    )


class TaskDocument(Tries):
    """One task: exactly one of command and skill."""

    id: Id = Field(description="Its name in the DAG: letters, digits, '.', '_' and '-'.", examples=["compile"])
    command: Command | None = None
    skill: Id | None = Field(default=None, description="A skill by name, instead of a command.")
    type: Literal["shell", "skill"] | None = Field(
        default=None, description="Accepted from other tools, where it agrees: shell with command, skill with skill."
    )
    params: Params | None = Field(default=None, description="What the skill is given.")
    depends_on: Ids | None = Field(default=None, description="Tasks that must complete first.")
    deps: Ids | None = Field(default=None, description="Another spelling of depends_on.")
    env: Env | None = Field(default=None, description="Variables, over those of the DAG.")
    secrets: Secrets | None = None
    cwd: Directory | None = Field(default=None, description="Where it runs.")
    leave: Flag | None = Field(
        default=None, description="true: what it started in the background may outlive it. Default: false."
    )


class _Head(_Model):
    """A DAG without its tasks."""

    dag_id: Id = Field(description="Its name; the beginning may name a scope.", examples=["proj-a-nightly"])
    scope: ScopeField | None = None
    target_node: Id | None = Field(default=None, description="The node that runs it. Default: where it is handed in.")
    priority: PriorityField | None = Field(default=None, description="Who goes first. Default: normal.")
    description: Text | None = Field(default=None, description="For people.")
    env: Env | None = Field(default=None, description="Variables for every task.")
    max_parallel: Parallel | None = Field(default=None, description="Tasks of one run at once.")
    labels: Labels | None = Field(
        default=None, description="Labels that a node must have to take it from the room.", examples=[["gpu"]]
    )
    expires: TimeLimit | None = Field(
        default=None, description="How long it may take to reach its node. Default: the node's deliver_within."
    )
    defaults: Tries | None = Field(default=None, description="For every task that does not say otherwise.")


class DagDocument(_Head):
    """A DAG: tasks, and what they depend on."""

    tasks: list[TaskDocument] = Field(min_length=1, max_length=MAX_TASKS, description="In any order.")


def parse_dag(data: bytes, *, format: Format | None = None, source: str | None = None) -> DagSpec:  # noqa: A002
    """Return the DAG that a document's bytes spell; without *format* the notation is found out.

    Raises:
        DocumentTooLargeError: over 16 MiB.
        MalformedDocumentError: no YAML, JSON or TOML mapping.
        DocumentError: all of its faults, with their places.
    """
    return _dag(load_document(data, format=format, source=source), source=source)


def dag_from_plain(plain: Mapping[str, Json], *, source: str | None = None) -> DagSpec:
    """Return the DAG that a plain mapping holds. Raises DocumentError with all of its faults."""
    return _dag(Tree(dict(plain)), source=source)


def with_head(spec: DagSpec, given: Mapping[str, str], *, source: str) -> DagSpec:
    """Return *spec* with its scope, target node or priority as *given*. Raises DocumentError with all faults of these."""
    faults = _Faults()
    head = faults.checked(_Head, {"dag_id": spec.dag_id, **given})
    if head is None:
        raise DocumentError(faults.listed(Tree(dict(given))), source=source)
    return replace(spec, **{name: getattr(head, name) for name in given})


class _Faults:
    """Faults as they are found, up to a bound: a document of 16 MiB has room for millions."""

    def __init__(self) -> None:
        self._found: dict[tuple[Path, str], None] = {}

    @property
    def full(self) -> bool:
        """Whether there are more than are shown."""
        return len(self._found) > MAX_FAULTS

    def extend(self, faults: Iterable[tuple[Path, str]]) -> None:
        """Take *faults* as far as there is room."""
        for path, message in faults:
            if self.full:
                return
            self._found[path, clipped(message)] = None

    def checked(self, model: type[_M], value: Json, *, at: Path = ()) -> _M | None:
        """Return *value* as *model*, or None and its faults."""
        try:
            return model.model_validate(_narrowed(value, model))
        except ValidationError as error:
            self.extend(_field_faults(error, model, at=at))
            return None

    def listed(self, tree: Tree) -> list[Fault]:
        """Return what was found, with lines."""
        shown = [Fault(place=place(path), message=text, line=tree.line(path)) for path, text in self._found]
        if self.full:
            shown[MAX_FAULTS:] = [Fault(place="", message="and more; mend these first")]
        return shown


def _dag(tree: Tree, *, source: str | None) -> DagSpec:
    faults = _Faults()
    root = tree.root
    head = faults.checked(_Head, {name: value for name, value in root.items() if name != "tasks"})
    listed = root.get("tasks")
    faults.extend((("tasks",), message) for message in _list_faults(root))
    tasks: list[TaskDocument] = []
    for number, task in enumerate(listed if isinstance(listed, list) else ()):
        checked = faults.checked(TaskDocument, task, at=("tasks", number))
        if checked is not None:
            tasks.append(checked)
        if faults.full:
            break
    faults.extend(relation_faults(root))
    found = faults.listed(tree)
    if found or head is None:
        raise DocumentError(found, source=source)
    return _spec(head, tasks)


def _list_faults(root: Mapping[str, Json]) -> Iterator[str]:
    tasks = root.get("tasks")
    if "tasks" not in root:
        yield "is missing"
    elif not isinstance(tasks, list):
        yield f"must be a list, not {kind_of(tasks)}"
    elif not tasks:
        yield "is empty; a DAG has at least one task"
    elif len(tasks) > MAX_TASKS:
        yield f"holds {len(tasks):,} tasks; {MAX_TASKS:,} at most"


def _narrowed(value: Json, model: type[BaseModel]) -> Json:
    """Return *value* without most of its unknown fields, if they are very many: each costs a fault."""
    if not isinstance(value, dict) or len(value) <= len(model.model_fields) + MAX_FAULTS:
        return value
    unknown = islice((name for name in value if name not in model.model_fields), MAX_FAULTS + 1)
    return {name: value[name] for name in (*(name for name in model.model_fields if name in value), *unknown)}


def _field_faults(error: ValidationError, model: type[BaseModel], *, at: Path) -> Iterator[tuple[Path, str]]:
    for found in error.errors(include_url=False):
        path = tuple(part for part in found["loc"] if part != "[key]")
        yield (*at, *path), _message(found["type"], found, path, model)


def _message(kind: str, found: Mapping[str, Any], path: Path, model: type[BaseModel]) -> str:
    value = found["input"]
    if kind == "extra_forbidden":
        if path[0] == "defaults":
            model = Tries
        elif model is _Head:
            model = DagDocument
        known = sorted(model.model_fields)
        return f"is no field{did_you_mean(str(path[-1]), known) or '; known: ' + ', '.join(known)}"
    if kind == "missing":
        return "is missing"
    if kind in ("model_type", "dict_type"):
        return f"must be a mapping, not {kind_of(value)}"
    if kind == "list_type":
        return f"must be a list, not {kind_of(value)}"
    if kind == "value_error":
        return str(found["ctx"]["error"])
    return str(found["msg"])[:1].lower() + str(found["msg"])[1:]


def _spec(document: _Head, tasks: Sequence[TaskDocument]) -> DagSpec:
    tries = document.defaults or Tries()
    return DagSpec(
        dag_id=document.dag_id,
        tasks=tuple(_task(task, tries) for task in tasks),
        scope=document.scope,
        target_node=document.target_node,
        priority=Priority.NORMAL if document.priority is None else document.priority,
        description=document.description or "",
        env=document.env or {},
        max_parallel=document.max_parallel,
        labels=tuple(dict.fromkeys(document.labels or ())),
        expires_s=document.expires,
    )


def _task(task: TaskDocument, tries: Tries) -> TaskSpec:
    def first(mine: Any, shared: Any, otherwise: Any) -> Any:
        return next((value for value in (mine, shared) if value is not None), otherwise)

    return TaskSpec(
        id=task.id,
        command=task.command,
        skill=task.skill,
        params=task.params or {},
        depends_on=tuple(dict.fromkeys(task.depends_on or task.deps or ())),
        env=task.env or {},
        secrets=task.secrets or {},
        cwd=task.cwd,
        timeout_s=first(task.timeout, tries.timeout, None),
        max_retries=first(task.max_retries, tries.max_retries, 0),
        retry_delay_s=first(task.retry_delay, tries.retry_delay, 5.0),
        retry_backoff=first(task.retry_backoff, tries.retry_backoff, Backoff.CONSTANT),
        on_lost=first(task.on_lost, tries.on_lost, OnLost.RETRY),
        max_losses=first(task.max_losses, tries.max_losses, DEFAULT_MAX_LOSSES),
        leave=bool(task.leave),
    )


def dag_schema() -> dict[str, Any]:
    """Return the schema; it knows the fields of a task and of a DAG, not what holds between tasks."""
    schema = _without_null(DagDocument.model_json_schema())
    schema["$defs"]["TaskDocument"] |= {
        "oneOf": [
            {
                "title": "a command",
                "required": ["command"],
                "properties": {"type": {"const": "shell"}, "skill": False, "params": False},
            },
            {
                "title": "a skill",
                "required": ["skill"],
                "properties": {"type": {"const": "skill"}, "command": False},
            },
        ],
        "not": {"required": ["depends_on", "deps"]},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "CIS-DAG document",
        "examples": [_EXAMPLE],
    }


def _without_null(node: Any) -> Any:
    """Return the schema without the nulls that stand for "left out", and without their defaults."""
    if isinstance(node, list):
        return [_without_null(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: _without_null(item) for key, item in node.items() if not (key == "default" and item is None)}
    options = node.get("anyOf")
    if options and {"type": "null"} in options:
        rest = [option for option in options if option != {"type": "null"}]
        if len(rest) == 1:
            return rest[0] | {key: value for key, value in node.items() if key not in ("anyOf", "title")}
    return node
