"""``cis dag cancel``, ``pause`` and ``resume``."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from cis.cli.acting import append_audit
from cis.cli.context import Context, from_environment
from cis.cli.output import print_json
from cis.engine import control
from cis.engine.existing import run_of
from cis.engine.views import read_run
from cis.executors.platform import still_runs
from cis.node.clock import now_us
from cis.node.presence import node_is_running
from cis.store.records import RunRecord
from cis.worker.bell import ring
from cis.worker.lock import holder, worker_lock_path


def cancel(options: argparse.Namespace) -> None:
    """End a run and its tasks."""
    context = from_environment()
    run = _control(context, control.cancel, options, action="run.cancel")
    if not run.status.final and not _is_minded(context, run):
        # A worker that is gone held it: what is left to do is done here.
        from cis.node.embedded import run_embedded  # noqa: PLC0415 - a rare case

        run_embedded(context.home, context.settings, run_id=run.run_id)
    _answer(context, run.run_id, options)


def pause(options: argparse.Namespace) -> None:
    """Start nothing more of a run."""
    context = from_environment()
    _answer(context, _control(context, control.pause, options, action="run.pause").run_id, options)


def resume(options: argparse.Namespace) -> None:
    """Let a paused run go on."""
    context = from_environment()
    _answer(context, _control(context, control.resume, options, action="run.resume").run_id, options)


def _control(
    context: Context, change: Callable[..., RunRecord], options: argparse.Namespace, *, action: str
) -> RunRecord:
    with context.acting_store() as store:
        run = run_of(store, options.dag_id, run_id=options.run)
        with store.transaction():
            changed = change(store, run.run_id, now_us=now_us())
            append_audit(store, action, run.run_id)
        children = store.child_runs(run.run_id)
    for name in {"node", run.worker_id, *(child.worker_id for child in children)}:
        ring(context.home.run, name)
    return changed


def _is_minded(context: Context, run: RunRecord) -> bool:
    with context.store() as store:
        if control.elsewhere(store, run.run_id) is not None:
            return True  # another node executes it; it is asked when a node runs here
    return node_is_running(context.home) or holder(worker_lock_path(context.home.run, run.worker_id)) is not None


def _answer(context: Context, run_id: str, options: argparse.Namespace) -> None:
    with context.store() as store:
        view = read_run(store, run_id, still=still_runs)
    if options.json:
        print_json(view)
    else:
        asked = ", its tasks are being ended" if view["cancel_requested"] and view["status"] != "cancelled" else ""
        print(f"{view['dag_id']} {run_id}: {view['status']}{asked}")
