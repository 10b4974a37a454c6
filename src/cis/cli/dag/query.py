"""``cis dag list``, ``status`` and ``definitions``: read from the database, whether or not a node runs."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cis.cli.context import from_environment
from cis.cli.output import local_time, on_terminal, print_json, print_table, scope_text, state, took
from cis.engine.lookup import dag_or_run
from cis.engine.observe.views import dag_view, read_status, run_list_item
from cis.errors import NotFoundError, UsageError
from cis.model.ids import counted, did_you_mean
from cis.model.scope import Scope, parse_scope
from cis.model.states import RunState
from cis.store.records import RunFilter

if TYPE_CHECKING:
    from cis.store.port import Store

MAX_LIMIT = 100_000
MAX_TASKS_SHOWN = 50
LOOK_EVERY_S = 0.5


def list_runs(options: argparse.Namespace) -> None:
    """Print runs, newest first."""
    if not 1 <= options.limit <= MAX_LIMIT:
        raise UsageError(f"--limit must be from 1 to {MAX_LIMIT}, not {options.limit}")
    where = RunFilter(status=_status(options.status), scope=_scope(options.scope), node=options.node)
    with from_environment().store() as store:
        if options.dag is not None:
            where = where._replace(dag_id=_dag_id(store, options.dag))
        items = [run_list_item(run) for run in store.runs.page(where, limit=options.limit).items]
    if options.json:
        print_json(items)
        return
    header = ("dag_id", "scope", "status", "owner_node", "created", "took", "run_id")
    rows = []
    for one in items:
        scope, created = scope_text(one["scope"]), local_time(one["created_at"])
        lasted = took(one["started_at"], one["finished_at"])
        rows.append((one["dag_id"], scope, one["status"], one["owner_node"], created, lasted, one["run_id"]))
    print_table(header, rows)


def status(options: argparse.Namespace) -> None:
    """Print a DAG, its latest runs, and the tasks of the newest."""
    with from_environment().store() as store:
        if options.watch:
            found = _watch(store, options.dag_id, run_id=options.run, quiet=options.json)
        else:
            found = _look(store, options.dag_id, run_id=options.run)
    if options.json:
        print_json(found)
    else:
        _print_status(found)


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


def _dag_id(store: Store, name: str) -> str:
    """Return the id of the DAG that is named, perhaps by a run of it; as it is where there is none."""
    try:
        return dag_or_run(store, name)[0].dag_id
    except NotFoundError:
        return name


def _look(store: Store, dag_id: str, *, run_id: str | None) -> dict[str, Any]:
    from cis.executors.platform import still_runs  # noqa: PLC0415 - a list looks at no process

    return read_status(store, dag_id, run_id=run_id, still=still_runs)


def _watch(store: Store, dag_id: str, *, run_id: str | None, quiet: bool) -> Mapping[str, Any]:
    """Show the latest run, or the one that is named, until it is over; return what is there then.

    A terminal shows the page anew each time; elsewhere each change is a line.
    """
    shown: dict[str, str] = {}
    redraw = on_terminal()
    while True:
        started_s = time.monotonic()
        found = _look(store, dag_id, run_id=run_id)
        over = not found["runs"] or RunState(found["runs"][0]["status"]).final
        if redraw and not quiet:
            sys.stdout.write("\x1b[H\x1b[2J")
            if not over:
                _print_status(found)
        elif not quiet and found["runs"]:
            _print_changes(found["runs"][0], shown)
        sys.stdout.flush()
        if over:
            return found
        # A run may have 100,000 tasks: looking at them takes at most a tenth of the time.
        time.sleep(max(LOOK_EVERY_S, 10 * (time.monotonic() - started_s)))


def _print_status(found: Mapping[str, Any]) -> None:
    """Print the DAG, its runs, the tasks of the newest, and why things wait."""
    dag = found["dag"]
    print(f"{dag['dag_id']}  scope {scope_text(dag['scope'])}  {counted(dag['task_count'], 'task')}")
    if dag["description"]:
        print(dag["description"])
    print()
    rows = []
    for run in found["runs"]:
        created, time = local_time(run["created_at"]), took(run["started_at"], run["finished_at"])
        rows.append((run["run_id"], run["status"], created, time, run["worker_id"], _why(run)))
    print_table(("run", "status", "created", "took", "worker", "note"), rows)
    if found["runs"]:
        print()
        _print_tasks(found["runs"][0]["tasks"])
        left = [f"{one['task']} (pid {one['pid']})" for one in found["runs"][0]["left"]]
        if left:
            print(f"\nleft running: {', '.join(left)}")


def _print_tasks(tasks: list[Mapping[str, Any]]) -> None:
    unusual = [task for task in tasks if task["status"] != "completed"]
    shown = tasks if len(tasks) <= MAX_TASKS_SHOWN else unusual[:MAX_TASKS_SHOWN]
    rows = []
    for task in shown:
        time = took(task["started_at"], task["finished_at"])
        rows.append((task["id"], task["status"], task["attempts"], task["exit_code"], time, _why(task)))
    print_table(("task", "status", "attempts", "exit", "took", "note"), rows)
    if len(shown) < len(tasks):
        print(f"and {len(tasks) - len(shown)} more tasks; --json shows all")
    running = [task["id"] for task in tasks if task["status"] == "running"]
    if running:
        print(f"\n{state('running')}: {', '.join(running)}")


def _print_changes(run: Mapping[str, Any], shown: dict[str, str]) -> None:
    for name, thing in ((run["run_id"], run), *((task["id"], task) for task in run["tasks"])):
        why = _why(thing)
        text = f"{name}: {thing['status']}" + (f" ({why})" if why else "")
        if shown.get(name) != text and (why or thing["status"] != "pending"):
            shown[name] = text
            print(text)


def _why(thing: Mapping[str, Any]) -> str:
    if thing.get("waiting"):
        return str(thing["waiting"]["message"])
    if thing.get("skipped_because"):
        return f"skipped because of {thing['skipped_because']}"
    return str(thing.get("error") or "")


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
