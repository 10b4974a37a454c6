"""What a run does while somebody waits: one changing line on a terminal, a line for each change elsewhere.

With ``follow`` it is what the tasks write instead, as they write it.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType

from cis.cli.context import Context, say, silence_if_broken
from cis.engine.existing import existing_run
from cis.engine.logfiles import LogFiles
from cis.engine.logreader import LogReader, LogStream
from cis.model.states import TaskState
from cis.store.port import Store
from cis.store.records import TaskRecord

MAX_NAMES = 4
MAX_FAILED = 10


class Progress:
    """Shows a run whenever ``look`` is called; silent when *quiet*, and then only knows whether it is over.

    Where nobody reads any more it raises BrokenPipeError, or, with *unread*, it goes on in silence.
    """

    def __init__(self, context: Context, run_id: str, *, follow: bool, quiet: bool, unread: bool = False) -> None:
        self.over = False
        self._run_id = run_id
        self._opening: AbstractContextManager[Store] = context.store()
        self._quiet = quiet
        self._unread = unread
        self._on_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        files = LogFiles(context.home.logs)
        self._reader = LogReader(files, run_id, task=None, attempt=None, follow=True) if follow else None
        self._shown: dict[str, str] = {}
        self._next_s = 0.0

    def __enter__(self) -> Progress:
        self._store = self._opening.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while kind is None and self._reader is not None and not self._reader.over:
                self.look()
            if self._on_terminal and not self._quiet and self._reader is None:
                sys.stderr.write("\r\x1b[K")
                failed = [task for task in self._store.tasks(self._run_id) if task.status is TaskState.FAILED]
                self._tell(failed[:MAX_FAILED])
        finally:
            self._opening.__exit__(kind, error, trace)

    def look(self) -> None:
        """Show what has changed since the last time."""
        try:
            self._look()
        except BrokenPipeError:
            if not self._unread:
                raise
            self._reader, self._quiet = None, True
            for stream in (sys.stdout, sys.stderr):
                silence_if_broken(stream)

    def _look(self) -> None:
        self.over = existing_run(self._store, self._run_id).status.final
        if self._reader is not None:
            if not self._reader.over:
                self._write_logs(self._reader)
        elif not self._quiet and (self.over or time.monotonic() >= self._next_s):
            self._show()

    def _show(self) -> None:
        started_s = time.monotonic()
        tasks = self._store.tasks(self._run_id)
        if self._on_terminal:
            self._draw(tasks)
        else:
            self._tell(tasks)
        # A run may have 100,000 tasks: looking at them takes at most a tenth of the time.
        self._next_s = time.monotonic() + 10 * (time.monotonic() - started_s)

    def _write_logs(self, reader: LogReader) -> None:
        for piece in reader.look(self._store):
            aside = self._quiet or piece.stream is not LogStream.OUTPUT
            stream = sys.stderr if aside else sys.stdout
            stream.write(piece.text)
            stream.flush()

    def _draw(self, tasks: Sequence[TaskRecord]) -> None:
        counts = Counter(str(task.status) for task in tasks)
        running = [task.task_id for task in tasks if task.status == "running"]
        names = ", ".join(running[:MAX_NAMES]) + (" …" if len(running) > MAX_NAMES else "")
        parts = [f"{sum(task.status.final for task in tasks)}/{len(tasks)}"]
        parts += [f"{counts[name]} {name}" for name in ("failed", "skipped", "cancelled") if counts[name]]
        line = "  ".join([*parts, f"running: {names}" if names else ""])
        sys.stderr.write("\r\x1b[K" + line[: max(20, shutil.get_terminal_size().columns - 1)])
        sys.stderr.flush()

    def _tell(self, tasks: Sequence[TaskRecord]) -> None:
        for task in tasks:
            status = str(task.status)
            if status != "pending" and self._shown.get(task.task_id) != status:
                self._shown[task.task_id] = status
                why = task.error or (f"because of {task.blocked_by}" if task.blocked_by else "")
                say(f"  {task.task_id}: {status}" + (f" ({why})" if why else ""))
