"""``cis dag list`` and ``definitions``: read from the database, whether or not a node runs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cis.cli.context import from_environment
from cis.cli.output import print_json, scope_text, took
from cis.cli.table import Forms, print_table, terminal_width, time_cell
from cis.engine.lookup import dag_or_run, short_id
from cis.engine.observe.views import dag_view, run_list_item
from cis.errors import NotFoundError, UsageError
from cis.model.ids import did_you_mean
from cis.model.scope import Scope, parse_scope
from cis.model.states import RunState
from cis.store.records import RunFilter

if TYPE_CHECKING:
    from cis.store.port import Store

MAX_LIMIT = 100_000
MAX_SHORTENED = 1000


def list_runs(options: argparse.Namespace) -> None:
    """Print runs, newest first."""
    if not 1 <= options.limit <= MAX_LIMIT:
        raise UsageError(f"--limit must be from 1 to {MAX_LIMIT}, not {options.limit}")
    where = RunFilter(status=_status(options.status), scope=_scope(options.scope), node=options.node)
    with from_environment().store() as store:
        if options.dag is not None:
            where = where._replace(dag_id=_dag_id(store, options.dag))
        items = [run_list_item(run) for run in store.runs.page(where, limit=options.limit).items]
        ids = {} if options.json else id_forms(store, [one["run_id"] for one in items])
    if options.json:
        print_json(items)
        return
    header = ("dag_id", "scope", "status", "owner_node", "created", "took", "run_id")
    rows = []
    for one in items:
        run_id = ids.get(one["run_id"], one["run_id"])
        row = (one["dag_id"], scope_text(one["scope"]), one["status"], one["owner_node"])
        rows.append((*row, time_cell(one["created_at"]), took_cell(one), run_id))
    print_table(header, rows)


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
        stored = time_cell(one.get("saved_at"))
        rows.append((one["dag_id"], scope_text(one["scope"]), one["task_count"], stored, one["description"]))
    print_table(("dag_id", "scope", "tasks", "stored", "description"), rows)


def id_forms(store: Store, run_ids: Sequence[str]) -> dict[str, Forms]:
    """Return runs' ids, whole and as short as they can be typed back; of very many the whole ones alone."""
    if terminal_width() is None or len(run_ids) > MAX_SHORTENED:
        return {}
    return {run_id: Forms(run_id, short_id(store.runs, run_id)) for run_id in run_ids}


def took_cell(thing: Mapping[str, Any]) -> str:
    """Return how long a run or a task took, or has taken so far."""
    return took(thing["started_at"], thing["finished_at"], runs=thing["status"] in ("running", "paused"))


def _dag_id(store: Store, name: str) -> str:
    """Return the id of the DAG that is named, perhaps by a run of it; as it is where there is none."""
    try:
        return dag_or_run(store, name)[0].dag_id
    except NotFoundError:
        return name


def _status(text: str | None) -> RunState | None:
    if text is None:
        return None
    known = [str(one) for one in RunState]
    if text not in known:
        raise UsageError(f"--status {text!r} is not one of {', '.join(known)}{did_you_mean(text, known)}")
    return RunState(text)


def _scope(text: str | None) -> Scope | None:
    try:
        return None if text is None else parse_scope(text)
    except ValueError as error:
        raise UsageError(f"--scope: {error}") from error
