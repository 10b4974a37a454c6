"""``cis completion SHELL``: prints what makes a shell complete commands, and ids from the database."""

from __future__ import annotations

import argparse

from cis.cli.context import from_environment
from cis.errors import CisError
from cis.store.records import RunFilter

SHELLS = ("bash", "zsh", "fish")
MAX_OFFERED = 200


def add(group: argparse.ArgumentParser, _name: str) -> None:
    """Add the arguments of this command."""
    group.add_argument("shell", choices=SHELLS, help='as in: eval "$(cis completion bash)"')
    group.set_defaults(call=_completion)


def complete(what: str, prefix: str, options: argparse.Namespace) -> list[str]:
    """Return the ids that begin with *prefix*; nothing, rather than an error in the middle of a line."""
    try:
        with from_environment().store() as store:
            if what == "dag_ids":
                found = [one.dag_id for one in store.definitions.page(limit=MAX_OFFERED, cursor=None).items]
            elif what == "worker_ids":
                found = [one.worker_id for one in store.workers.all()]
            else:
                where = RunFilter(dag_id=getattr(options, "dag_id", None))
                found = [one.run_id for one in store.runs.page(where, limit=MAX_OFFERED).items]
    except CisError:
        return []
    return [one for one in found if one.startswith(prefix)]


def _completion(options: argparse.Namespace) -> None:
    from argcomplete.shell_integration import shellcode  # noqa: PLC0415 - only here

    print(shellcode(["cis"], shell=options.shell))
