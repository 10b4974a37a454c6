"""The command ``cis``: finds the group of a command, parses, calls, and turns errors into exit statuses.

Only the group that is asked for is imported; whoever types ``cis dag list`` waits for nothing else.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from cis import __version__
from cis.errors import CisError
from cis.model.suggest import did_you_mean

GROUPS = {
    "init": "make the home: settings, key, token",
    "node": "start a node, and show it",
    "glm": "another name of node",
    "dag": "run DAGs, and ask how they went",
    "worker": "be one worker",
    "skill": "skills that tasks can use",
    "token": "tokens of the HTTP API",
    "audit": "who did what, when, from where",
    "db": "check, back up, restore and migrate the database",
    "config": "check and show the settings",
    "doctor": "what is wrong with this installation, and the mend",
    "completion": "shell completion",
}
_MODULES = {"glm": "node", "init": "node"}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that names the nearest command when one is not known."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and how to go on; exit status 2."""
        if "invalid choice: " in message:
            wrong = message.split("invalid choice: ")[1].split(" ", maxsplit=1)[0].strip("'\"")
            message = f"there is no {wrong!r}{did_you_mean(wrong, self._choices())}"
        self.exit(2, f"cis: {message}\ntry: {self.prog} --help\n")

    def _choices(self) -> list[str]:
        return [
            str(choice) for action in self._actions if isinstance(action.choices, dict) for choice in action.choices
        ]


def build_parser(only: str | None = None) -> Parser:
    """Return the parser of all groups, or, faster, of the one that is *only* asked for."""
    parser = Parser(prog="cis", description="Run DAGs of work across your own machines.")
    parser.add_argument("--version", action="version", version=f"cis {__version__}")
    groups = parser.add_subparsers(dest="group", metavar="COMMAND", required=True)
    for name, about in GROUPS.items():
        group = groups.add_parser(name, help=about, description=about)
        if only is None or name == only:
            import_module(f"cis.cli.{_MODULES.get(name, name)}").add(group, name)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    only = next((word for word in arguments if not word.startswith("-")), None)
    completing = "_ARGCOMPLETE" in os.environ
    parser = build_parser(only if only in GROUPS and not completing else None)
    if completing:
        import argcomplete  # noqa: PLC0415 - only when the shell asks

        argcomplete.autocomplete(parser)
    try:
        options = parser.parse_args(arguments)
        status: int | None = options.call(options)
        sys.stdout.flush()
    except CisError as error:
        print(f"cis: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to flush to
        return 141
    return status or 0
