"""``cis dag list``, ``status`` and ``definitions``: read from the database, whether or not a node runs."""

from __future__ import annotations

import argparse

from cis.cli.context import from_environment
from cis.cli.output import local_time, print_json, print_table, scope_text
from cis.engine.observe.views import dag_view, read_status, run_list_item
from cis.errors import UsageError
from cis.model.ids import did_you_mean
from cis.model.scope import Scope, parse_scope
from cis.model.states import RunState
from cis.store.records import RunFilter

MAX_LIMIT = 100_000


def list_runs(options: argparse.Namespace) -> None:
    """Print runs, newest first."""
    if not 1 <= options.limit <= MAX_LIMIT:
        raise UsageError(f"--limit must be from 1 to {MAX_LIMIT}, not {options.limit}")
    where = RunFilter(status=_status(options.status), scope=_scope(options.scope), node=options.node)
    with from_environment().store() as store:
        items = [run_list_item(run) for run in store.runs.page(where, limit=options.limit).items]
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
    from cis.cli.dag.status_page import print_status, watch  # noqa: PLC0415 - a list shows no page
    from cis.executors.platform import still_runs  # noqa: PLC0415

    with from_environment().store() as store:
        if options.watch:
            found = watch(store, options.dag_id, run_id=options.run, quiet=options.json)
        else:
            found = read_status(store, options.dag_id, run_id=options.run, still=still_runs)
    if options.json:
        print_json(found)
    else:
        print_status(found)


def definitions(options: argparse.Namespace) -> None:
    """Print the stored DAGs."""
    views, cursor = [], None
    with from_environment().store() as store:
        while True:
            page = store.definitions.page(limit=1000, cursor=cursor, saved_only=True)
            views += [dag_view(one) for one in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
    if options.json:
        print_json(views)
        return
    rows = []
    for one in views:
        stored = local_time(one.get("saved_at"))
        rows.append((one["dag_id"], scope_text(one["scope"]), one["task_count"], stored, one["description"]))
    print_table(("dag_id", "scope", "tasks", "stored", "description"), rows)


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
