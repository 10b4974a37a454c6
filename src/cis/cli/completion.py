"""``cis completion SHELL``: prints what makes a shell complete commands, and the values that they take.

Ids, tasks, nodes, tokens and scopes come from the database of the home; a value is offered where it fits.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cis.cli.context import Context, from_environment
from cis.engine.lookup import run_of
from cis.errors import CisError
from cis.model.scope import GLOBAL
from cis.model.states import Priority, RunState
from cis.store.records import RunFilter

if TYPE_CHECKING:
    from cis.store.port import Store

SHELLS = ("bash", "zsh", "fish")
MAX_OFFERED = 200
MAX_TASKS = 1000
MAX_TASK_BYTES = 1 << 20
_SUFFIXES = (".yaml", ".yml", ".json", ".toml")


def add(group: argparse.ArgumentParser, _name: str) -> None:
    """Add the arguments of this command."""
    group.add_argument("shell", choices=SHELLS, help='as in: eval "$(cis completion bash)"')
    group.set_defaults(call=_completion)


def complete(what: str, prefix: str, options: argparse.Namespace) -> list[str]:
    """Return what fits and begins with *prefix*; nothing, rather than an error in the middle of a line."""
    try:
        if what in _WORDS:
            found: Iterable[str] = _WORDS[what]
        else:
            context = from_environment()
            with context.store() as store:
                found = list(_FINDERS[what](store, context, prefix, options))
    except (CisError, OSError, ValueError):
        return []
    return [one for one in dict.fromkeys(found) if one.startswith(prefix)]


def _dag_ids(store: Store, _: Context, prefix: str, _options: argparse.Namespace) -> Iterator[str]:
    return (one.dag_id for one in store.definitions.page(limit=MAX_OFFERED, cursor=_before(prefix)).items)


def _stored_ids(store: Store, _: Context, prefix: str, _options: argparse.Namespace) -> Iterator[str]:
    page = store.definitions.page(limit=MAX_OFFERED, cursor=_before(prefix), saved_only=True)
    return (one.dag_id for one in page.items)


def _before(prefix: str) -> str | None:
    """Return where the ids begin that begin with *prefix*, as a page of them is asked for."""
    return prefix[:-1] + chr(ord(prefix[-1]) - 1) + chr(sys.maxunicode) if prefix else None


def _documents(store: Store, context: Context, prefix: str, options: argparse.Namespace) -> Iterator[str]:
    """Return folders, documents and stored DAGs."""
    folder, name = os.path.split(prefix)
    for entry in sorted(os.scandir(folder or "."), key=lambda entry: entry.name):
        shown = prefix.removesuffix(name) + entry.name
        if entry.name.startswith(name) and (name or not entry.name.startswith(".")):
            if entry.is_dir():
                yield f"{shown}/"
            elif Path(entry.name).suffix.lower() in _SUFFIXES:
                yield shown
    if not folder:
        yield from _stored_ids(store, context, prefix, options)


def _run_ids(store: Store, _: Context, _prefix: str, options: argparse.Namespace) -> Iterator[str]:
    where = RunFilter(dag_id=getattr(options, "dag_id", None))
    return (one.run_id for one in store.runs.page(where, limit=MAX_OFFERED).items)


def _task_ids(store: Store, _: Context, _prefix: str, options: argparse.Namespace) -> Iterator[str]:
    run = run_of(store, options.dag_id, run_id=getattr(options, "run", None))
    return (task.task_id for task in store.tasks.page(run.run_id, -1, limit=MAX_TASKS, max_bytes=MAX_TASK_BYTES))


def _worker_ids(store: Store, _: Context, _prefix: str, _options: argparse.Namespace) -> Iterator[str]:
    return (one.worker_id for one in store.workers.all())


def _scopes(store: Store, _: Context, _prefix: str, _options: argparse.Namespace) -> Iterator[str]:
    yield str(GLOBAL)
    yield from (str(one.scope) for one in store.workers.all())
    yield from (str(one.scope) for one in store.definitions.page(limit=MAX_OFFERED).items)


def _nodes(store: Store, context: Context, prefix: str, options: argparse.Namespace) -> Iterator[str]:
    yield context.settings.node_id
    yield from _peers(store, context, prefix, options)


def _peers(store: Store, _: Context, _prefix: str, _options: argparse.Namespace) -> Iterator[str]:
    return (peer.node_id for peer in store.peers.all())


def _tokens(store: Store, _: Context, _prefix: str, _options: argparse.Namespace) -> Iterator[str]:
    return (token.name for token in store.tokens.all())


_WORDS: dict[str, list[str]] = {
    "nothing": [],
    "states": [str(state) for state in RunState],
    "priorities": [priority.name.lower() for priority in Priority],
}
_FINDERS: dict[str, Callable[[Store, Context, str, argparse.Namespace], Iterator[str]]] = {
    "dag_ids": _dag_ids,
    "stored_ids": _stored_ids,
    "documents": _documents,
    "run_ids": _run_ids,
    "task_ids": _task_ids,
    "worker_ids": _worker_ids,
    "scopes": _scopes,
    "nodes": _nodes,
    "peers": _peers,
    "tokens": _tokens,
}


def _completion(options: argparse.Namespace) -> None:
    from argcomplete.shell_integration import shellcode  # noqa: PLC0415 - only here

    print(shellcode(["cis"], shell=options.shell))
