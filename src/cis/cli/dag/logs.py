"""``cis dag logs``: read from the files that tasks write, whether or not a node runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from cis.cli.context import from_environment
from cis.cli.dag.runner import RunnerWatch
from cis.cli.output import print_json_list
from cis.engine.logfiles import LogFiles
from cis.engine.lookup import run_of
from cis.engine.observe.logreader import LogChoice
from cis.engine.observe.logs import attempt_logs, open_logs
from cis.engine.observe.logtext import LogPiece, LogStream, LogText

if TYPE_CHECKING:
    from pathlib import Path

    from cis.store.port import Store
    from cis.store.records import RunRecord


def logs(options: argparse.Namespace) -> None:
    """Print what the tasks of a run wrote: their output here, their errors on standard error."""
    context = from_environment()
    files = LogFiles(context.home.logs)
    task, attempt, failed = options.task, options.attempt, options.failed
    around = (options.follow or failed) and attempt is None
    choice = LogChoice(task=task, attempt=attempt, failed=failed, follow=options.follow, around=around)
    with context.store() as store:
        run = run_of(store, options.dag_id, run_id=options.run)
        if options.follow or not options.json:
            writer = LogWriter(alone=task or alone(store, run), stamps=options.timestamps, write=write)
            reader = open_logs(store, files, run.run_id, choice)
            runner = RunnerWatch(context, run)
            with _waiting(context.home.run, follow=options.follow) as wait:
                while not reader.over:
                    for piece in reader.look(store):
                        if not options.json:
                            writer.write(piece)
                    if reader.rests:
                        runner.look()
                        wait(reader.pause_s)
        if options.json:
            print_json_list(attempt_logs(store, files, run.run_id, task=task, attempt=attempt, failed=failed))


@contextmanager
def _waiting(run_dir: Path, *, follow: bool) -> Iterator[Callable[[float], None]]:
    """Give what waits for an event; without *follow* nothing is waited for."""
    if not follow:
        yield lambda _: None
        return
    from cis.worker.bell import WatchBell  # noqa: PLC0415 - only who follows needs one

    with WatchBell(run_dir, str(os.getpid())) as bell:
        yield bell.wait


def alone(store: Store, run: RunRecord) -> str | None:
    """Return the only task of a run, if it has no other."""
    tasks = store.tasks.of_run(run.run_id, outputs=False) if run.task_count == 1 else ()
    return tasks[0].task_id if tasks else None


def write(stream: TextIO, text: str) -> None:
    """Write to a standard stream at once."""
    stream.write(text)
    stream.flush()


class LogWriter:
    """Writes pieces of logs to standard output, and what is no output to standard error.

    Where the two are not one file, each has its own headings. With *aside* all goes to standard error.
    """

    def __init__(
        self, *, alone: str | None, stamps: bool, write: Callable[[TextIO, str], None], aside: bool = False
    ) -> None:
        self._write = write
        self._error = LogText(alone=alone, stamps=stamps)
        self._output = self._error if aside or _are_one() else LogText(alone=alone, stamps=stamps)
        self._aside = aside

    def write(self, piece: LogPiece) -> None:
        """Write one piece to the stream that it came from."""
        if piece.stream is LogStream.OUTPUT and not self._aside:
            self._write(sys.stdout, self._output.text(piece))
        else:
            self._write(sys.stderr, self._error.text(piece))


def _are_one() -> bool:
    """Whether standard output and standard error are the same file or terminal."""
    try:
        return os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno())
    except OSError:  # somebody else's streams, in a test
        return False
