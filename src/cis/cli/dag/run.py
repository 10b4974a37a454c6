"""``cis dag run`` and ``rerun``: hand in, and, if asked or if no node runs, stay until the end.

Whoever stays sees one changing line on a terminal, and a line for each change elsewhere; with ``--follow``, what the
tasks write, as they write it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from cis.app.submit import OWNER, SubmitRequest, anchored, rerun_of, run_warnings, stored_dag, submit
from cis.cli.context import Context, check_utf8, from_environment, say, silence_if_broken, this_user, wake
from cis.cli.output import print_json
from cis.engine.logfiles import LogFiles
from cis.engine.lookup import dag_or_run, look_up_run, run_of
from cis.engine.observe.logreader import LogReader, LogStream
from cis.engine.observe.views import ended_view, submission_view
from cis.errors import NotFoundError, UsageError
from cis.model.dag import DagSpec
from cis.model.ids import id_fault
from cis.model.states import RunState, TaskState
from cis.node.home import node_is_running
from cis.store.port import Store
from cis.store.records import Delivery, RunRecord, TaskRecord

MAX_NAMES = 4
MAX_FAILED = 10

DELIVERY_TIMEOUT_S = 1.0
MAX_INPUT_BYTES = (16 << 20) + 1


def run(options: argparse.Namespace) -> int:
    """Hand a DAG in, out of a file or stored under its id; status 1 if it was waited for and did not complete."""
    context = from_environment()
    name = options.file
    document = None if _may_be_stored(name) else read_dag(name)

    def request(store: Store) -> SubmitRequest:
        if document is None:
            return _stored(store, options)
        spec = _overridden(document, options)
        offered = spec.target_node is None and context.this_node.offers
        if spec.target_node in (None, context.settings.node_id) and not offered:
            spec = anchored(spec, base=base_directory(name))
        return SubmitRequest(spec=spec, idempotency_key=options.idempotency_key)

    return _see_through(context, _submit(context, request), options)


def _may_be_stored(name: str) -> bool:
    """Whether a name can be that of a stored DAG: a file of that name goes before it."""
    return name != "-" and id_fault(name) is None and (Path(name).is_dir() or not os.path.lexists(name))


def _stored(store: Store, options: argparse.Namespace) -> SubmitRequest:
    from cis.model.formats import SUFFIXES  # noqa: PLC0415 - as below

    name = options.file
    try:
        definition, _ = dag_or_run(store, name)
    except NotFoundError as error:
        if Path(name).suffix.lower() in SUFFIXES:
            read_dag(name)  # it says why that does not work
        raise NotFoundError("file or stored DAG", name, hint="'cis dag definitions' shows what is stored") from error
    wanted = stored_dag(store.definitions, definition.dag_id, key=options.idempotency_key, asker=OWNER)
    return replace(wanted, spec=_overridden(wanted.spec, options))


def rerun(options: argparse.Namespace) -> int:
    """Start a new run of what ran before."""
    context = from_environment()

    def request(store: Store) -> SubmitRequest:
        old = run_of(store, options.dag_id, run_id=options.run)
        return rerun_of(store, old.run_id, from_failed=options.from_failed)

    return _see_through(context, _submit(context, request), options)


def _submit(context: Context, request_of: Callable[[Store], SubmitRequest]) -> RunRecord:
    with context.writable_store() as store:
        return submit(store, request_of(store), this_node=context.this_node, by=this_user()).run


def base_directory(name: str) -> Path:
    """Return where the tasks of a document run that name no ``cwd``: its folder, or the current one for ``-``.

    Raises:
        UsageError: its name is not UTF-8, so it cannot be stored.
    """
    return check_utf8(Path.cwd() if name == "-" else Path(name).resolve().parent)


def read_dag(name: str) -> DagSpec:
    """Return the DAG in a file, or on standard input for ``-``.

    Raises:
        UsageError: the file cannot be read.
        DocumentError: it is no DAG.
    """
    from cis.model.document import parse_dag  # noqa: PLC0415 - pydantic, only for documents
    from cis.model.formats import SUFFIXES  # noqa: PLC0415

    data = read_input(name)
    if name == "-":
        return parse_dag(data, source="standard input")
    return parse_dag(data, format=SUFFIXES.get(Path(name).suffix.lower()), source=name)


def read_input(name: str) -> bytes:
    """Return the bytes of a file, or of standard input, up to one more than a document may have."""
    try:
        if name == "-":
            return sys.stdin.buffer.read(MAX_INPUT_BYTES)
        with Path(name).open("rb") as file:
            return file.read(MAX_INPUT_BYTES)
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}") from error


def _see_through(context: Context, submitted: RunRecord, options: argparse.Namespace) -> int:
    """Have a submitted run executed, by the node or here, and answer as the options ask."""
    away = submitted.delivery is not Delivery.LOCAL
    here = not away and not node_is_running(context.home)
    stay = here or options.wait or options.follow or options.quiet
    if not here:
        wake(context.home.run, ())
    if away and not node_is_running(context.home) and not options.quiet:
        say("no node is running here: it is stored, and goes out when one does ('cis node start')")
    elif submitted.delivery is Delivery.QUEUED:
        _await_delivery(context, submitted.run_id)
    warnings = _warnings(context, submitted) if away else []
    if not (options.json or options.quiet):
        for warning in warnings:
            say(f"warning: {warning}")
        say(f"run {submitted.run_id} of {submitted.dag_id}, scope {submitted.scope} ({submitted.scope_source})")
    if stay:
        _stay(context, submitted, options, here=here)
    completed = _answer(context, submitted.run_id, options, stayed=stay, warnings=warnings)
    return 1 if stay and not completed else 0


def _answer(
    context: Context, run_id: str, options: argparse.Namespace, *, stayed: bool, warnings: Sequence[str]
) -> bool:
    """Print what became of a run so far, and return whether it has completed."""
    with context.store() as store:
        final = look_up_run(store.runs, run_id)
        completed = final.status is RunState.COMPLETED
        if options.quiet and completed:
            return True
        if options.json:
            view = ended_view(store, final) if stayed else submission_view(final)
            print_json({**view, "warnings": list(warnings)})
        if options.quiet:
            from cis.cli.dag.failures import tell_failure  # noqa: PLC0415 - only here

            tell_failure(store, final)
    if options.json or options.quiet:
        return completed
    if stayed:
        say(f"{final.dag_id} {final.status}" + (f": {final.error}" if final.error else ""))
        if final.status is RunState.FAILED:
            say(f"look: cis dag logs {final.dag_id} --run {final.run_id}")
    else:
        print(run_id)
    return completed


def _warnings(context: Context, submitted: RunRecord) -> Sequence[str]:
    with context.store() as store:
        return run_warnings(store, look_up_run(store.runs, submitted.run_id))


def _await_delivery(context: Context, run_id: str) -> None:
    """Wait a moment for the peer to have the run, so that the answer can say so."""
    deadline_s = time.monotonic() + DELIVERY_TIMEOUT_S
    with context.store() as store:
        while time.monotonic() < deadline_s:
            run = look_up_run(store.runs, run_id)
            peer = store.peers.get(run.owner_node)
            if run.delivery is not Delivery.QUEUED or peer is None or peer.fault is not None:
                return  # it is there, or its node was not to be reached just now
            time.sleep(0.02)


def _stay(context: Context, submitted: RunRecord, options: argparse.Namespace, *, here: bool) -> None:
    quiet = options.json or options.quiet
    with Progress(context, submitted.run_id, follow=options.follow, quiet=quiet, unread=here) as progress:
        if here:
            from cis.node.workers import run_embedded  # noqa: PLC0415 - only without a node

            if not options.quiet:
                say("no node is running: running it here")
            with _interrupted_by(signal.SIGTERM, signal.SIGHUP):
                run_embedded(context.home, context.settings, run_id=submitted.run_id, on_change=progress.look)
            progress.look()
            return
        pause_s = 0.02
        try:
            while not progress.over:
                time.sleep(pause_s)
                pause_s = min(0.2, pause_s * 1.5)
                progress.look()
        except KeyboardInterrupt:
            say(f"the run goes on; to end it: cis dag cancel {submitted.dag_id} --run {submitted.run_id}")
            raise


@contextmanager
def _interrupted_by(*numbers: signal.Signals) -> Iterator[None]:
    """Let signals do what Ctrl-C does: nobody else would run to its end what is left of a run that is run here.

    What is ignored (HUP, under ``nohup``) stays so.
    """

    def interrupt(number: int, _: object) -> None:
        raise KeyboardInterrupt(number)

    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    found = {number: signal.signal(number, interrupt) for number in heard}
    try:
        yield
    finally:
        for number, handler in found.items():
            signal.signal(number, handler)


def _overridden(spec: DagSpec, options: argparse.Namespace) -> DagSpec:
    from cis.model.document import with_head  # noqa: PLC0415 - pydantic, only for documents

    flags = {"scope": options.scope, "target_node": options.target_node, "priority": options.priority}
    given = {name: value for name, value in flags.items() if value is not None}
    " ".join(given.values()).encode()  # what is not UTF-8 is told here as what it is (cis.cli.main)
    return with_head(spec, given, source="command line") if given else spec


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
                failed = [task for task in self._store.tasks.of_run(self._run_id) if task.status is TaskState.FAILED]
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
        self.over = look_up_run(self._store.runs, self._run_id).status.final
        if self._reader is not None:
            if not self._reader.over:
                self._write_logs(self._reader)
        elif not self._quiet and (self.over or time.monotonic() >= self._next_s):
            self._show()

    def _show(self) -> None:
        started_s = time.monotonic()
        tasks = self._store.tasks.of_run(self._run_id)
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
