"""``cis token …``: the node's own token, and further ones with fewer rights."""

from __future__ import annotations

import argparse

from cis.cli.acting import append_audit
from cis.cli.context import from_environment, say
from cis.cli.output import local_time, print_json, print_table
from cis.engine.times import rfc3339
from cis.errors import ConflictError, NotFoundError, UsageError
from cis.model.ids import id_fault
from cis.model.scope_rules import given_patterns, listed
from cis.node import identity
from cis.node.clock import now_us
from cis.store.records import TokenRecord

RIGHTS = ("read", "execute", "control", "admin")
_OWNER = "owner"  # who the node's own token is, in the audit log too


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
            command.add_argument("name", metavar="NAME")
        if name == "create":
            command.add_argument("--may", default="read", metavar="RIGHTS", help=f"of {','.join(RIGHTS)}")
            command.add_argument("--scopes", metavar="SCOPES", help="as project:proj-a,user:*; all, unless given")
        command.set_defaults(call=call)


def _show(options: argparse.Namespace) -> None:
    _print_token(identity.ensure_token(from_environment().home), options)


def _rotate(options: argparse.Namespace) -> None:
    context = from_environment()
    with context.acting_store() as store:
        token = identity.rotate_token(context.home)
        with store.transaction():
            append_audit(store, "token.rotate", _OWNER)
    _print_token(token, options)


def _list(options: argparse.Namespace) -> None:
    with from_environment().store() as store:
        tokens = store.tokens()
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
            (one.name, ",".join(one.may), listed(one.scopes), local_time(rfc3339(one.created_at_us))) for one in tokens
        ]
        print_table(("name", "may", "scopes", "created"), rows)


def _create(options: argparse.Namespace) -> None:
    fault = id_fault(options.name)
    if fault:
        raise UsageError(f"NAME {fault}")
    if options.name == _OWNER:
        raise UsageError(f"NAME {_OWNER!r} is kept for the node's own token; choose another name")
    may = tuple(dict.fromkeys(right for right in options.may.split(",") if right))
    if not may or any(right not in RIGHTS for right in may):
        raise UsageError(f"--may {options.may!r}: write some of {', '.join(RIGHTS)}, with commas between")
    try:
        scopes = None if options.scopes is None else given_patterns(options.scopes)
    except ValueError as error:
        raise UsageError(f"--scopes: {error}") from error
    import hashlib  # noqa: PLC0415 - only here

    secret = identity.new_token()
    digest = hashlib.sha256(secret.encode()).hexdigest()
    with from_environment().acting_store() as store, store.transaction():
        if any(one.name == options.name for one in store.tokens()):
            raise ConflictError(f"there is a token {options.name!r} already; revoke it first, or choose another name")
        store.put_token(TokenRecord(name=options.name, sha256=digest, may=may, created_at_us=now_us(), scopes=scopes))
        append_audit(
            store, "token.create", options.name if scopes is None else f"{options.name} in scopes {listed(scopes)}"
        )
    if options.json:
        print_json({"name": options.name, "may": list(may), "scopes": scopes and list(scopes), "token": secret})
    else:
        say("this token is shown once; only its hash is kept")
        print(secret)


def _revoke(options: argparse.Namespace) -> None:
    with from_environment().acting_store() as store, store.transaction():
        if not store.delete_token(options.name):
            raise NotFoundError("token", options.name, hint="'cis token list' shows them")
        append_audit(store, "token.revoke", options.name)
    if options.json:
        print_json({"name": options.name, "revoked": True})
    else:
        print(f"{options.name}: revoked")


def _print_token(token: str, options: argparse.Namespace) -> None:
    if options.json:
        print_json({"token": token})
    else:
        print(token)
