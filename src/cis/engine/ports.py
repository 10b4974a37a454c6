"""What the engine needs of the layers above it: skills, processes, clocks, files.

What is made anew for every task is a named tuple, which costs a third of what a dataclass does, and so is what a short
command needs: a dataclass takes 10 ms to import.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from os import PathLike
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from cis.model.dag import Json
    from cis.model.scope import Scope

StrPath = str | PathLike[str]
LONGEST_TEXT = (
    128 * 2**10
)  # bytes of one argument or variable, with its NUL: MAX_ARG_STRLEN of Linux, with pages of 4 KiB
NO_ENV: Mapping[str, str] = MappingProxyType({})


PLAIN_SHELL, STRICT_SHELL = "/bin/sh", "/bin/sh -e"  # what reads the text commands of a run that names no shell


class Command(NamedTuple):
    """A process that does a task's work: arguments, more environment, what it reads from standard input.

    A *script* is put into a file of mode 0700, whose path becomes the last argument.
    """

    argv: Sequence[str]
    env: Mapping[str, str] = NO_ENV
    stdin: bytes = b""
    script: bytes | None = None


class ChildDag(NamedTuple):
    """A DAG as a task: a document to be run, or the id of a stored one, and what its parameters are given."""

    document: Mapping[str, Json] | None = None
    dag_id: str | None = None
    params: Mapping[str, Json] = MappingProxyType({})


class Wait(NamedTuple):
    """A task that only waits, without a process: one of a moment, a duration, and a question.

    It is over at ``until_us`` (microseconds since 1970, UTC); ``for_s`` seconds after its attempt began; or once
    ``ask`` returns its outputs, which is called every ``every_s`` seconds. None means: not yet. The worker's loop asks,
    so the answer has to be there at once. LaunchError fails the attempt with the reason.
    """

    until_us: int | None = None
    for_s: float | None = None
    ask: Callable[[], Mapping[str, str] | None] | None = None
    every_s: float = 1.0


class Skill(Protocol):
    """A kind of task: turns parameters into a process, a DAG or a wait, and checks them beforehand.

    ``triggers`` is what starts it: ``("task",)`` for most. ``literal_params`` names the parameters that a
    shell will interpret, in which ``${tasks.…}`` is therefore refused; ``nested_params``, if it is there, those that hold
    a document, whose references are its own. One with a true ``waits`` plans a DAG or a wait,
    and its tasks take no slot; without that attribute they are processes.
    """

    name: str
    description: str
    triggers: tuple[str, ...]
    literal_params: frozenset[str]

    def check(self, params: Mapping[str, Json]) -> Sequence[tuple[str, str]]:
        """Return each fault of *params* as (parameter, what is wrong and the mend); none when they are fine.

        A value that is a string with ``${tasks.…}`` in it is not known yet: let it pass.
        """
        ...

    def plan(self, params: Mapping[str, Json]) -> Command | ChildDag | Wait:
        """Return what to run or to wait for: *params* have passed ``check``, and their references are filled in.

        It is asked again for a wait with ``ask`` that goes on in another worker, so it has to be quick and to touch
        nothing; of any other wait the moment is stored.

        Raises:
            LaunchError: a filled-in value makes no sense.
        """
        ...


class SkillInfo(NamedTuple):
    """A skill as lists show it: its name, what it does, the package that brings it, its triggers.

    ``error`` says why an installed skill cannot be used.
    """

    name: str
    description: str
    source: str
    triggers: tuple[str, ...]
    error: str | None = None


class SkillBook(Protocol):
    """The skills that this node has."""

    def get(self, name: str) -> Skill:
        """Return a skill. Raises NotFoundError, which names the nearest one."""
        ...

    def waits(self, name: str) -> bool:
        """Whether the tasks of a skill take no slot, as far as is known without loading anything."""
        ...

    def infos(self) -> Sequence[SkillInfo]: ...


class SecretBook(Protocol):
    """The secrets that this node has, as they are now."""

    def reveal(self, names: Iterable[str], *, scope: Scope) -> Mapping[str, str]:
        """Return the values of secrets, by name, for a task of *scope*.

        Raises:
            LaunchError: says what is missing, or not for that scope, and the mend.
        """
        ...

    @property
    def place(self) -> str:
        """Where they are kept, for messages."""
        ...

    def missing(self, names: Iterable[str]) -> Sequence[str]:
        """Return those of *names* that are not there."""
        ...

    def refused(self, names: Iterable[str], *, scope: Scope) -> Mapping[str, str]:
        """Return why *scope* may not have some of *names*, and the mend, by name; one that is missing is not refused.

        Raises:
            LaunchError: what is allowed cannot be read.
        """
        ...


class Launch(NamedTuple):
    """All that an executor needs to start one attempt.

    ``stdout`` and ``stderr`` are the files for what the process writes; the executor makes them, mode 0600, with the
    first byte. ``outputs`` is where it may leave its named outputs. ``cwd`` exists or the start fails. Where there
    is a ``mask`` (``cis.model.secret_forms``), nothing that it names may get into the files. ``marks`` tell the
    processes of the attempt from all others, and are in ``env``, too. With ``leave``, what the process has started may
    outlive it when it ends by itself with status 0; otherwise all of it is ended before the attempt counts as ended.
    With ``keep_log``, what outlives the attempt, or the worker, can go on writing to the files.

    ``handle`` is the name by which the executor knows the attempt (``attempt_handle``). With ``lasting``, the attempt
    goes on when the worker that started it is gone, and may be taken up by the next one (``Executor.take_up``); the
    executor itself then holds it to ``timeout_s``.

    ``stdin`` is what it reads, or the absolute path of a file that it reads; empty: nothing.

    A ``script`` is what its last argument names, written by whoever starts it (``AttemptMaker.make_ready``).
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: StrPath
    stdin: bytes | str
    stdout: StrPath
    stderr: StrPath
    outputs: str
    mask: Sequence[bytes] = ()
    marks: Mapping[str, str] = NO_ENV
    leave: bool = False
    keep_log: bool = False
    handle: str = ""
    lasting: bool = False
    timeout_s: float | None = None
    script: bytes | None = None


def attempt_handle(run_id: str, task_no: int, attempt: int) -> str:
    """Return the name of an attempt for its executor, which is on disk with its row before it is started."""
    return f"{run_id}.{task_no}.{attempt}"


def attempt_of_handle(handle: str) -> tuple[str, int, int] | None:
    """Return the run, the task's number and the attempt that a handle names; None when it is no handle."""
    run_id, *numbers = handle.rsplit(".", 2)
    if len(numbers) != 2 or not all(number.isascii() and number.isdecimal() for number in numbers):
        return None
    return run_id, int(numbers[0]), int(numbers[1])


class ProcessId(NamedTuple):
    """A process by its number, and by what tells it from a later one with that number: its start time."""

    pid: int
    started: str | None


class Exit(NamedTuple):
    """How an attempt ended. ``exit_code`` is negative, -N, when signal N ended it (as ``subprocess`` has it).

    ``stdout_bytes`` counts what was written, also what a cap cut away; the tails are decoded with replacement.
    ``fault`` says why the attempt failed whatever its exit code is. ``left`` is what may outlive it, by pid and start.

    The last fields are of a lasting attempt: None for an exit code says that there was no process. ``lost`` says why
    nobody knows how it ended, or that it was ended from outside; ``too_long`` that it could not be started for the length
    of its command; ``timed_out`` whether its executor ended it for its time limit; ``ended_at_us`` and ``took_us`` when it ended and how long it took, since nobody may have looked for
    hours.
    """

    handle: str
    exit_code: int | None
    pid: int | None = None
    stdout_tail: str = ""
    stderr_tail: str = ""
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    fault: str | None = None
    left: Sequence[tuple[int, str]] = ()
    lost: str | None = None
    too_long: bool = False
    timed_out: bool = False
    ended_at_us: int | None = None
    took_us: int | None = None


class Fate(StrEnum):
    """What became of an attempt that somebody else has started, as far as an executor knows."""

    RUNNING = "running"  # it is one of this executor's from now on
    ENDED = "ended"
    GONE = "gone"  # nothing is left of it, and nothing will be started of it any more
    UNKNOWN = "unknown"  # it may run: ask again later


class TakenUp(NamedTuple):
    """The answer of an executor that was asked for an attempt; ``why`` says why it is not known."""

    fate: Fate
    exit: Exit | None = None
    why: str = ""


class Executor(Protocol):
    """Where the processes of tasks run. Not thread-safe; one for each worker loop.

    It knows each attempt by its handle: a text that was stored before the start, so that it can be asked for after a
    crash. Whoever makes one gives it what wakes its worker (``Bell``), and how it waits for that beside its attempts is
    its own affair.
    """

    def start(self, launch: Launch) -> str:
        """Start a process in a process group of its own, and return its handle, that of *launch*.

        Raises:
            LaunchError: it cannot be started: no such directory, program, or permission.
        """
        ...

    def foresee(self, launch: Launch) -> None:
        """Make ready, while there is time, what the start of *launch* wants; it may never be started."""
        ...

    def shortage(self) -> str | None:
        """Return what there is too little of to start a process, with the mend; None: one could be started."""
        ...

    def take_up(self, handle: str, *, marks: Mapping[str, str]) -> TakenUp:
        """Say what became of a lasting attempt that another executor started; one that runs is waited for from now on.

        *marks* are those of its launch: what is left of an attempt that is gone has been ended by then.
        """
        ...

    def let_go(self, handle: str) -> bool:
        """Leave a lasting attempt to whoever takes it up next; False: it is not lasting, or has ended."""
        ...

    def forget(self, handle: str) -> None:
        """Remove what is kept of a lasting attempt whose end is stored by now."""
        ...

    def identity(self, handle: str) -> ProcessId | None:
        """Return the process of an attempt; None: it is not known yet, or gone.

        Raises:
            OSError: the machine is short of what finding it out takes; ask again later.
        """
        ...

    def wait(self, timeout_s: float) -> Sequence[Exit]:
        """Wait until an attempt ends, the worker is woken or *timeout_s* is over.

        An attempt has ended when its process has, and with it all that descends from it (but for ``Launch.leave``).
        Returns at once what has ended, with at least one check of every process.
        """
        ...

    def end(self, handle: str, *, force: bool) -> None:
        """Send TERM, or KILL with *force*, to the process and all that descends from it; no error when it is gone."""
        ...

    def close(self) -> None: ...


class Orphan(NamedTuple):
    """What an attempt of a dead worker may have left behind.

    That is the process group *pid*, if it is still the process that started then, and any process whose
    environment carries all *marks* (where the platform can tell). ``handle`` names the attempt.
    """

    pid: int | None
    pid_started: str | None
    marks: Mapping[str, str]
    handle: str = ""


class OrphanKiller(Protocol):
    """Ends what attempts of a dead worker left behind."""

    def __call__(self, orphans: Sequence[Orphan]) -> Collection[str]:
        """Kill what is left of them, wait until it is gone, and return the handles of those that go on by themselves.

        Raises:
            OrphanError: some survive.
            OSError: the machine is short of what looking for them takes.
        """
        ...


class Bell(Protocol):
    """Wakes a loop that waits: its executor returns from ``wait`` when somebody rings."""

    def was_rung(self) -> bool:
        """Whether somebody has rung, as far as a wait has seen, since this was asked last."""
        ...
