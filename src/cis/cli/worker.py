"""``cis worker run``: one worker, in the foreground."""

from __future__ import annotations

import argparse

from cis.cli.context import from_environment
from cis.errors import UsageError
from cis.model.scope import parse_scope


def add(group: argparse.ArgumentParser, _name: str) -> None:
    """Add the commands of this group."""
    commands = group.add_subparsers(dest="command", metavar="COMMAND", required=True)
    run = commands.add_parser("run", help="be the worker of a scope until told to stop")
    run.add_argument("--id", required=True, metavar="WORKER_ID", help="as worker-project-proj-a")
    run.add_argument("--scope", required=True, metavar="SCOPE", help="as project:proj-a")
    run.add_argument("--report-fd", type=int, help=argparse.SUPPRESS)  # a supervisor's pipe
    run.add_argument("--parent-pid", type=int, help=argparse.SUPPRESS)  # whose end is this worker's
    run.add_argument("--idle-timeout", type=float, help=argparse.SUPPRESS)
    run.add_argument("--from-position", type=int, default=0, help=argparse.SUPPRESS)  # in the queue
    run.set_defaults(call=_run)


def _run(options: argparse.Namespace) -> int:
    from cis.cli.logs import log_to_stderr  # noqa: PLC0415 - not every command writes a log
    from cis.node.worker_main import run_worker  # noqa: PLC0415

    try:
        scope = parse_scope(options.scope)
    except ValueError as error:
        raise UsageError(f"--scope: {error}") from error
    context = from_environment()
    log_to_stderr()
    return run_worker(
        context.home,
        context.settings,
        worker_id=options.id,
        scope=scope,
        report_fd=options.report_fd,
        parent_pid=options.parent_pid,
        idle_timeout_s=options.idle_timeout,
        from_position=options.from_position,
    )
