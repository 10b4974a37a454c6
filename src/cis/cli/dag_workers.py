"""``cis dag worker list`` and ``status``."""

from __future__ import annotations

import argparse
from typing import Any

from cis.cli.context import Context, from_environment
from cis.cli.output import local_time, print_json, print_table, scope_text
from cis.engine.existing import existing_worker
from cis.engine.views import worker_view
from cis.store.records import WorkerRecord, WorkerState
from cis.worker.lock import holder, worker_lock_path


def list_workers(options: argparse.Namespace) -> None:
    """Print the workers that live; with --all, those that stopped or died as well."""
    context = from_environment()
    with context.store() as store:
        workers = store.workers(live_only=not options.all)
    views = [_seen(context, worker) for worker in workers]
    if not options.all:
        views = [view for view in views if view["status"] != WorkerState.DEAD]
    if options.json:
        print_json(views)
        return
    rows = []
    for view in views:
        scope, beat = scope_text(view["scope"]), local_time(view["heartbeat_at"])
        status, pid = view["status"], view["pid"]
        rows.append((view["worker_id"], scope, status, pid, view["runs_done"], beat, view["current_run"]))
    print_table(("worker_id", "scope", "status", "pid", "runs", "heartbeat", "current_run"), rows)


def worker_status(options: argparse.Namespace) -> None:
    """Print one worker in detail."""
    context = from_environment()
    with context.store() as store:
        worker = existing_worker(store, context.settings.node_id, options.worker_id)
        demand = {one.worker_id: one.count for one in store.queue_demand(worker.node_id)}
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
