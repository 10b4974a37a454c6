"""The skill behind ``command``, text for a shell or a list of arguments; and the checks that skills share.

A parameter that holds ``${tasks.…}`` or ``${secrets.…}`` is filled in when the task starts, so before that it may stand
for anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from cis.engine.ports import STRICT_SHELL, Command
from cis.errors import LaunchError
from cis.model.ids import did_you_mean

if TYPE_CHECKING:
    from cis.model.dag import Json

Faults = Sequence[tuple[str, str]]
Rule: TypeAlias = "Callable[[Json], bool]"


def is_open(value: Json) -> bool:
    """Whether *value* refers to a parameter, another task or a secret, and is therefore not known yet."""
    if not isinstance(value, str) or "${" not in value:
        return False
    from cis.model.references import refers  # noqa: PLC0415 - a list of skills needs none of it
    from cis.model.relations import OPENING_OF_SECRET  # noqa: PLC0415 - as above

    return OPENING_OF_SECRET in value or refers(value, many=True)


def unknown_params(params: Mapping[str, Json], *, known: Sequence[str]) -> list[tuple[str, str]]:
    """Return a fault for each parameter that is not among *known*, with the nearest one that is."""
    names = f"; known: {', '.join(known)}"
    return [
        (name, f"is not a parameter of this skill{did_you_mean(name, known) or names}")
        for name in params
        if name not in known
    ]


def broken_rules(params: Mapping[str, Json], rules: Mapping[str, tuple[Rule, str]]) -> list[tuple[str, str]]:
    """Return the text of each rule that a parameter which is there and known breaks."""
    return [
        (name, text)
        for name, (holds, text) in rules.items()
        if name in params and not is_open(params[name]) and not holds(params[name])
    ]


def refuse(faults: Faults) -> None:
    """Raise LaunchError if there are *faults*: what was filled in makes no sense."""
    if faults:
        raise LaunchError("; ".join(f"params.{name} {text}" if name else f"params: {text}" for name, text in faults))


def is_number(value: Json) -> bool:
    """Whether *value* is a number, which a bool is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_text(value: Json) -> bool:
    """Whether *value* is a string with something in it."""
    return isinstance(value, str) and bool(value.strip())


class ShellSkill:
    """Runs a command."""

    name = "shell"
    description = "Runs a command: lines for /bin/sh -e or another shell, or a list of arguments without one."
    triggers: tuple[str, ...] = ("task",)
    literal_params = frozenset({"command", "shell"})

    def check(self, params: Mapping[str, Json]) -> Faults:
        """Return each fault of *params*: ``command`` is a string or a list of strings; ``shell`` is what reads a string."""
        faults = [*unknown_params(params, known=("command", "shell")), *broken_rules(params, _RULES)]
        fault = _fault(params.get("command"))
        return [*faults, ("command", fault)] if fault else faults

    def plan(self, params: Mapping[str, Json]) -> Command:
        """Return the command as a process."""
        if fault := _fault(params.get("command")):
            refuse([("command", fault)])
        return shell_command(params["command"], interpreter=params.get("shell", STRICT_SHELL))


def shell_command(command: str | Sequence[str], *, interpreter: str) -> Command:
    """Return *command* as a process: a string is read by *interpreter*, a list is run as it is."""
    if not isinstance(command, str):
        return Command(argv=tuple(command))
    words, takes_text = _words(interpreter)
    return Command(argv=(*words, command)) if takes_text else Command(argv=words, script=command.encode())


@lru_cache(maxsize=256)
def _words(shell: str) -> tuple[tuple[str, ...], bool]:
    """Return the arguments before the text, or before the file with it, and whether it is the text."""
    import shlex  # noqa: PLC0415 - as above

    from cis.model.pipelines import is_shell  # noqa: PLC0415 - as above

    words = tuple(shlex.split(shell))
    takes_text = is_shell(words[0])
    return ((*words, "-c") if takes_text else words), takes_text


def _is_shell(value: Json) -> bool:
    import shlex  # noqa: PLC0415 - as above

    try:
        return is_text(value) and not shlex.split(value)[0].startswith("-")
    except (ValueError, IndexError):
        return False


_RULES: dict[str, tuple[Rule, str]] = {
    "shell": (_is_shell, "must be a program that reads the command, with its options")
}


def _fault(command: Json) -> str | None:
    if command is None:
        return "is missing; write what to run"
    if isinstance(command, str):
        return None if command.strip() else "is empty; write what to run"
    if not isinstance(command, Sequence) or not all(isinstance(argument, str) for argument in command):
        return "must be a string for the shell or a list of strings, one for each argument"
    return None if command and command[0] else "is empty; its first element is the program"
