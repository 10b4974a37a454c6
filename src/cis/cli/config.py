"""``cis config check`` and ``show``."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from cis.cli.context import Context, from_environment
from cis.cli.output import print_json
from cis.errors import ConfigError
from cis.node.secrets import TomlSecrets


def add(group: argparse.ArgumentParser, _name: str) -> None:
    """Add the commands of this group."""
    commands = group.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, about, call in (
        ("check", "report every fault of the settings at once", _check),
        ("show", "the settings as they hold here and now", _show),
    ):
        command = commands.add_parser(name, help=about)
        command.add_argument("--json", action="store_true", help="one JSON document")
        command.set_defaults(call=call)


def _check(options: argparse.Namespace) -> int:
    context = from_environment()
    try:
        faults: list[dict[str, str]] = []
        _check_all(context)
    except ConfigError as error:
        if not options.json:
            raise
        faults = [{"place": fault.place, "message": fault.message} for fault in error.faults]
    if options.json:
        print_json({"path": str(context.home.toml), "ok": not faults, "faults": faults})
    else:
        print(f"{context.home.toml}: fine")
    return ConfigError.exit_status if faults else 0


def _check_all(context: Context) -> None:
    """Raise ConfigError with every fault of the settings, or of the secrets that they name."""
    _ = context.settings
    unreadable = list(TomlSecrets(context.home.toml, context.environ).faults())
    if unreadable:
        raise ConfigError(unreadable)


def _show(options: argparse.Namespace) -> None:
    settings = asdict(from_environment().settings)
    if options.json:
        print_json(settings)
        return
    for name, value in settings.items():
        listed = isinstance(value, list | tuple)
        text = ", ".join(one["user_id"] if isinstance(one, dict) else one for one in value) if listed else value
        print(f"{name:20}{'-' if text in ('', None) else text}")
