"""The command ``cis``: finds the group of a command, parses, calls, and turns errors into exit statuses.

Only the group that is asked for is imported; whoever types ``cis dag list`` waits for nothing else.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from cis import __version__
from cis.errors import CisError, UsageError
from cis.model.suggest import did_you_mean

GROUPS = {
    "init": "make the home: settings, key, token",
    "node": "start a node, and show it",
    "glm": "another name of node",
    "dag": "run DAGs, and ask how they went",
    "room": "the Matrix room of this node",
    "worker": "be one worker",
    "skill": "skills that tasks can use",
    "token": "tokens of the HTTP API",
    "audit": "who did what, when, from where",
    "db": "check, back up, restore and migrate the database",
    "config": "check and show the settings",
    "doctor": "what is wrong with this installation, and the mend",
    "completion": "shell completion",
}
GC_THRESHOLD = 50_000
_MODULES = {"glm": "node", "init": "node"}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that names the nearest command or option when one is not known."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, and refuse what is left over here, where the options of the command are known."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            known = [name for action in self._actions for name in action.option_strings]
            self.error(f"{unknown[0]!r} is too much{did_you_mean(unknown[0], known)}")
        return options, unknown

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and how to go on; exit status 2."""
        self.exit(UsageError.exit_status, f"cis: {message}\ntry: {self.prog} --help\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            what = action.option_strings[-1] if action.option_strings else action.metavar or action.dest
            hint = did_you_mean(str(value), known)
            if not isinstance(action.choices, Mapping):
                self.error(f"{what} {value!r} is none of {', '.join(known)}{hint}")
            self.error(f"there is no {value!r}{hint}")


def build_parser(full: Collection[str] = GROUPS) -> Parser:
    """Return the parser of all groups; of those that are not in *full* only the name is there."""
    parser = Parser(prog="cis", description="Run DAGs of work across your own machines.")
    parser.add_argument("--version", action="version", version=f"cis {__version__}")
    groups = parser.add_subparsers(dest="group", metavar="COMMAND", required=True)
    for name, about in GROUPS.items():
        added = groups.add_parser(name, help=about, description=about)
        if name in full:
            import_module(f"cis.cli.{_MODULES.get(name, name)}").add(added, name)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    # Commands are short: collecting a few times less, and not at the end, is a tenth of the time of most.
    gc.set_threshold(GC_THRESHOLD)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - it stays open
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except CisError as error:
        print(f"cis: {error}", file=sys.stderr)
        status = error.exit_status
    except KeyboardInterrupt as error:
        status = 128 + (error.args[0] if error.args else signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to flush to
        status = 128 + signal.SIGPIPE
    except OSError as error:
        print(f"cis: {error.filename or 'the system says'}: {error.strerror or error}", file=sys.stderr)
        status = CisError.exit_status
    gc.freeze()
    return status


def _run(arguments: list[str]) -> int:
    completing = "_ARGCOMPLETE" in os.environ
    words = os.environ.get("COMP_LINE", "").split()[1:] if completing else arguments
    parser = build_parser([word for word in words if not word.startswith("-")][:1])
    if completing:
        import argcomplete  # noqa: PLC0415 - only when the shell asks

        argcomplete.autocomplete(parser)
    options = parser.parse_args(arguments)
    status: int | None = options.call(options)
    return status or 0
