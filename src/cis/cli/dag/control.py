"""``cis dag cancel``, ``pause`` and ``resume``, and ``cis dag worker list`` and ``status``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from cis.app.control import Action, Controlled, control
from cis.cli.context import Context, from_environment, this_user, wake
from cis.cli.dag.runner import heard
from cis.cli.output import local_time, print_json, scope_text
from cis.cli.table import Forms, print_table, time_cell
from cis.engine.lookup import look_up_worker, run_of, short_id
from cis.engine.observe.views import read_run, worker_view
from cis.executors.platform import still_runs
from cis.model.states import RunState
from cis.node.clock import now_us
from cis.node.home import node_is_running
from cis.store.records import WorkerRecord, WorkerState
from cis.worker.lock import holder, worker_lock_path


def cancel(options: argparse.Namespace) -> None:
    """End a run and its tasks, or one of them."""
    context = from_environment()
    changed = _control(context, Action.CANCEL, options)
    run = changed.run
    if options.task is None and not run.status.final and not _is_minded(context, changed):
        # A worker that is gone held it: what is left to do is done here.
        from cis.cli.logs import log_beside_run  # noqa: PLC0415 - a rare case
        from cis.node.embedded import run_embedded  # noqa: PLC0415 - as above

        log_beside_run(quiet=False)
        run_embedded(context.home, context.settings, run_id=run.run_id)
    _answer(context, run.run_id, options)


def pause(options: argparse.Namespace) -> None:
    """Start nothing more of a run."""
    context = from_environment()
    _answer(context, _control(context, Action.PAUSE, options).run.run_id, options)


def resume(options: argparse.Namespace) -> None:
    """Let a paused run go on."""
    context = from_environment()
    _answer(context, _control(context, Action.RESUME, options).run.run_id, options)


def _control(context: Context, action: Action, options: argparse.Namespace) -> Controlled:
    with context.writable_store() as store:
        run = run_of(store, options.dag_id, run_id=options.run)
        with store.transaction():
            task = getattr(options, "task", None)
            changed = control(store, run.run_id, action, by=this_user(), now_us=now_us(), task=task)
    wake(context.home.run, changed.wake)
    return changed


def _is_minded(context: Context, changed: Controlled) -> bool:
    if changed.another_node:
        return True  # it is asked when a node runs here
    lock = worker_lock_path(context.home.run, changed.run.worker_id)
    return node_is_running(context.home) or holder(lock) is not None


def _answer(context: Context, run_id: str, options: argparse.Namespace) -> None:
    with context.store() as store:
        runs = node_is_running(context.home)
        view = read_run(store, run_id, still=still_runs, node_runs=runs)
    if options.json:
        print_json(view)
    else:
        print(f"{view['dag_id']} {run_id}: {view['status']}{_asked(view, node_runs=runs)}")


def _asked(view: Mapping[str, Any], *, node_runs: bool) -> str:
    """Return what becomes of a cancel that has not ended its run yet: only who has been told ends tasks."""
    if not view["cancel_requested"] or RunState(view["status"]).final:
        return ""
    if view["delivery"] == "local":
        return ", its tasks are being ended"
    return f", node {view['owner_node']} is told to end it when it can be reached ({heard(view, node_runs=node_runs)})"


def list_workers(options: argparse.Namespace) -> None:
    """Print the workers that live; with --all, those that stopped or died as well."""
    context = from_environment()
    with context.store() as store:
        workers = store.workers.all(live_only=not options.all)
        short_ids = {one.current_run: short_id(store.runs, one.current_run) for one in workers if one.current_run}
    views = [_seen(context, worker) for worker in workers]
    if not options.all:
        views = [view for view in views if view["status"] != WorkerState.DEAD]
    if options.json:
        print_json(views)
        return
    rows = []
    for view in views:
        scope, beat = scope_text(view["scope"]), time_cell(view["heartbeat_at"])
        status, pid = view["status"], view["pid"]
        run_id = view["current_run"]
        current = run_id and Forms(run_id, short_ids[run_id])
        rows.append((view["worker_id"], scope, status, pid, view["runs_done"], beat, current))
    print_table(("worker_id", "scope", "status", "pid", "runs", "heartbeat", "current_run"), rows)


def worker_status(options: argparse.Namespace) -> None:
    """Print one worker in detail."""
    context = from_environment()
    with context.store() as store:
        worker = look_up_worker(store.workers, context.settings.node_id, options.worker_id)
        demand = {one.worker_id: one.runs for one in store.queue.demand(worker.node_id)}
    view = {**_seen(context, worker), "queued": demand.get(worker.worker_id, 0)}
    if options.json:
        print_json(view)
        return
    for name, value in view.items():
        text = scope_text(value) if name == "scope" else local_time(value) if name.endswith("_at") else value
        print(f"{name:16}{'-' if text is None else text}")


def _seen(context: Context, worker: WorkerRecord) -> dict[str, Any]:
    """Return a worker's view; one of this node whose lock is free is dead, whatever its row still says."""
    view = worker_view(worker)
    mine = worker.status.live and worker.node_id == context.settings.node_id
    if mine and holder(worker_lock_path(context.home.run, worker.worker_id)) is None:
        view["status"] = str(WorkerState.DEAD)
    return view
