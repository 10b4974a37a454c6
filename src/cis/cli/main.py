"""The command ``cis``: finds the group of a command, parses, calls, and turns errors into exit statuses.

Only the group that is asked for is imported; whoever types ``cis dag list`` waits for nothing else.
"""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from cis import __version__
from cis.cli.parser import Parser
from cis.errors import CisError, ShortageError, UsageError

GROUPS = {
    "init": "make the home: settings, key, token",
    "node": "start a node, and show it",
    "glm": "another name of node",
    "dag": "run DAGs, and ask how they went",
    "service": "the node as a service of this user, or of the machine",
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
_MODULES = {"glm": "node"}


def build_parser(asked: Sequence[str] | None = None) -> Parser:
    """Return the parser of all commands; of what *asked* begins with alone, if that is one, since each takes time."""
    parser = Parser(prog="cis", description="Run DAGs of work across your own machines.")
    parser.add_argument("--version", action="version", version=f"cis {__version__}")
    groups = parser.add_subparsers(dest="group", metavar="COMMAND", required=True)
    group = asked[0] if asked and asked[0] in GROUPS else None
    for name in [group] if group else GROUPS:
        added = groups.add_parser(name, help=GROUPS[name], description=GROUPS[name])
        if group or asked is None:
            added.asked = asked[1:] if asked else ()
            import_module(f"cis.cli.{_MODULES.get(name, name)}").add(added, name)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    # Commands are short: collecting a few times less, and not at the end, is a tenth of the time of most.
    gc.set_threshold(GC_THRESHOLD)
    for name in ("stdin", "stdout", "stderr"):  # in the order of their descriptors, so that no file gets one of these
        if getattr(sys, name) is None:  # closed by whoever started this
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - it stays open
    with suppress(AttributeError):  # somebody else's stream, in a test
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except CisError as error:
        status = _tell(error, arguments)
    except KeyboardInterrupt as error:
        import signal  # noqa: PLC0415 - making its names takes a while

        status = 128 + (error.args[0] if error.args else signal.SIGINT)
    except UnicodeEncodeError as error:  # bytes that came in as an argument, a name of a file or a variable
        status = _tell(UsageError(f"{_around(error)} is not UTF-8; write it in UTF-8, or rename it"), arguments)
    except BrokenPipeError:
        _silence()
        import signal  # noqa: PLC0415 - as above

        status = 128 + signal.SIGPIPE
    except OSError as error:
        from cis.engine.shortage import shortage_of  # noqa: PLC0415 - for those to whom it happens

        short_of = shortage_of(error)
        where = error.filename or "the system says"
        told = CisError(f"{where}: {error.strerror or error}") if short_of is None else ShortageError(short_of)
        status = _tell(told, arguments)
        _silence()
    gc.freeze()
    return status


def command() -> NoReturn:
    """Be the program ``cis``: end with the status of ``main``.

    Where no thread and no log is there that an end would wait for, it comes at once: to take a Python apart in order
    is a fiftieth of a short command.
    """
    status = main()
    if not sys.modules.keys() & {"threading", "logging"}:
        with suppress(OSError):
            sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _tell(error: CisError, arguments: Sequence[str]) -> int:
    """Say what is wrong, where JSON is asked for as JSON too, and return the exit status."""
    from cis.cli.context import say  # noqa: PLC0415 - for those to whom it happens

    say(f"cis: {_readable(str(error))}")
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if any(len(word) > len("--") and "--json".startswith(word) for word in options):
        from cis.cli.output import print_json_error  # noqa: PLC0415 - for those to whom it happens

        print_json_error(error, message=_readable(str(error)))
    return error.exit_status


def _silence() -> None:
    """Leave nothing to be flushed to a standard output that cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:
        from cis.cli.context import silence  # noqa: PLC0415 - for those to whom it happens

        silence(sys.stdout)


def _around(error: UnicodeEncodeError) -> str:
    """Return what cannot be written as UTF-8 with a little around it, in one line, its odd bytes as numbers."""
    near = " ".join(error.object[max(0, error.start - 40) : error.end + 40].split())
    return _readable(near)


def _readable(text: str) -> str:
    r"""Return *text* with the bytes in it that are not UTF-8 as numbers, ``\xe9``."""
    shown = text.encode(errors="backslashreplace").decode()  # as in what was quoted before
    return re.sub(r"\\udc([89a-f][0-9a-f])", r"\\x\1", shown)


def _run(arguments: list[str]) -> int:
    completing = "_ARGCOMPLETE" in os.environ
    words = os.environ.get("COMP_LINE", "").split()[1:] if completing else arguments
    asked = [word for word in words if not word.startswith("-")]
    parser = build_parser(asked[:1] if completing else asked)
    if completing:
        import argcomplete  # noqa: PLC0415 - only when the shell asks

        argcomplete.autocomplete(parser)
    if not arguments:  # what there is, and that something was missing all the same
        parser.print_help()
    options = parser.parse_args(arguments)
    status: int | None = options.call(options)
    return status or 0
