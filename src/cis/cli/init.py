"""``cis init``: makes the home of a node, or says what became of one that woke up elsewhere."""

from __future__ import annotations

import argparse

from cis.cli.context import Context, from_environment, say
from cis.cli.output import print_json
from cis.errors import ConflictError, UsageError
from cis.model.ids import id_fault
from cis.node import identity


def add(group: argparse.ArgumentParser, _name: str) -> None:
    """Add the options of this command."""
    group.add_argument("--node-id", metavar="ID", help="default: what the home has kept, or the name of this host")
    what = group.add_mutually_exclusive_group()
    what.add_argument("--moved", action="store_true", help="this home was moved here: it is the same node")
    what.add_argument(
        "--copied", action="store_true", help="this home is a copy: a new id and key, nothing of the old queue"
    )
    group.add_argument("--json", action="store_true", help="one JSON document")
    group.set_defaults(call=_init)


def _init(options: argparse.Namespace) -> None:
    if options.copied:
        _become_copy(options)
    elif options.moved:
        _move(options)
    else:
        _make(options)


def _make(options: argparse.Namespace) -> None:
    context = from_environment(flags={"node_id": options.node_id})
    node_id = context.settings.node_id
    if options.node_id is not None and context.home.toml.exists():
        said = from_environment().settings.node_id
        if said != options.node_id:
            raise ConflictError(f"{context.home.toml} already says node.id = {said!r}; change it there")
    with context.writable_store():
        fresh = identity.ensure_toml(context.home, node_id=node_id)
    _answer(options, created=fresh)


def _move(options: argparse.Namespace) -> None:
    from cis.node.residence import move  # noqa: PLC0415 - only here

    if options.node_id is not None:
        raise UsageError("a home that was moved keeps its node's id; leave --node-id out")
    context = from_environment()
    with context.store() as store:
        was = move(store, context.home)
    say("this home is where it was" if was is None else f"moved here from {was.path}; it is the same node")
    _answer(options, created=False)


def _become_copy(options: argparse.Namespace) -> None:
    from cis.node.residence import become_copy  # noqa: PLC0415 - only here

    context = from_environment()
    node_id = _wanted_id(options, context)
    with context.store() as store:
        was = become_copy(store, context.home, node_id=node_id)
    if was is None:
        say("this home is where it was, so it is not a copy: nothing was changed")
    else:
        say(f"a node of its own now; node {was.node_id!r} at {was.path} keeps its id, its key and its runs")
        say("peers have to trust the new key: 'cis node invite'")
        if from_environment().settings.matrix_user is not None:
            say("[matrix] in cis.toml is still the account of the original: 'cis room login' with another")
    _answer(options, created=False)


def _wanted_id(options: argparse.Namespace, context: Context) -> str | None:
    """Return the id that a copy is to get, by the flag or the variable; None for a new one. Raises UsageError."""
    said: str | None = options.node_id
    place = "--node-id"
    if said is None:
        place, said = "CIS_NODE_ID", context.environ.get("CIS_NODE_ID") or None
    fault = None if said is None else id_fault(said)
    if fault:
        raise UsageError(f"{place} {fault}")
    return said


def _answer(options: argparse.Namespace, *, created: bool) -> None:
    context = from_environment()
    settings = context.settings
    identity.ensure_token(context.home)
    public_key = identity.ensure_public_key(context.home)
    view = {"node_id": settings.node_id, "home": str(context.home.root), "public_key": public_key, "created": created}
    if options.json:
        print_json(view)
    else:
        print(f"node {settings.node_id} in {context.home.root}, public key {public_key}")
