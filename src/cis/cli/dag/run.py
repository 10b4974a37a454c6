"""``cis dag run`` and ``rerun``: hand in, and, if asked or if no node runs, stay until the end.

What cannot be shown changes neither the run nor the exit status.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cis.app.submit import (
    OWNER,
    Repeat,
    SubmitRequest,
    anchored,
    only,
    peer_warnings,
    rerun_of,
    run_warnings,
    stored_dag,
    submit,
    travel_warnings,
)
from cis.cli.context import Context, check_utf8, from_environment, say, show, this_user, wake
from cis.cli.dag.given import given_params
from cis.cli.dag.progress import Progress
from cis.cli.output import json_text
from cis.engine.lookup import dag_or_run, look_up_run, run_of
from cis.engine.observe.views import ended_view, submission_view
from cis.errors import DocumentError, NotFoundError, UsageError
from cis.model.dag import DagSpec
from cis.model.ids import id_fault
from cis.model.states import RunState
from cis.node.home import node_is_running
from cis.store.port import Store
from cis.store.records import Delivery, RunRecord
from cis.worker.bell import WatchBell

if TYPE_CHECKING:
    from cis.model.formats import Format

DELIVERY_TIMEOUT_S = 1.0
MAX_NAMED = 20
MAX_INPUT_BYTES = (16 << 20) + 1
_DESCRIPTORS = ("/dev/fd/", "/dev/stdin", "/proc/")  # a document from there has no folder of its own


def run(options: argparse.Namespace) -> int:
    """Hand a DAG in, out of a file or stored under its id; status 1 if it was waited for and did not complete."""
    context = from_environment()
    name = options.file
    file = None if _may_be_stored(name) else DocumentFile(name)
    document = None if file is None else file.dag()
    given = given_params(options)
    said: list[str] = []

    def request(store: Store) -> SubmitRequest:
        if document is None:
            wanted = replace(_stored(store, options), params=given)
            return wanted if options.only is None else replace(wanted, spec=only(wanted.spec, options.only))
        spec = _overridden(document, options)
        spec = spec if options.only is None else only(spec, options.only)
        offered = spec.target_node is None and context.this_node.offers
        if spec.target_node in (None, context.settings.node_id) and not offered:
            spec = anchored(spec, base=base_directory(name))
        else:
            said.extend(travel_warnings(spec, base_directory(name)))
        return SubmitRequest(spec=spec, idempotency_key=options.idempotency_key, params=given)

    with nullcontext() if file is None else file.with_lines():
        return _hand_in(context, request, options, said)


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
    context, given = from_environment(), given_params(options)
    mended = None if options.mended is None else anchored(read_dag(options.mended), base=base_directory(options.mended))
    how = Repeat(from_failed=options.from_failed, task=options.task, mended=mended)
    told: dict[str, Any] = {}

    def request(store: Store) -> SubmitRequest:
        old = run_of(store, options.dag_id, run_id=options.run)
        found = rerun_of(store, old.run_id, how=how, params=given)
        if not how.all:
            told.update(kept=list(found.kept), again=dict(found.again))
        return found.request

    return _hand_in(context, request, options, told=told)


def _hand_in(
    context: Context,
    request_of: Callable[[Store], SubmitRequest],
    options: argparse.Namespace,
    said: Sequence[str] = (),
    told: Mapping[str, Any] = MappingProxyType({}),
) -> int:
    """Hand a DAG in and see to it; *said* are warnings, *told* what a rerun keeps, both found out on the way."""
    if node_is_running(context.home):
        return _see_through(context, _submit(context, request_of), options, said, told)
    from cis.node.embedded import standing_by  # noqa: PLC0415 - only without a node

    with standing_by(context.home):
        return _see_through(context, _submit(context, request_of), options, said, told)


def _submit(context: Context, request_of: Callable[[Store], SubmitRequest]) -> RunRecord:
    with context.writable_store() as store:
        return submit(store, request_of(store), this_node=context.this_node, by=this_user()).run


def base_directory(name: str) -> Path:
    """Return where the tasks of a document run that name no ``cwd``: its folder.

    That is the current one for ``-``, and for a descriptor, as ``<(…)`` is.

    Raises:
        UsageError: its name is not UTF-8, so it cannot be stored.
    """
    return check_utf8(Path.cwd() if _is_descriptor(name) else Path(name).resolve().parent)


def _is_descriptor(name: str) -> bool:
    return name == "-" or os.path.abspath(name).startswith(_DESCRIPTORS)  # noqa: PTH100 - links are not to be followed


class DocumentFile:
    """A document in a file, on standard input for ``-``, or from a descriptor: it is read once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._data = read_input(name)

    def dag(self) -> DagSpec:
        """Return the DAG. Raises DocumentError when it is no DAG."""
        from cis.model.document import parse_dag  # noqa: PLC0415 - pydantic, only for documents

        return parse_dag(self._data, format=self._format(), source=self._source)

    @contextmanager
    def with_lines(self) -> Iterator[None]:
        """Tell faults that are found later than the document was read with its name and their lines."""
        try:
            yield
        except DocumentError as error:
            if error.source is not None or type(error) is not DocumentError:
                raise
            from cis.model.formats import located  # noqa: PLC0415 - only for faults

            raise located(error, self._data, format=self._format(), source=self._source) from error

    @property
    def _source(self) -> str:
        return "standard input" if self.name == "-" else self.name

    def _format(self) -> Format | None:
        from cis.model.formats import SUFFIXES  # noqa: PLC0415 - only for documents

        return None if self.name == "-" else SUFFIXES.get(Path(self.name).suffix.lower())


def read_dag(name: str) -> DagSpec:
    """Return the DAG in a file, or on standard input for ``-``.

    Raises:
        UsageError: the file cannot be read.
        DocumentError: it is no DAG.
    """
    return DocumentFile(name).dag()


def read_input(name: str) -> bytes:
    """Return the bytes of a file, or of standard input, up to one more than a document may have."""
    try:
        if name == "-":
            return sys.stdin.buffer.read(MAX_INPUT_BYTES)
        with Path(name).open("rb") as file:
            return file.read(MAX_INPUT_BYTES)
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}") from error


def _see_through(
    context: Context,
    submitted: RunRecord,
    options: argparse.Namespace,
    said: Sequence[str],
    told: Mapping[str, Any],
) -> int:
    """Have a submitted run executed, by the node or here, and answer as the options ask."""
    away = submitted.delivery is not Delivery.LOCAL
    here = not away and not node_is_running(context.home)
    stay = here or options.wait or options.follow or options.quiet
    if not here:
        wake(context.home.run, ())
    if away and not node_is_running(context.home) and not options.quiet:
        say("no node is running here: the run is stored, and is sent when one starts ('cis node start')")
    elif submitted.delivery is Delivery.QUEUED:
        _await_delivery(context, submitted.run_id)
    asks = away or submitted.target_node is not None
    warnings: Sequence[str] = [*said, *(_warnings(context, submitted) if asks else ())]
    if not (options.json or options.quiet):
        for warning in warnings:
            say(f"warning: {warning}")
        if told:
            _tell_kept(told["kept"], told["again"])
        say(f"run {submitted.run_id} of {submitted.dag_id}, scope {submitted.scope} ({submitted.scope_source})")
    if stay:
        _stay(context, submitted, options, here=here)
        warnings = _told_since(context, submitted, options, warnings) if away else warnings
    completed = _answer(context, submitted.run_id, options, stayed=stay, told={**told, "warnings": warnings})
    return 1 if stay and not completed else 0


def _answer(
    context: Context, run_id: str, options: argparse.Namespace, *, stayed: bool, told: Mapping[str, Any]
) -> bool:
    """Print what became of a run so far, and return whether it has completed."""
    with context.store() as store:
        final = look_up_run(store.runs, run_id)
        completed = final.status is RunState.COMPLETED
        if options.quiet and completed:
            return True
        if options.json:
            view = ended_view(store, final) if stayed else submission_view(final)
            show(sys.stdout, json_text({**view, **told}) + "\n")
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
        show(sys.stdout, f"{run_id}\n")
    return completed


def _tell_kept(kept: Sequence[str], again: Mapping[str, str]) -> None:
    """Say what a rerun takes over, and why the rest runs again."""
    more = f" and {len(kept) - MAX_NAMED:,} more" if len(kept) > MAX_NAMED else ""
    say(f"keeps {', '.join(kept[:MAX_NAMED])}{more}" if kept else "keeps nothing")
    for task_id, why in islice(again.items(), MAX_NAMED):
        say(f"  {task_id} runs again: {why}")
    if len(again) > MAX_NAMED:
        say(f"  and {len(again) - MAX_NAMED:,} more")


def _told_since(
    context: Context, submitted: RunRecord, options: argparse.Namespace, told: Sequence[str]
) -> Sequence[str]:
    """Return *told* and the warnings that its peer's answer gave later, which are said now."""
    with context.store() as store:
        found = peer_warnings(store, look_up_run(store.runs, submitted.run_id))
    later = [warning for warning in found if warning not in told]
    if not (options.json or options.quiet):
        for warning in later:
            say(f"warning: {warning}")
    return [*told, *later]


def _warnings(context: Context, submitted: RunRecord) -> Sequence[str]:
    with context.store() as store:
        return run_warnings(store, look_up_run(store.runs, submitted.run_id))


def _await_delivery(context: Context, run_id: str) -> None:
    """Wait a moment for the peer to have the run, so that the answer can say so."""
    deadline_s = time.monotonic() + DELIVERY_TIMEOUT_S
    with context.store() as store, WatchBell(context.home.run, str(os.getpid())) as bell:
        while (left_s := deadline_s - time.monotonic()) > 0:
            run = look_up_run(store.runs, run_id)
            peer = store.peers.get(run.owner_node)
            if run.delivery is not Delivery.QUEUED or peer is None or peer.fault is not None:
                return  # it is there, or its node was not to be reached just now
            bell.wait(min(left_s, 0.1))  # what fails changes no run, and is told by no event


def _stay(context: Context, submitted: RunRecord, options: argparse.Namespace, *, here: bool) -> None:
    progress = Progress(context, submitted, follow=options.follow, quiet=options.json or options.quiet)
    if here:
        from cis.cli.logs import log_beside_run  # noqa: PLC0415 - only without a node
        from cis.node.embedded import run_embedded  # noqa: PLC0415 - as above

        log_beside_run(quiet=options.quiet)
        if not options.quiet:
            say("no node is running: running it here")
        with progress.beside(), _interrupted_by(signal.SIGTERM, signal.SIGHUP):
            run_embedded(context.home, context.settings, run_id=submitted.run_id, say=None if options.quiet else say)
        return
    try:
        progress.watch()
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
