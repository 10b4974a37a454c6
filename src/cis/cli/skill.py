"""``cis skill list``."""

from __future__ import annotations

import argparse

from cis.cli.context import from_environment
from cis.cli.output import print_json
from cis.cli.table import print_table
from cis.engine.observe.views import skill_view


def add(group: argparse.ArgumentParser, _name: str) -> None:
    """Add the commands of this group."""
    commands = group.add_subparsers(dest="command", metavar="COMMAND", required=True)
    listed = commands.add_parser("list", help="skills, where each comes from, its triggers")
    listed.add_argument("--json", action="store_true", help="one JSON document")
    listed.set_defaults(call=_list)


def _list(options: argparse.Namespace) -> None:
    infos = from_environment().skills.infos()
    if options.json:
        print_json([skill_view(info) for info in infos])
        return
    print_table(
        ("name", "source", "triggers", "description"),
        [(info.name, info.source, ", ".join(info.triggers), info.description) for info in infos],
    )
