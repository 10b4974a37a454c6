"""``cis service …``: the node as a service of this user, or of the machine."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cis.cli.context import Context, from_environment, say
from cis.cli.output import print_json
from cis.errors import NodeError, NotFoundError, UsageError
from cis.node.home import node_is_running

if TYPE_CHECKING:
    from cis.node.service import Manager

_ROOT = 0


def add(group: argparse.ArgumentParser, _name: str) -> None:
    """Add the commands of this group."""
    commands = group.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, about, call in (
        ("install", "have the node run as a service, from now on and after each start of the machine", _install),
        ("status", "whether it is installed, and runs", _status),
        ("uninstall", "stop the service, and remove it; the home stays", _uninstall),
    ):
        command = commands.add_parser(name, help=about, description=about)
        whose = command.add_mutually_exclusive_group()
        whose.add_argument("--user", action="store_true", help="a service of this user (default, but for root)")
        whose.add_argument("--system", action="store_true", help="a service of the machine (default for root)")
        command.add_argument("--json", action="store_true", help="one JSON document")
        if name == "install":
            command.add_argument("--print", action="store_true", help="print its file, and change nothing")
        command.set_defaults(call=call)


def _install(options: argparse.Namespace) -> None:
    from cis.node.service import write  # noqa: PLC0415 - only here

    context = from_environment()
    manager = _manager(context, options)
    if options.print:
        print(manager.content().decode(), end="")
        return
    by_hand = node_is_running(context.home) and not manager.state()[1]
    changed = write(manager)
    if by_hand:
        say(f"a node of this home runs already; once it has ended: {manager.by_hand}")
    else:
        try:
            manager.start()
        except NodeError as error:
            say(f"it is installed, but could not be started: {error}; by hand: {manager.by_hand}")
    view = _view(context, manager)
    if changed and view["active"]:
        say(f"if it ran before, it takes up what is new once it is started again: {manager.file}")
    if manager.name == "systemd" and "--user" in manager.by_hand:
        say('to have it run while nobody is logged in: loginctl enable-linger "$USER"')
    _answer(view, options)


def _status(options: argparse.Namespace) -> None:
    context = from_environment()
    manager = _manager(context, options)
    _demand_installed(manager)
    _answer(_view(context, manager), options)


def _uninstall(options: argparse.Namespace) -> None:
    context = from_environment()
    manager = _manager(context, options)
    _demand_installed(manager)
    manager.stop()
    manager.file.unlink(missing_ok=True)
    manager.forget()
    _answer(_view(context, manager), options)


def _demand_installed(manager: Manager) -> None:
    if not manager.file.exists():
        raise NotFoundError(
            "service", manager.file.stem, hint=f"there is no {manager.file}; 'cis service install' makes it"
        )


def _manager(context: Context, options: argparse.Namespace) -> Manager:
    from cis.node.service import Service, manager_of, path_with_cis  # noqa: PLC0415 - only here

    settings = context.settings
    system = options.system or (os.geteuid() == _ROOT and not options.user)
    if system and os.geteuid() != _ROOT:
        raise UsageError("a service of the machine is root's to install: use sudo, or leave --system out")
    is_default = context.home.root == Path.home() / ".cis"
    service = Service(
        name="cis" if is_default else f"cis-{settings.node_id}",
        node_id=settings.node_id,
        home=context.home.root,
        path=path_with_cis(context.environ.get("PATH") or os.defpath),
        stop_s=2 * settings.grace_s + 10,
        system=system,
    )
    return manager_of(service, context.environ)


def _view(context: Context, manager: Manager) -> dict[str, Any]:
    enabled, active = manager.state()
    return {
        "name": manager.file.stem,
        "manager": manager.name,
        "file": str(manager.file),
        "home": str(context.home.root),
        "installed": manager.file.exists(),
        "enabled": enabled,
        "active": active,
    }


def _answer(view: dict[str, Any], options: argparse.Namespace) -> None:
    if options.json:
        print_json(view)
        return
    state = "runs" if view["active"] else "does not run"
    started = "started by itself" if view["enabled"] else "not started by itself"
    print(f"{view['name']} ({view['file']}): {f'{state}, {started}' if view['installed'] else 'removed'}")
