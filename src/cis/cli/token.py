"""``cis token …``: the node's own token, and further ones with fewer rights."""

from __future__ import annotations

import argparse

from cis.app.tokens import RIGHTS, create_token, revoke_token, rotate_own_token, token_name_fault
from cis.cli.context import from_environment, say, this_user
from cis.cli.output import print_json
from cis.cli.parser import completes
from cis.cli.table import print_table, time_cell
from cis.engine.times import rfc3339
from cis.errors import UsageError
from cis.model.scope_rules import given_patterns, listed
from cis.node import identity
from cis.node.clock import now_us


def add(group: argparse.ArgumentParser, _name: str) -> None:
    """Add the commands of this group."""
    commands = group.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, about, call in (
        ("show", "print the node's own token, which may do everything", _show),
        ("rotate", "replace the node's own token, at once", _rotate),
        ("list", "further tokens", _list),
        ("create", "make a token with some rights; it is shown once", _create),
        ("revoke", "end a token", _revoke),
    ):
        command = commands.add_parser(name, help=about)
        command.add_argument("--json", action="store_true", help="one JSON document")
        if name in ("create", "revoke"):
            completes(command.add_argument("name", metavar="NAME"), "tokens" if name == "revoke" else "nothing")
        if name == "create":
            command.add_argument("--may", default="read", metavar="RIGHTS", help=f"of {','.join(RIGHTS)}")
            command.add_argument("--scopes", metavar="SCOPES", help="as project:proj-a,user:*; all, unless given")
        command.set_defaults(call=call)


def _show(options: argparse.Namespace) -> None:
    _print_token(identity.ensure_token(from_environment().home), options)


def _rotate(options: argparse.Namespace) -> None:
    context = from_environment()
    with context.writable_store() as store:
        token = rotate_own_token(store, lambda: identity.rotate_token(context.home), by=this_user(), now_us=now_us())
    _print_token(token, options)


def _list(options: argparse.Namespace) -> None:
    with from_environment().store() as store:
        tokens = store.tokens.all()
    views = [
        {
            "name": one.name,
            "may": list(one.may),
            "scopes": None if one.scopes is None else list(one.scopes),
            "created_at": rfc3339(one.created_at_us),
        }
        for one in tokens
    ]
    if options.json:
        print_json(views)
    else:
        rows = [
            (one.name, ",".join(one.may), listed(one.scopes), time_cell(rfc3339(one.created_at_us))) for one in tokens
        ]
        print_table(("name", "may", "scopes", "created"), rows)


def _create(options: argparse.Namespace) -> None:
    fault = token_name_fault(options.name)
    if fault:
        raise UsageError(f"NAME {fault}")
    may = tuple(dict.fromkeys(right for right in options.may.split(",") if right))
    if not may or any(right not in RIGHTS for right in may):
        raise UsageError(f"--may {options.may!r}: write some of {', '.join(RIGHTS)}, with commas between")
    try:
        scopes = None if options.scopes is None else given_patterns(options.scopes)
    except ValueError as error:
        raise UsageError(f"--scopes: {error}") from error
    secret = identity.new_token()
    with from_environment().writable_store() as store, store.transaction():
        create_token(store, options.name, secret=secret, may=may, scopes=scopes, by=this_user(), now_us=now_us())
    if options.json:
        print_json({"name": options.name, "may": list(may), "scopes": scopes and list(scopes), "token": secret})
    else:
        say("this token is shown once; only its hash is kept")
        print(secret)


def _revoke(options: argparse.Namespace) -> None:
    with from_environment().writable_store() as store, store.transaction():
        revoke_token(store, options.name, by=this_user(), now_us=now_us())
    if options.json:
        print_json({"name": options.name, "revoked": True})
    else:
        print(f"{options.name}: revoked")


def _print_token(token: str, options: argparse.Namespace) -> None:
    if options.json:
        print_json({"token": token})
    else:
        print(token)
