"""The skill behind ``command``: a line for ``/bin/sh -c``, or a list of arguments that no shell touches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cis.engine.ports import Command
from cis.model.dag import Json
from cis.skills.params import Faults, refuse, unknown_params


class ShellSkill:
    """Runs a command."""

    name = "shell"
    description = "Runs a command: a line for /bin/sh, or a list of arguments without a shell."
    triggers: tuple[str, ...] = ("task",)
    literal_params = frozenset({"command"})

    def check(self, params: Mapping[str, Json]) -> Faults:
        """Return each fault of *params*: ``command`` is a string or a list of strings, and the only one."""
        faults = unknown_params(params, known=("command",))
        fault = _fault(params.get("command"))
        return [*faults, ("command", fault)] if fault else faults

    def plan(self, params: Mapping[str, Json]) -> Command:
        """Return the command as a process."""
        if fault := _fault(params.get("command")):
            refuse([("command", fault)])
        return shell_command(params["command"])


def shell_command(command: str | Sequence[str]) -> Command:
    """Return *command* as a process: a string goes to ``/bin/sh -c``, a list is run as it is."""
    if isinstance(command, str):
        return Command(argv=("/bin/sh", "-c", command))
    return Command(argv=tuple(command))


def _fault(command: Json) -> str | None:
    if command is None:
        return "is missing; write what to run"
    if isinstance(command, str):
        return None if command.strip() else "is empty; write what to run"
    if not isinstance(command, Sequence) or not all(isinstance(argument, str) for argument in command):
        return "is a string for the shell or a list of strings, one for each argument"
    return None if command and command[0] else "is empty; its first element is the program"
