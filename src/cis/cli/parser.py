"""The parser of the command line: argparse, with better words for mistakes, and without what it spends time on.

A command is imported when it is called (``lazy``): whoever types another one does not wait for it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NoReturn

from cis.errors import UsageError
from cis.model.ids import did_you_mean

# Nothing here is translated, and to look for translations of its few words takes 2 ms.
argparse._ = lambda text: text  # type: ignore[attr-defined]


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that names the nearest command or option when one is not known."""

    asked: Sequence[str] = ()  # what follows on the command line; nothing: all that there is

    def __init__(self, **given: Any) -> None:
        super().__init__(formatter_class=_formatter, **given)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, and refuse what is left over here, where the options of the command are known."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            known = [name for action in self._actions for name in action.option_strings]
            self.error(f"there is no argument {unknown[0]!r} here{did_you_mean(unknown[0], known)}")
        return options, unknown

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and how to go on. Raises UsageError."""
        raise UsageError(f"{message}\ntry: {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            what = action.option_strings[-1] if action.option_strings else action.metavar or action.dest
            hint = did_you_mean(str(value), known)
            if not isinstance(action.choices, Mapping):
                self.error(f"{what} {value!r} is not one of {', '.join(known)}{hint}")
            self.error(f"there is no command {value!r}{hint}")


def _formatter(prog: str) -> argparse.HelpFormatter:
    """Return what lays out help, as wide as the terminal: argparse makes one for each option, by importing shutil."""
    try:
        width = int(os.environ.get("COLUMNS") or os.get_terminal_size(1).columns)
    except (OSError, ValueError):
        width = 80
    return argparse.HelpFormatter(prog, width=width - 2)


def lazy(call: str) -> Any:
    """Return a function that imports ``module:function`` of this package when it is called."""
    module, _, function = call.partition(":")

    def run(options: argparse.Namespace) -> int | None:
        result: int | None = getattr(import_module(f"cis.cli.{module}"), function)(options)
        return result

    return run


def completes(action: argparse.Action, what: str) -> None:
    """Have the shell offer *what* for a value (``cis.cli.completion``)."""

    def completer(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
        from cis.cli import completion  # noqa: PLC0415 - only when the shell asks

        return completion.complete(what, prefix, parsed_args)

    action.completer = completer  # type: ignore[attr-defined]  # argcomplete's own convention
