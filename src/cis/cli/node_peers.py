"""``cis node trust``, ``untrust``, ``list``, ``invite`` and ``rotate-key``: whom this node works with."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING, Any

from cis.cli.context import Context, from_environment, say, this_user, wake
from cis.cli.output import print_json
from cis.cli.table import print_table, time_cell
from cis.engine.observe.views import own_node_view, peer_view
from cis.errors import UsageError
from cis.model.ids import counted, id_fault
from cis.model.scope_rules import given_patterns, listed
from cis.node.clock import now_us
from cis.node.home import announced

if TYPE_CHECKING:
    from cis.store.port import Store


def trust(options: argparse.Namespace) -> None:
    """Trust a node: what it signs with this key is acted upon, as far as it may."""
    from cis.app import trust as use_case  # noqa: PLC0415 - a list needs none of it
    from cis.node.setting_values import address, matrix_user  # noqa: PLC0415 - only here
    from cis.store.cluster import PeerRecord  # noqa: PLC0415 - as above
    from cis.transports.keys import check_public_key, key_id  # noqa: PLC0415 - 30 ms

    context = from_environment()
    fault = id_fault(options.node_id)
    if fault:
        raise UsageError(f"NODE_ID {fault}")
    if options.node_id == context.settings.node_id:
        raise UsageError(
            f"{options.node_id} is the id of the node of this home. Run this on the other node; if that is another machine"
            " with the same id (a host name that both have), give one of them another id: under [node] in its cis.toml"
        )
    may = tuple(dict.fromkeys(right for right in options.may.split(",") if right))
    if not may or any(right not in use_case.RIGHTS for right in may):
        raise UsageError(f"--may {options.may!r}: write some of {', '.join(use_case.RIGHTS)}, with commas between")
    try:
        public_key = check_public_key(options.public_key)
        user = matrix_user(options.matrix_user) if options.matrix_user else None
    except ValueError as error:
        raise UsageError(str(error)) from error
    try:
        url = address(options.url) if options.url else None
    except ValueError as error:
        raise UsageError(f"--url: {error}") from error
    try:
        scopes = None if options.scopes is None else given_patterns(options.scopes)
    except ValueError as error:
        raise UsageError(f"--scopes: {error}") from error
    wanted = PeerRecord(
        node_id=options.node_id,
        public_key=public_key,
        may=may,
        trusted_at_us=now_us(),
        url=url,
        matrix_user=user,
        scopes=scopes,
    )
    not_given = [name for name in ("url", "matrix_user", "scopes") if getattr(options, name) is None]
    with context.writable_store() as store, store.transaction():
        trusted = use_case.trust(store, wanted, key_id=key_id(public_key), keep=not_given, by=this_user())
    wake(context.home.run, trusted.wake)
    peer = trusted.peer
    if options.json:
        print_json(peer_view(peer, outbox=0, now_us=now_us()))
    else:
        where = "" if peer.scopes is None else f", in scopes {listed(peer.scopes)}"
        print(f"{peer.node_id} is trusted: it may {', '.join(may)} here{where}")
        if peer.url is None and peer.matrix_user is None:
            say("it has no --url and no --matrix-user: it can hand DAGs to this node, but not the other way round")


def untrust(options: argparse.Namespace) -> None:
    """Stop trusting a node; runs that it has for this node are given up, those that it sent here cancelled."""
    from cis.app import trust as use_case  # noqa: PLC0415 - a list needs none of it

    context = from_environment()
    with context.writable_store() as store, store.transaction():
        gone = use_case.untrust(store, options.node_id, by=this_user(), now_us=now_us())
    wake(context.home.run, gone.wake)
    if options.json:
        view = {"node_id": options.node_id, "trusted": False}
        print_json({**view, "failed_runs": list(gone.failed), "cancelled_runs": list(gone.cancelled)})
    else:
        print(f"{options.node_id}: not trusted any more")
        if gone.cancelled:
            say(f"cancelled: {counted(len(gone.cancelled), 'run')} that it sent here")
        if gone.failed:
            say(f"given up, and failed here: {counted(len(gone.failed), 'run')} that it has, and is told to stop")


def list_nodes(options: argparse.Namespace) -> None:
    """Print this node and those that it trusts."""
    context = from_environment()
    with context.store() as store:
        views = [_own_view(context), *_peer_views(store)]
    if options.json:
        print_json(views)
        return
    rows = []
    for view in views:
        reachable = "this node" if view["self"] else {True: "yes", False: "no", None: "-"}[view["reachable"]]
        clock = view["clock_difference_s"]
        rows.append(
            (
                view["node_id"],
                view["url"],
                view["matrix_user"],
                ",".join(view["may"]),
                None if view["self"] else listed(view["scopes"]),
                reachable,
                time_cell(view["last_contact"]),
                view["outbox"],
                None if clock is None else f"{clock:+.1f}s",
                view["warning"],
            )
        )
    header = ("node_id", "url", "matrix_user", "may", "scopes", "reachable", "last_contact", "outbox", "clock", "note")
    print_table(header, rows)


def invite(options: argparse.Namespace) -> None:
    """Print one line that makes another node trust this one."""
    from cis.node import identity  # noqa: PLC0415 - only here

    context = from_environment()
    settings, told = context.settings, announced(context.home)
    url = settings.url or (told.url if told is not None else None)
    words = ["cis", "node", "trust", settings.node_id, identity.ensure_public_key(context.home)]
    if url is not None:
        words += ["--url", url]
    if settings.matrix_user is not None:
        words += ["--matrix-user", settings.matrix_user]
    line = shlex.join(words)
    if options.json:
        print_json({"node_id": settings.node_id, "command": line, "url": url})
        return
    print(line)
    say("run this line on the other machine, and the line that it prints for 'cis node invite' here")
    if url is None:
        say("no node is running, and [node] url is not set: the line names no address")
    elif settings.url is None and ("127.0.0.1" in url or "[::1]" in url):
        say("this address is good on this machine alone; set [node] host and [node] url in cis.toml for others")


def rotate_key(options: argparse.Namespace) -> None:
    """Give this node a new key, which its old one signs; peers follow by themselves."""
    from cis.app.actor import append_audit  # noqa: PLC0415 - a list needs none of it
    from cis.node.identity import KeyFile  # noqa: PLC0415 - only here

    context = from_environment()
    with context.writable_store() as store:
        signer = KeyFile(context.home.key_file).rotate(context.settings.node_id)
        with store.transaction():
            append_audit(store.audit, this_user(), action="node.rotate_key", subject=signer.key_id, now_us=now_us())
    if options.json:
        print_json({"node_id": context.settings.node_id, "public_key": signer.public_key, "key_id": signer.key_id})
    else:
        print(f"new public key {signer.public_key}")
        say("peers follow with the next message; if the old key was stolen, trust the new one by hand on each of them")


def _own_view(context: Context) -> dict[str, Any]:
    from cis.node import identity  # noqa: PLC0415 - only here

    settings, told = context.settings, announced(context.home)
    return own_node_view(
        settings.node_id,
        url=(settings.url or told.url) if told else None,
        public_key=identity.ensure_public_key(context.home),
        matrix_user=settings.matrix_user,
    )


def _peer_views(store: Store) -> list[dict[str, Any]]:
    depths, at_us = store.outbox.depths(), now_us()
    return [peer_view(peer, outbox=depths.get(peer.node_id, 0), now_us=at_us) for peer in store.peers.all()]
