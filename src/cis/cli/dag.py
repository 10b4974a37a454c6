"""``cis dag …``: which commands there are, and what each takes."""

from __future__ import annotations

import argparse
from typing import Any

from cis.cli.later import later

Command = argparse.ArgumentParser


def add(group: argparse.ArgumentParser, _name: str) -> None:
    """Add the commands of this group."""
    commands = group.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, about: str, call: str, *, json: bool = True) -> Command:
        made: Command = commands.add_parser(name, help=about, description=about)
        if json:
            made.add_argument("--json", action="store_true", help="one JSON document")
        made.set_defaults(call=later(call))
        return made

    run = command("run", "hand a DAG to the node, or, with no node running, run it here and now", "dag_run:run")
    run.add_argument("file", metavar="FILE", help="a YAML, JSON or TOML document; - reads standard input")
    run.add_argument("--wait", action="store_true", help="return when the run is over")
    run.add_argument("--follow", action="store_true", help="show what the tasks write, until the run is over")
    run.add_argument("--scope", help="global, project:ID, user:ID or type:ID")
    run.add_argument("--target-node", metavar="N", help="the node that is to run it")
    run.add_argument("--priority", metavar="P", help="low, normal, high or critical")
    run.add_argument("--idempotency-key", metavar="K", help="the same key gives the same run")

    rerun = command("rerun", "run a DAG again, as it was", "dag_run:rerun")
    _which(rerun)
    rerun.add_argument("--from-failed", action="store_true", help="keep what has completed")
    rerun.add_argument("--wait", action="store_true", help="return when the run is over")
    rerun.add_argument("--follow", action="store_true", help="show what the tasks write, until the run is over")

    validate = command("validate", "say what is wrong with a document, or what would run", "dag_documents:validate")
    validate.add_argument("file", metavar="FILE")

    listed = command("list", "runs, newest first", "dag_query:list_runs")
    listed.add_argument("--status", help="pending, running, paused, completed, failed or cancelled")
    listed.add_argument("--scope", help="global, project:ID, user:ID or type:ID")
    listed.add_argument("--node", metavar="N", help="the node that runs it")
    listed.add_argument("--limit", type=int, default=20, metavar="N", help="at most this many (default 20)")

    status = command("status", "a DAG, its latest runs, the tasks that run now", "dag_query:status")
    _which(status)
    status.add_argument("--watch", action="store_true", help="until the latest run is over")

    logs = command("logs", "what tasks wrote", "dag_logs:logs")
    _which(logs)
    _complete(logs.add_argument("--task", metavar="ID"), "none")
    logs.add_argument("--attempt", type=int, metavar="N")
    logs.add_argument("--follow", action="store_true", help="until the run is over")

    for name, about in (
        ("cancel", "end a run and its tasks"),
        ("pause", "start nothing more of a run"),
        ("resume", "let a paused run go on"),
    ):
        _which(command(name, about, f"dag_control:{name}"))

    _add_documents(command)
    _add_workers(commands)


def _add_documents(command: Any) -> None:
    imported = command("import", "a workflow of another tool as a DAG document", "dag_documents:import_", json=False)
    imported.add_argument("file", metavar="FILE")
    imported.add_argument("--from", dest="source", required=True, choices=["wfformat"], help="the tool's format")
    imported.add_argument("--scale", type=float, default=1.0, metavar="X", help="of each task's recorded run time")
    imported.add_argument("--commands", action="store_true", help="the recorded commands, instead of sleeping")
    imported.add_argument("-o", "--output", metavar="OUT", help="a file; its suffix says the notation")

    command("schema", "the JSON Schema of a DAG document", "dag_documents:schema")
    save = command("save", "store a DAG, to be run by name", "dag_documents:save")
    save.add_argument("file", metavar="FILE")
    command("definitions", "stored DAGs", "dag_query:definitions")


def _add_workers(commands: Any) -> None:
    worker = commands.add_parser("worker", help="workers", description="Workers of this node.")
    actions = worker.add_subparsers(dest="action", metavar="COMMAND", required=True)
    listed = actions.add_parser("list", help="workers that live")
    listed.add_argument("--all", action="store_true", help="also those that stopped or died")
    listed.add_argument("--json", action="store_true", help="one JSON document")
    listed.set_defaults(call=later("dag_workers:list_workers"))
    status = actions.add_parser("status", help="one worker in detail")
    _complete(status.add_argument("worker_id", metavar="WORKER_ID"), "worker_ids")
    status.add_argument("--json", action="store_true", help="one JSON document")
    status.set_defaults(call=later("dag_workers:worker_status"))


def _which(command: Command) -> None:
    _complete(command.add_argument("dag_id", metavar="DAG_ID"), "dag_ids")
    _complete(command.add_argument("--run", metavar="RUN_ID", help="not the latest run, but this one"), "run_ids")


def _complete(action: argparse.Action, what: str) -> None:
    def completer(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
        from cis.cli import completion  # noqa: PLC0415 - only when the shell asks

        return completion.complete(what, prefix, parsed_args)

    action.completer = completer  # type: ignore[attr-defined]  # argcomplete's own convention
