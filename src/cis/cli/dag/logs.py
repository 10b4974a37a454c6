"""``cis dag logs``: read from the files that tasks write, whether or not a node runs."""

from __future__ import annotations

import argparse
import sys
import time

from cis.cli.context import from_environment, say
from cis.cli.output import print_json_list
from cis.engine.logfiles import LogFiles
from cis.engine.lookup import run_of
from cis.engine.observe.logreader import LogPiece, LogStream
from cis.engine.observe.logs import attempt_logs, follow, log_pieces


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
            print_json_list(attempt_logs(store, files, run.run_id, task=task, attempt=attempt))
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
