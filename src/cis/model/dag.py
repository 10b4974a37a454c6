"""The DAG and its tasks as the rest of the program sees them: whole, checked, immutable.

A document from outside becomes one of these in ``cis.model.document``; what the database holds is the
plain form of ``DagSpec.to_dict``, read back by ``DagSpec.from_dict`` without the cost of checking again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any

from cis.errors import PoisonRecordError
from cis.model.scope import Scope, parse_scope

Json = Any  # JSON is where bytes become data; its shape is checked by whoever reads it
DEFAULT_MAX_LOSSES = 3


class Priority(IntEnum):
    """How urgent a run is; a higher one takes free slots first."""

    LOW = 10
    NORMAL = 20
    HIGH = 30
    CRITICAL = 40

    def __str__(self) -> str:
        return self.name.lower()


class Backoff(StrEnum):
    """How the delay before a retry grows."""

    CONSTANT = "constant"
    EXPONENTIAL = "exponential"


class OnLost(StrEnum):
    """What becomes of a task whose attempt was lost in a crash."""

    RETRY = "retry"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """One task: a command or a skill with parameters, and how to try it.

    ``command`` is a line for ``/bin/sh -c``, or a tuple that is run without a shell.
    Exactly one of ``command`` and ``skill`` is set. ``max_losses`` bounds how often in a row its worker may die while it runs
    alone; 0 is no bound. ``secrets`` are names only: variables, and which secret each gets.
    With ``leave``, what it started in the background may outlive it.
    """

    id: str
    command: str | tuple[str, ...] | None = None
    skill: str | None = None
    params: Mapping[str, Json] = field(default_factory=dict)
    depends_on: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    timeout_s: float | None = None
    max_retries: int = 0
    retry_delay_s: float = 5.0
    retry_backoff: Backoff = Backoff.CONSTANT
    on_lost: OnLost = OnLost.RETRY
    max_losses: int = DEFAULT_MAX_LOSSES
    leave: bool = False

    def to_dict(self) -> dict[str, Json]:
        """Return the document form of the task, without what is at its default."""
        plain: dict[str, Json] = {"id": self.id}
        if self.command is not None:
            plain["command"] = self.command if isinstance(self.command, str) else list(self.command)
        if self.skill is not None:
            plain["skill"] = self.skill
        for name, mapping in (("params", self.params), ("env", self.env), ("secrets", self.secrets)):
            if mapping:
                plain[name] = dict(mapping)
        if self.depends_on:
            plain["depends_on"] = list(self.depends_on)
        if self.cwd is not None:
            plain["cwd"] = self.cwd
        if self.timeout_s is not None:
            plain["timeout"] = self.timeout_s
        plain |= {
            name: value
            for name, value, default in (
                ("max_retries", self.max_retries, 0),
                ("max_losses", self.max_losses, DEFAULT_MAX_LOSSES),
                ("retry_delay", self.retry_delay_s, 5.0),
                ("leave", self.leave, False),
            )
            if value != default
        }
        if self.retry_backoff is not Backoff.CONSTANT:
            plain["retry_backoff"] = str(self.retry_backoff)
        if self.on_lost is not OnLost.RETRY:
            plain["on_lost"] = str(self.on_lost)
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Json]) -> TaskSpec:
        """Return the task of *plain*, which ``to_dict`` made."""
        command = plain.get("command")
        return cls(
            id=plain["id"],
            command=tuple(command) if isinstance(command, list) else command,
            skill=plain.get("skill"),
            params=plain.get("params", {}),
            depends_on=tuple(plain.get("depends_on", ())),
            env=plain.get("env", {}),
            secrets=plain.get("secrets", {}),
            cwd=plain.get("cwd"),
            timeout_s=plain.get("timeout"),
            max_retries=plain.get("max_retries", 0),
            retry_delay_s=plain.get("retry_delay", 5.0),
            retry_backoff=Backoff(plain.get("retry_backoff", "constant")),
            on_lost=OnLost(plain.get("on_lost", "retry")),
            max_losses=plain.get("max_losses", DEFAULT_MAX_LOSSES),
            leave=plain.get("leave", False),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DagSpec:
    """A whole DAG, checked: ids are unique, dependencies exist, there is no cycle.

    ``scope`` is the author's own choice and None where inference decides;
    ``max_parallel`` bounds the tasks of one run at once (None: the worker's slots). ``labels`` are those that a
    node needs to claim it from the room; ``expires_s`` is how long it may take to reach a node (None: the node's own
    setting).
    """

    dag_id: str
    tasks: tuple[TaskSpec, ...]
    scope: Scope | None = None
    target_node: str | None = None
    priority: Priority = Priority.NORMAL
    description: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    max_parallel: int | None = None
    labels: tuple[str, ...] = ()
    expires_s: float | None = None

    def to_dict(self) -> dict[str, Json]:
        """Return the document form: JSON values only, tasks in their order."""
        plain: dict[str, Json] = {"dag_id": self.dag_id}
        if self.scope is not None:
            plain["scope"] = str(self.scope)
        if self.target_node is not None:
            plain["target_node"] = self.target_node
        if self.priority is not Priority.NORMAL:
            plain["priority"] = str(self.priority)
        if self.description:
            plain["description"] = self.description
        if self.env:
            plain["env"] = dict(self.env)
        if self.max_parallel is not None:
            plain["max_parallel"] = self.max_parallel
        if self.labels:
            plain["labels"] = list(self.labels)
        if self.expires_s is not None:
            plain["expires"] = self.expires_s
        plain["tasks"] = [task.to_dict() for task in self.tasks]
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Json], *, tasks: tuple[TaskSpec, ...] | None = None) -> DagSpec:
        """Return the DAG of *plain*, which ``to_dict`` made; *tasks* are its tasks, where somebody has read them already.

        Raises:
            PoisonRecordError: *plain* has another shape.
        """
        try:
            if tasks is None:
                tasks = tuple(TaskSpec.from_dict(task) for task in plain["tasks"])
            scope = plain.get("scope")
            return cls(
                dag_id=plain["dag_id"],
                tasks=tasks,
                scope=parse_scope(scope) if scope is not None else None,
                target_node=plain.get("target_node"),
                priority=Priority[plain.get("priority", "normal").upper()],
                description=plain.get("description", ""),
                env=plain.get("env", {}),
                max_parallel=plain.get("max_parallel"),
                labels=tuple(plain.get("labels", ())),
                expires_s=plain.get("expires"),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PoisonRecordError("a stored DAG", repr(error)) from error
