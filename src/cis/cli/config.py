"""``cis config check`` and ``show``."""

from __future__ import annotations

import argparse
from typing import Any

from cis.cli.context import Context, from_environment, say
from cis.cli.output import print_json
from cis.errors import ConfigError, Fault, NodeIdKeptError
from cis.model.scope_rules import RULE_NAMES, ScopeRules
from cis.node.home import find_home
from cis.node.tables import TomlSecrets


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
    toml = find_home(context.environ).toml
    faults = _faults(context)
    if faults and not options.json:
        raise ConfigError(faults)
    warnings = [] if faults else list(TomlSecrets(toml, context.environ).warnings())
    if options.json:
        views = [{"place": fault.place, "message": fault.message} for fault in faults]
        print_json({"path": str(toml), "ok": not faults, "faults": views, "warnings": warnings})
    else:
        print(f"{toml}: fine")
    for warning in warnings:
        say(f"warning: {warning}")
    return ConfigError.exit_status if faults else 0


def _faults(context: Context) -> list[Fault]:
    """Return every fault of the home and its settings, and of the secrets that they name."""
    faults: list[Fault] = []
    try:
        _ = context.settings
    except ConfigError as error:
        faults += error.faults
    except NodeIdKeptError as error:
        faults.append(Fault(place=error.place, message=error.fault))
    said = {fault.place for fault in faults}
    secrets = TomlSecrets(find_home(context.environ).toml, context.environ)
    return faults + [fault for fault in secrets.faults() if fault.place not in said]


def _show(options: argparse.Namespace) -> None:
    settings = from_environment().settings
    values = {**settings._asdict(), "allow": [person._asdict() for person in settings.allow]}
    values["scopes"] = {table.pattern: _said(table.rules) for table in settings.scopes}
    if options.json:
        print_json(values)
        return
    for name, value in values.items():
        text = ", ".join(map(_shown, value)) if isinstance(value, list | tuple | dict) else value
        print(f"{name:20}{'-' if text in ('', None) else text}")
    for pattern, rules in values["scopes"].items():
        for key, value in rules.items():
            print(f"{'':20}{pattern} {key}: {_inline(value)}")


def _said(rules: ScopeRules) -> dict[str, Any]:
    """Return what one table says; what it does not say is not in it."""
    values = {name: getattr(rules, name) for name in RULE_NAMES}
    return {name: dict(value) if name == "env" else value for name, value in values.items() if value not in (None, {})}


def _inline(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={text}" for name, text in value.items())
    return (", ".join(value) or "none") if isinstance(value, tuple) else str(value)


def _shown(one: Any) -> str:
    return str(one["user_id"] if isinstance(one, dict) else one)
