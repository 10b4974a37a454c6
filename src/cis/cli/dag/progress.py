"""How a run is shown to whoever stays until it is over.

Whoever stays sees one changing line on a terminal, and a line for each change elsewhere; with ``--follow``, what the
tasks write, as they write it. What fails to be shown ends nothing: a run that is executed in the same process is
watched in a thread of its own, which a terminal that is held up holds up alone.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cis.cli.context import Context, say, show
from cis.cli.dag.logs import LogWriter, alone
from cis.cli.dag.own_slot import OwnSlot
from cis.cli.dag.runner import RunnerWatch
from cis.cli.output import in_local_time
from cis.engine.logfiles import LogFiles
from cis.engine.lookup import look_up_run
from cis.engine.observe.logreader import POLL_S, LogChoice, LogReader
from cis.engine.observe.logs import last_lines_of_errors
from cis.errors import CisError
from cis.model.states import Outcome, TaskState, skip_words
from cis.store.port import Store
from cis.store.records import RunRecord, TaskRecord
from cis.worker.bell import WatchBell, ring_watchers

MAX_NAMES = 4
MAX_FAILED = 10
INTERRUPTED_S = 5.0


class Progress:
    """Shows one run until it is over; nothing when *quiet*, but what its tasks write if that is to be followed."""

    def __init__(self, context: Context, run: RunRecord, *, follow: bool, quiet: bool) -> None:
        self._context = context
        self._run = run
        self._follow = follow
        self._quiet = quiet
        self._on_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._bell = WatchBell(context.home.run, str(os.getpid()))
        self._given_up = False
        self._shown: dict[str, str] = {}
        self._next_s = 0.0
        self._own_slot = OwnSlot(run)
        self._runner: RunnerWatch | None = RunnerWatch(context, run)

    def watch(self) -> None:
        """Return when the run is over and all of it was shown."""
        with self._context.store() as store, self._bell:
            if self._follow:
                self._watch_logs(store)
            else:
                self._watch_states(store)

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Watch in a thread while the run is executed in this one; what it meets ends nothing."""
        self._runner = None  # it is this process
        thread = threading.Thread(target=self._watch_quietly, name="display", daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            self._given_up = True
            ring_watchers(self._context.home.run)
            thread.join(INTERRUPTED_S)
            raise
        ring_watchers(self._context.home.run)
        thread.join()

    def _watch_quietly(self) -> None:
        try:
            self.watch()
        except CisError as error:
            say(f"cis: the run cannot be shown any more: {error}")

    def _watch_logs(self, store: Store) -> None:
        writer = LogWriter(alone=alone(store, self._run), stamps=False, write=show, aside=self._quiet)
        reader = LogReader(LogFiles(self._context.home.logs), self._run.run_id, LogChoice(follow=True, around=True))
        while not reader.over:
            given_up = self._given_up
            for piece in reader.look(store):
                writer.write(piece)
            if reader.rests:
                if given_up:
                    return
                self._look_around(store)
                self._bell.wait(reader.pause_s)

    def _watch_states(self, store: Store) -> None:
        over = False
        while not over:
            over = self._given_up or look_up_run(store.runs, self._run.run_id).status.final
            if not over:
                self._look_around(store)
            wait_s = self._next_s - time.monotonic()
            if self._quiet or (wait_s > 0 and not over):
                wait_s = max(wait_s, POLL_S) if self._quiet else wait_s
            else:
                self._show(store)
                wait_s = POLL_S
            if not over:
                self._bell.wait(wait_s)
        if self._on_terminal and not self._quiet:
            show(sys.stderr, "\r\x1b[K")
            failed = [task for task in store.tasks.of_run(self._run.run_id) if task.is_failure]
            self._tell(store, failed[:MAX_FAILED])

    def _look_around(self, store: Store) -> None:
        self._own_slot.look(store)
        if self._runner is not None:
            self._runner.look()

    def _show(self, store: Store) -> None:
        started_s = time.monotonic()
        tasks = store.tasks.of_run(self._run.run_id)
        if self._on_terminal:
            self._draw(tasks)
        else:
            self._tell(store, tasks)
        # A run may have 100,000 tasks: looking at them takes at most a tenth of the time.
        self._next_s = time.monotonic() + 10 * (time.monotonic() - started_s)

    def _draw(self, tasks: Sequence[TaskRecord]) -> None:
        counts = Counter(str(task.status) for task in tasks)
        running = [task.task_id for task in tasks if task.status == "running"]
        names = ", ".join(running[:MAX_NAMES]) + (" …" if len(running) > MAX_NAMES else "")
        parts = [f"{sum(task.status.final for task in tasks)}/{len(tasks)}"]
        parts += [f"{counts[name]} {name}" for name in ("failed", "skipped", "cancelled") if counts[name]]
        line = "  ".join([*parts, f"running: {names}" if names else ""])
        show(sys.stderr, "\r\x1b[K" + line[: max(20, shutil.get_terminal_size().columns - 1)])

    def _tell(self, store: Store, tasks: Sequence[TaskRecord]) -> None:
        for task in tasks:
            status = str(task.status)
            if status != "pending" and self._shown.get(task.task_id) != status:
                self._shown[task.task_id] = status
                skipped = (
                    skip_words(task.skip_reason, task.blocked_by).removeprefix("skipped") if task.skip_reason else ""
                )
                why = in_local_time(task.error or "") or skipped.lstrip(", ")
                if task.outcome is Outcome.ALLOWED:
                    why = f"allowed to fail: {why}"
                last = None
                if task.status is TaskState.FAILED:
                    last = last_lines_of_errors(store, self._run.run_id, [task.task_id]).get(task.task_id)
                say(f"  {task.task_id}: {status}" + (f" ({why})" if why else "") + (f": {last}" if last else ""))
