"""``cis dag list``, ``status`` and ``logs``: read from the database, whether or not a node runs."""

from __future__ import annotations

import argparse
import sys
import time

from cis.cli.context import from_environment, say
from cis.cli.output import in_colour, local_time, print_json, print_table, scope_text
from cis.cli.status_page import print_status
from cis.engine.logfiles import LogFiles
from cis.engine.logreader import LogPiece, LogStream
from cis.engine.logs import attempt_logs, follow, log_pieces
from cis.engine.views import read_status, run_list_item, run_of
from cis.errors import UsageError
from cis.model.scope import Scope, parse_scope
from cis.model.states import RunState
from cis.model.suggest import did_you_mean
from cis.store.records import RunFilter

MAX_LIMIT = 100_000
WATCH_S = 0.5


def list_runs(options: argparse.Namespace) -> None:
    """Print runs, newest first."""
    if not 1 <= options.limit <= MAX_LIMIT:
        raise UsageError(f"--limit must be from 1 to {MAX_LIMIT}, not {options.limit}")
    where = RunFilter(status=_status(options.status), scope=_scope(options.scope), node=options.node)
    with from_environment().store() as store:
        items = [run_list_item(run) for run in store.runs(where, limit=options.limit).items]
    if options.json:
        print_json(items)
        return
    header = ("dag_id", "scope", "status", "owner_node", "created", "run_id")
    rows = []
    for one in items:
        scope, created = scope_text(one["scope"]), local_time(one["created_at"])
        rows.append((one["dag_id"], scope, one["status"], one["owner_node"], created, one["run_id"]))
    print_table(header, rows)


def status(options: argparse.Namespace) -> None:
    """Print a DAG, its latest runs, and the tasks of the newest."""
    with from_environment().store() as store:
        while True:
            found = read_status(store, options.dag_id, run_id=options.run)
            over = not found["runs"] or RunState(found["runs"][0]["status"]).final
            last = over or not options.watch
            if options.json and last:
                print_json(found)
            elif not options.json and (last or in_colour()):
                if options.watch and in_colour():
                    sys.stdout.write("\x1b[H\x1b[2J")
                print_status(found)
                sys.stdout.flush()
            if last:
                return
            time.sleep(WATCH_S)


def logs(options: argparse.Namespace) -> None:
    """Print what the tasks of a run wrote: their output here, their errors on standard error."""
    context = from_environment()
    files = LogFiles(context.home.logs)
    with context.store() as store:
        run = run_of(store, options.dag_id, run_id=options.run)
        writer = _LogWriter(many=run.task_count > 1)
        task, attempt = options.task, options.attempt
        if options.follow:
            for piece in follow(store, files, run.run_id, task=task, attempt=attempt):
                if piece is None:
                    time.sleep(0.1)
                elif not options.json:
                    writer.write(piece)
        if options.json:
            print_json(list(attempt_logs(store, files, run.run_id, task=task, attempt=attempt)))
        elif not options.follow:
            for piece in log_pieces(store, files, run.run_id, task=task, attempt=attempt):
                writer.write(piece)


class _LogWriter:
    """Writes pieces of logs, and says on standard error whose they are where there are several tasks."""

    def __init__(self, *, many: bool) -> None:
        self._many = many
        self._last: tuple[str, int] | None = None

    def write(self, piece: LogPiece) -> None:
        """Write one piece to the stream that it came from."""
        whose = (piece.task_id, piece.attempt)
        if self._many and whose != self._last:
            self._last = whose
            sys.stdout.flush()
            say(f"--- {piece.task_id}, attempt {piece.attempt}")
        stream = sys.stdout if piece.stream is LogStream.OUTPUT else sys.stderr
        stream.write(piece.text)
        stream.flush()


def _status(text: str | None) -> RunState | None:
    if text is None:
        return None
    known = [str(one) for one in RunState]
    if text not in known:
        raise UsageError(f"--status {text!r} is none of {', '.join(known)}{did_you_mean(text, known)}")
    return RunState(text)


def _scope(text: str | None) -> Scope | None:
    try:
        return None if text is None else parse_scope(text)
    except ValueError as error:
        raise UsageError(f"--scope: {error}") from error
