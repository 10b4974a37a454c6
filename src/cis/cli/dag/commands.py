"""``cis dag …``: which commands there are, and what each takes."""

from __future__ import annotations

from collections.abc import Callable

from cis.cli.parser import Parser, completes, lazy


def add(group: Parser, _name: str) -> None:
    """Add the commands of this group; where one is asked for, that one alone."""
    commands = group.add_subparsers(dest="command", metavar="COMMAND", required=True)
    asked = [name for name in group.asked[:1] if name in _COMMANDS]
    for name in asked or _COMMANDS:
        about, call, fill = _COMMANDS[name]
        command = commands.add_parser(name, help=about, description=about)
        if call:
            command.set_defaults(call=lazy(call))
            _json(command)
        fill(command)


def _run(run: Parser) -> None:
    about = "a YAML, JSON or TOML document (- reads standard input), or the id of a stored DAG"
    completes(run.add_argument("file", metavar="FILE|DAG_ID", help=about), "documents")
    _wait(run)
    completes(run.add_argument("--scope", help="global, project:ID, user:ID or type:ID"), "scopes")
    completes(run.add_argument("--target-node", metavar="N", help="the node that is to run it"), "nodes")
    completes(run.add_argument("--priority", metavar="P", help="low, normal, high or critical"), "priorities")
    _params(run)
    run.add_argument("--only", metavar="TASK", help="this task and what it needs, and nothing else")
    run.add_argument("--idempotency-key", metavar="K", help="the same key gives the same run")


def _rerun(rerun: Parser) -> None:
    _which(rerun)
    rerun.add_argument("--from-failed", action="store_true", help="keep what has completed")
    completes(
        rerun.add_argument("--task", metavar="ID", help="this one and what follows, and nothing else"), "task_ids"
    )
    about = "the mended document: what it changed runs again"
    completes(rerun.add_argument("--with", dest="mended", metavar="FILE", help=about), "documents")
    _params(rerun)
    _wait(rerun)


def _params(command: Parser) -> None:
    about = "the value of a parameter; its type says how VALUE is read (may be repeated)"
    command.add_argument("-p", "--param", metavar="NAME=VALUE|NAME:=JSON", action="append", help=about)
    command.add_argument(
        "--params-file", metavar="F", help="a mapping of parameters to values (- reads standard input)"
    )


def _validate(command: Parser) -> None:
    _file(command)
    _params(command)
    command.add_argument("--strict", action="store_true", help="refuse a document with warnings, too (status 2)")


def _list(listed: Parser) -> None:
    completes(listed.add_argument("--dag", metavar="D", help="of this DAG"), "dag_ids")
    completes(
        listed.add_argument("--status", help="pending, running, paused, completed, failed or cancelled"), "states"
    )
    completes(listed.add_argument("--scope", help="global, project:ID, user:ID or type:ID"), "scopes")
    completes(listed.add_argument("--node", metavar="N", help="the node that runs it"), "nodes")
    listed.add_argument("--limit", type=int, default=20, metavar="N", help="at most this many (default 20)")


def _status(status: Parser) -> None:
    _which(status)
    status.add_argument("--watch", action="store_true", help="until the latest run is over")


def _logs(logs: Parser) -> None:
    _which(logs)
    completes(logs.add_argument("--task", metavar="ID"), "task_ids")
    logs.add_argument("--attempt", type=int, metavar="N")
    logs.add_argument("--follow", action="store_true", help="until the run is over")
    logs.add_argument("--timestamps", action="store_true", help="begin each line with its time")
    logs.add_argument("--failed", action="store_true", help="only of tasks that failed")


def _import(imported: Parser) -> None:
    imported.add_argument("file", metavar="FILE")
    imported.add_argument("--from", dest="source", required=True, choices=["wfformat"], help="the tool's format")
    imported.add_argument("--scale", type=float, default=1.0, metavar="X", help="of each task's recorded run time")
    imported.add_argument("--commands", action="store_true", help="the recorded commands, instead of sleeping")
    imported.add_argument("-o", "--output", metavar="OUT", help="a file; its suffix says the notation")
    imported.set_defaults(call=lazy("dag.documents:import_"))


def _workers(worker: Parser) -> None:
    actions = worker.add_subparsers(dest="action", metavar="COMMAND", required=True)
    listed = actions.add_parser("list", help="workers that live")
    listed.add_argument("--all", action="store_true", help="also those that stopped or died")
    _json(listed)
    listed.set_defaults(call=lazy("dag.control:list_workers"))
    status = actions.add_parser("status", help="one worker in detail")
    completes(status.add_argument("worker_id", metavar="WORKER_ID"), "worker_ids")
    _json(status)
    status.set_defaults(call=lazy("dag.control:worker_status"))


def _file(command: Parser) -> None:
    completes(command.add_argument("file", metavar="FILE"), "documents")


def _dag(command: Parser) -> None:
    completes(command.add_argument("dag_id", metavar="DAG_ID"), "dag_ids")


def _stored(command: Parser) -> None:
    completes(command.add_argument("dag_id", metavar="DAG_ID"), "stored_ids")


def _diff(diff: Parser) -> None:
    _stored(diff)
    about = "what is compared; without one, what the latest run was of"
    completes(diff.add_argument("file", metavar="FILE", nargs="?", help=about), "documents")
    completes(diff.add_argument("--run", metavar="RUN_ID", help="not the latest run, but this one"), "run_ids")


def _nothing(_: Parser) -> None:
    pass


def _json(command: Parser) -> None:
    command.add_argument("--json", action="store_true", help="one JSON document")


def _wait(command: Parser) -> None:
    command.add_argument("--wait", action="store_true", help="return when the run is over")
    shown = command.add_mutually_exclusive_group()
    shown.add_argument("--follow", action="store_true", help="show what the tasks write, until the run is over")
    shown.add_argument("--quiet", action="store_true", help="wait, and say nothing unless it fails: for cron")


def _which(command: Parser) -> None:
    _dag(command)
    completes(command.add_argument("--run", metavar="RUN_ID", help="not the latest run, but this one"), "run_ids")


def _cancel(command: Parser) -> None:
    _which(command)
    completes(command.add_argument("--task", metavar="ID", help="this one alone: it counts as failed"), "task_ids")


# What each is about, what it calls (those without add it themselves, and --json if they take it), and what it takes.
_COMMANDS: dict[str, tuple[str, str, Callable[[Parser], None]]] = {
    "run": ("hand a DAG to the node, or, with no node running, run it here and now", "dag.run:run", _run),
    "rerun": ("run a DAG again, as it was", "dag.run:rerun", _rerun),
    "validate": ("say what is wrong with a document, or what would run", "dag.documents:validate", _validate),
    "list": ("runs, newest first", "dag.list:list_runs", _list),
    "status": ("a DAG, its latest runs, the tasks that run now", "dag.status:status", _status),
    "logs": ("what tasks wrote", "dag.logs:logs", _logs),
    "cancel": ("end a run and its tasks", "dag.control:cancel", _cancel),
    "pause": ("start nothing more of a run", "dag.control:pause", _which),
    "resume": ("let a paused run go on", "dag.control:resume", _which),
    "import": ("a workflow of another tool as a DAG document", "", _import),
    "schema": ("the JSON Schema of a DAG document", "dag.schema:schema", _nothing),
    "save": ("store a DAG, to be run by name", "dag.documents:save", _file),
    "definitions": ("stored DAGs", "dag.list:definitions", _nothing),
    "show": ("the document of a DAG, or that of a run", "dag.stored:show", _dag),
    "diff": ("how a file, or the latest run, differs from the stored DAG", "dag.stored:diff", _diff),
    "delete": ("store a DAG no longer; its runs stay", "dag.stored:delete", _stored),
    "worker": ("workers of this node", "", _workers),
}
