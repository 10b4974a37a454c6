"""``cis room login``, ``setup`` and ``status``: the Matrix room of this node."""

from __future__ import annotations

import argparse

from cis.cli.later import later


def add(group: argparse.ArgumentParser, _name: str) -> None:
    """Add the commands of this group."""
    commands = group.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, about: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=about, description=about)
        made.add_argument("--json", action="store_true", help="one JSON document")
        made.set_defaults(call=later(f"room_calls:{name}"))
        return made

    login = command("login", "get an access token by password, which is read from standard input or asked for")
    login.add_argument("--homeserver", required=True, metavar="URL", help="as https://matrix.example.org")
    login.add_argument("--user", required=True, metavar="USER", help="as @node-1:example.org")
    setup = command("setup", "make the room, or join and check the one that cis.toml names")
    setup.add_argument("--name", default="CIS", help="of a new room (default CIS)")
    command("status", "the room, whether it can be used, and what is wrong with it")
