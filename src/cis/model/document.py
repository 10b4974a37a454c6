"""From a document to a DagSpec: every fault is found in one go, each with its place.

Fields are checked one by one by pydantic (``cis.model.fields``); what holds between tasks, ids, dependencies, cycles and
references, is checked on the plain tree (``cis.model.relations``), so that a wrong field hides no wrong edge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cis.errors import DocumentError, Fault
from cis.model.dag import Backoff, DagSpec, Json, OnLost, Priority, TaskSpec
from cis.model.fields import (
    BackoffField,
    Command,
    Duration,
    EnvName,
    EnvValue,
    Id,
    OnLostField,
    Parallel,
    Params,
    PriorityField,
    Retries,
    ScopeField,
    Text,
    TimeLimit,
    kind_of,
)
from cis.model.formats import Format, Path, Tree, load_document, place
from cis.model.relations import relation_faults
from cis.model.suggest import did_you_mean

MAX_TASKS = 100_000
MAX_FAULTS = 100


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


class Tries(_Model):
    """How a task is tried; in ``defaults``, how every task is that does not say otherwise."""

    max_retries: Retries | None = Field(default=None, description="Attempts after the first. Default: 0.")
    retry_delay: Duration | None = Field(default=None, description="Wait before a retry. Default: 5s.")
    retry_backoff: BackoffField | None = Field(default=None, description="How the wait grows. Default: constant.")
    timeout: TimeLimit | None = Field(default=None, description="Time limit of one attempt. Default: none.")
    on_lost: OnLostField | None = Field(default=None, description="After a crash: retry (default) or fail.")


class TaskDocument(Tries):
    """One task: exactly one of command and skill."""

    id: Id
    command: Command | None = None
    skill: Id | None = Field(default=None, description="A skill by name, instead of a command.")
    type: Literal["shell", "skill"] | None = Field(
        default=None, description="Accepted from other tools, where it agrees: shell with command, skill with skill."
    )
    params: Params | None = None
    depends_on: list[Id] | None = Field(default=None, description="Tasks that must complete first.")
    deps: list[Id] | None = Field(default=None, description="Another spelling of depends_on.")
    env: dict[EnvName, EnvValue] | None = Field(default=None, description="Variables, over those of the DAG.")
    cwd: Text | None = Field(default=None, min_length=1, description="Where it runs.")


class DagDocument(_Model):
    """A DAG: tasks, and what they depend on."""

    dag_id: Id
    tasks: list[TaskDocument] = Field(min_length=1, max_length=MAX_TASKS)
    scope: ScopeField | None = None
    target_node: Id | None = Field(default=None, description="The node that runs it. Default: where it is handed in.")
    priority: PriorityField | None = None
    description: Text | None = None
    env: dict[EnvName, EnvValue] | None = Field(default=None, description="Variables for every task.")
    max_parallel: Parallel | None = Field(default=None, description="Tasks of one run at once.")
    defaults: Tries | None = None


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


def _dag(tree: Tree, *, source: str | None) -> DagSpec:
    faults: list[tuple[Path, str]] = []
    document: DagDocument | None = None
    try:
        document = DagDocument.model_validate(tree.root)
    except ValidationError as error:
        faults.extend(_field_faults(error))
    faults.extend(relation_faults(tree.root))
    if faults or document is None:
        raise DocumentError(_listed(faults, tree), source=source)
    return _spec(document)


def _listed(faults: list[tuple[Path, str]], tree: Tree) -> list[Fault]:
    unique = list(dict.fromkeys(faults))
    listed = [Fault(place=place(path), message=message, line=tree.line(path)) for path, message in unique[:MAX_FAULTS]]
    if len(unique) > MAX_FAULTS:
        listed.append(Fault(place="", message=f"and {len(unique) - MAX_FAULTS} more faults"))
    return listed


def _field_faults(error: ValidationError) -> Iterator[tuple[Path, str]]:
    for found in error.errors(include_url=False):
        path = tuple(part for part in found["loc"] if part != "[key]")
        yield path, _message(found["type"], found, path)


def _message(kind: str, found: Mapping[str, Any], path: Path) -> str:
    value = found["input"]
    context = found.get("ctx", {})
    if kind == "extra_forbidden":
        known = _known_fields(path)
        return f"is no field{did_you_mean(str(path[-1]), known) or f'; known: {chr(44).join(sorted(known))}'}"
    if kind == "missing":
        return "is missing"
    if kind in ("model_type", "dict_type"):
        return f"must be a mapping, not {kind_of(value)}"
    if kind == "list_type":
        return f"must be a list, not {kind_of(value)}"
    if kind == "too_short":
        return "is empty; a DAG has at least one task"
    if kind == "too_long":
        return f"holds {context['actual_length'] or 'more'} tasks; {MAX_TASKS:,} at most"
    if kind == "value_error":
        return str(context["error"])
    return str(found["msg"])[:1].lower() + str(found["msg"])[1:]


def _known_fields(path: Path) -> list[str]:
    model: type[BaseModel] = DagDocument
    if path[0] == "tasks" and len(path) > 1:
        model = TaskDocument
    elif path[0] == "defaults" and len(path) > 1:
        model = Tries
    return list(model.model_fields)


def _spec(document: DagDocument) -> DagSpec:
    tries = document.defaults or Tries()
    return DagSpec(
        dag_id=document.dag_id,
        tasks=tuple(_task(task, tries) for task in document.tasks),
        scope=document.scope,
        target_node=document.target_node,
        priority=Priority.NORMAL if document.priority is None else document.priority,
        description=document.description or "",
        env=document.env or {},
        max_parallel=document.max_parallel,
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
        cwd=task.cwd,
        timeout_s=first(task.timeout, tries.timeout, None),
        max_retries=first(task.max_retries, tries.max_retries, 0),
        retry_delay_s=first(task.retry_delay, tries.retry_delay, 5.0),
        retry_backoff=first(task.retry_backoff, tries.retry_backoff, Backoff.CONSTANT),
        on_lost=first(task.on_lost, tries.on_lost, OnLost.RETRY),
    )
