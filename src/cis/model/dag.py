"""The DAG and its tasks as the rest of the program sees them: whole, checked, immutable.

Each field is declared here, once: its name, type and default, and with ``declared`` how a document spells it, what the
JSON Schema says, and how it is stored and checked (``cis.model.fields``). A document from outside becomes a ``DagSpec``
in ``cis.model.document``; what the database holds is the plain form of ``DagSpec.to_dict``, read back by
``DagSpec.from_dict`` without the cost of parsing it again.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Any

from cis.errors import PoisonRecordError
from cis.model.durations import MAX_DELAY_S
from cis.model.exit_codes import ALLOWED, CODES, Allowed
from cis.model.fields import Kind, StoredForm, declared
from cis.model.kinds import (
    DIRECTORY,
    DURATION,
    FLAG,
    ID,
    LABELS,
    MAX_LOSSES,
    MAX_RETRIES,
    MAX_TASKS,
    SKILL,
    TASK_IDS,
    TEXT,
    TIME_LIMIT,
    count,
    one_of,
    one_of_in_any_case,
)
from cis.model.many import FOREACH, MATRIX, MAX_INSTANCES
from cis.model.scope import Scope
from cis.model.scope_kind import SCOPE
from cis.model.states import Priority
from cis.model.task_kinds import COMMAND, CONDITION, DECLARATIONS, ENV, HANDED_UP, OUTPUT, PARAMS, SECRETS, SHELL, STDIN
from cis.model.trigger_rules import TriggerRule

COMMAND_SKILL = "shell"  # what a task with a command is done by
DAG_SKILL = "dag"  # what a task with a DAG of its own is done by
SHELL_PARAM = "shell"  # its parameter for what reads text
HANDLER = "handlers."  # the ids of handlers begin so
TASKS_IN_A_PIECE = 500  # that are read before whoever reads them may do something else
Json = Any  # JSON is where bytes become data; its shape is checked by whoever reads it


class Backoff(StrEnum):
    """How the delay before a retry grows."""

    CONSTANT = "constant"
    EXPONENTIAL = "exponential"


class OnLost(StrEnum):
    """What becomes of a task when its worker is gone: its attempt is lost, or (``adopt``) goes on without one."""

    RETRY = "retry"
    FAIL = "fail"
    ADOPT = "adopt"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """One task: a command or a skill with parameters, and how to try it.

    ``command`` is text for ``shell`` (None: ``/bin/sh``, as ``RunRecord.errexit`` says), or a tuple that is run without one.
    Exactly one of ``command`` and ``skill`` is set. ``max_losses`` bounds how often in a row its worker may die while
    it runs alone; 0 is no bound. ``secrets`` are names only: variables, and which secret each gets.
    ``output`` is the name under which its standard output is kept. With ``leave``, what it started in the background may outlive it.
    """

    id: str = field(
        metadata=declared(ID, "Its name in the DAG: letters, digits, '.', '_' and '-'.", examples=["compile"])
    )
    command: str | tuple[str, ...] | None = field(default=None, metadata=declared(COMMAND))
    shell: str | None = field(default=None, metadata=declared(SHELL, shared=True))
    skill: str | None = field(default=None, metadata=declared(SKILL, "A skill by name, instead of a command."))
    params: Mapping[str, Json] = field(default_factory=dict, metadata=declared(PARAMS, "What the skill is given."))
    depends_on: tuple[str, ...] = field(
        default=(), metadata=declared(TASK_IDS, "Tasks that must complete first: a list, or one id.")
    )
    when: str | None = field(default=None, metadata=declared(CONDITION))
    trigger_rule: TriggerRule = field(
        default=TriggerRule.ALL_SUCCESS,
        metadata=declared(
            one_of(TriggerRule), "How what it depends on must have ended for it to run. Default: all_success."
        ),
    )
    env: Mapping[str, str] = field(
        default_factory=dict, metadata=declared(ENV, "Variables, over those of the DAG.", shared=True)
    )
    secrets: Mapping[str, str] = field(default_factory=dict, metadata=declared(SECRETS))
    cwd: str | None = field(default=None, metadata=declared(DIRECTORY, "Where it runs.", shared=True))
    max_retries: int = field(
        default=0,
        metadata=declared(count(0, MAX_RETRIES), "Attempts after the first. Default: 0.", shared=True),
    )
    retry_delay_s: float = field(
        default=5.0, metadata=declared(DURATION, "Wait before a retry. Default: 5s.", shared=True)
    )
    retry_backoff: Backoff = field(
        default=Backoff.CONSTANT,
        metadata=declared(one_of(Backoff), "How the wait grows. Default: constant.", shared=True),
    )
    timeout_s: float | None = field(
        default=None, metadata=declared(TIME_LIMIT, "Time limit of one attempt. Default: none.", shared=True)
    )
    on_lost: OnLost = field(
        default=OnLost.RETRY,
        metadata=declared(
            one_of(OnLost),
            "When its worker is gone: retry (default), fail, or adopt, which has it go on without one.",
            shared=True,
        ),
    )
    max_losses: int = field(
        default=3,
        metadata=declared(
            count(0, MAX_LOSSES),
            "How often in a row its worker may die while it runs alone, before it is failed; 0: no bound. Default: 3.",
            shared=True,
        ),
    )
    stdin: str | Mapping[str, str] | None = field(
        default=None,
        metadata=declared(STDIN, "What it reads from standard input: text, or {file: path}. Default: nothing."),
    )
    success_codes: tuple[int, ...] = field(
        default=(),
        metadata=declared(CODES, "Exit statuses that are success, instead of 0.", examples=[[0, 24]]),
    )
    skip_codes: tuple[int, ...] = field(
        default=(),
        metadata=declared(CODES, "Exit statuses that make the task skipped, with what follows it.", examples=[[99]]),
    )
    retry_codes: tuple[int, ...] = field(
        default=(),
        metadata=declared(CODES, "Exit statuses after which it is tried again. Default: any.", examples=[[75]]),
    )
    allow_failure: Allowed = field(
        default=False,
        metadata=declared(
            ALLOWED,
            "true: what follows goes on when it fails, as if it had completed; or the exit statuses for which it does."
            " Default: false.",
            examples=[True, {"exit_codes": [1, 2]}],
        ),
    )
    output: str | None = field(
        default=None,
        metadata=declared(OUTPUT, "Its standard output, trimmed, becomes this output; 1 MiB at most."),
    )
    leave: bool = field(
        default=False,
        metadata=declared(FLAG, "true: what it started in the background may outlive it. Default: false."),
    )
    foreach: list[Json] | str | None = field(
        default=None, metadata=declared(FOREACH, "An instance of it runs for each item: a list, or a reference to one.")
    )
    matrix: Mapping[str, Json] = field(
        default_factory=dict,
        metadata=declared(
            MATRIX, "An instance of it runs for each combination: names to lists, with include and exclude."
        ),
    )
    max_parallel: int | None = field(
        default=None, metadata=declared(count(1, MAX_INSTANCES), "Instances of it at once. Default: no bound.")
    )
    fail_fast: bool = field(
        default=False,
        metadata=declared(FLAG, "true: when an instance fails, the others are cancelled. Default: false."),
    )

    @property
    def is_many(self) -> bool:
        """Whether it is made into instances."""
        return self.foreach is not None or bool(self.matrix)

    @property
    def good_codes(self) -> tuple[int, ...]:
        """The exit statuses that are no failure; empty: 0 alone."""
        return (*(self.success_codes or (0,)), *self.skip_codes) if self.success_codes or self.skip_codes else ()

    def allows(self, code: int | None) -> bool:
        """Whether it may fail with exit status *code*; None: it had none, or did not end by itself."""
        return self.allow_failure if isinstance(self.allow_failure, bool) else code in self.allow_failure

    def to_dict(self) -> dict[str, Json]:
        """Return the document form of the task, without what is at its default."""
        return TASK_FORM.plain(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Json]) -> TaskSpec:
        """Return the task of *plain*, which ``to_dict`` made."""
        return cls(**TASK_FORM.arguments(plain))

    def wait_before_retry_s(self, *, failures: int, jitter: float) -> float:
        """Return the seconds to wait after the *failures*-th failure (from 1); *jitter* is in [0, 1).

        Constant: exactly ``retry_delay``. Exponential: d = min(retry_delay * 2^(failures - 1), cap), where the cap is 1
        h or, if that is more, ``retry_delay`` itself; the upper half is left to chance, d/2 + jitter * d/2, so that
        what failed together is not tried again together ("equal jitter", M. Brooker, Exponential Backoff and
        Jitter, 2015).
        """
        if self.retry_backoff is Backoff.CONSTANT:
            return self.retry_delay_s
        doublings = min(failures - 1, 64)
        delay_s = min(self.retry_delay_s * 2.0**doublings, max(MAX_DELAY_S, self.retry_delay_s))
        return delay_s / 2 + jitter * delay_s / 2


HANDLERS = Kind(
    dict,
    {"$ref": "#/$defs/Handlers"},
    lambda value: isinstance(value, Mapping) and all(isinstance(task, TaskSpec) for task in value.values()),
    lambda handlers: {
        name: {key: value for key, value in task.to_dict().items() if key != "id"} for name, task in handlers.items()
    },
    lambda plain: {name: TaskSpec.from_dict({**task, "id": HANDLER + name}) for name, task in plain.items()},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DagSpec:
    """A whole DAG, checked: ids are unique, dependencies exist, there is no cycle.

    ``scope`` is the author's own choice and None where inference decides;
    ``max_parallel`` bounds the tasks of one run at once (None: the worker's slots). ``labels`` are those that a
    node needs to claim it from the room; ``expires_s`` is how long it may take to reach a node (None: the node's own
    setting). With ``spread`` it may name a node although its scope still has work on another. ``handlers`` are tasks by
    their names, with the ids that they have in a run (``cis.model.handlers``).
    """

    dag_id: str = field(metadata=declared(ID, "Its name; the beginning may name a scope.", examples=["proj-a-nightly"]))
    tasks: tuple[TaskSpec, ...]
    scope: Scope | None = field(default=None, metadata=declared(SCOPE))
    target_node: str | None = field(
        default=None, metadata=declared(ID, "The node that runs it. Default: where it is handed in.")
    )
    priority: Priority = field(
        default=Priority.NORMAL,
        metadata=declared(
            one_of_in_any_case(Priority, also={"medium": Priority.NORMAL, "urgent": Priority.CRITICAL}),
            "Who goes first. Default: normal.",
        ),
    )
    description: str = field(default="", metadata=declared(TEXT, "For people."))
    env: Mapping[str, str] = field(default_factory=dict, metadata=declared(ENV, "Variables for every task."))
    params: Mapping[str, Mapping[str, Json]] = field(default_factory=dict, metadata=declared(DECLARATIONS))
    outputs: Mapping[str, Json] = field(default_factory=dict, metadata=declared(HANDED_UP))
    max_parallel: int | None = field(default=None, metadata=declared(count(1, MAX_TASKS), "Tasks of one run at once."))
    timeout_s: float | None = field(
        default=None,
        metadata=declared(
            TIME_LIMIT, "Time limit of the whole run, from its first start, waits and pauses included. Default: none."
        ),
    )
    labels: tuple[str, ...] = field(
        default=(),
        metadata=declared(LABELS, "Labels that a node must have to take it from the room.", examples=[["gpu"]]),
    )
    expires_s: float | None = field(
        default=None,
        metadata=declared(TIME_LIMIT, "How long it may take to reach its node. Default: the node's deliver_within."),
    )
    spread: bool = field(
        default=False,
        metadata=declared(FLAG, "true: its scope may have work on several nodes at once. Default: false."),
    )

    handlers: Mapping[str, TaskSpec] = field(
        default_factory=dict,
        metadata=declared(HANDLERS, "Tasks that run when the rest is over: success, failure or cancel, then exit."),
    )

    @property
    def every_task(self) -> tuple[TaskSpec, ...]:
        """The tasks, and the handlers behind them."""
        return (*self.tasks, *self.handlers.values()) if self.handlers else self.tasks

    def place_of(self, number: int) -> str:
        """Return where in the document the task with a number among all of them (``every_task``) stands."""
        if number < len(self.tasks):
            return f"tasks[{number}]"
        return f"handlers.{list(self.handlers)[number - len(self.tasks)]}"

    def to_dict(self) -> dict[str, Json]:
        """Return the document form: JSON values only, tasks in their order."""
        plain = DAG_FORM.plain(self)
        plain["tasks"] = [task.to_dict() for task in self.tasks]
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Json], *, tasks: tuple[TaskSpec, ...] | None = None) -> DagSpec:
        """Return the DAG of *plain*, which ``to_dict`` made; *tasks* are its tasks, if somebody has read them already.

        Raises:
            PoisonRecordError: *plain* has another shape.
        """
        try:
            if tasks is None:
                tasks = tuple(TaskSpec.from_dict(task) for task in plain["tasks"])
            return cls(tasks=tasks, **DAG_FORM.arguments(plain))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PoisonRecordError("a stored DAG", repr(error)) from error


TASK_FORM = StoredForm(TaskSpec)
DAG_FORM = StoredForm(DagSpec)  # all but its tasks


def check_stored(spec: DagSpec) -> None:
    """Raise ValueError, which says what is wrong, unless every field of *spec* holds what it is declared to.

    What is stored is not parsed again, but a row may hold anything. Only what would stop the program is looked at:
    kinds of values, ids, and dependencies that exist. A hundred thousand tasks take a second or two; parsing them takes
    several.
    """
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
    for name, task in spec.handlers.items():
        wrong = _wrong_field(task)
        _demand(wrong is None, f"handlers.{name}.{wrong}")
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
