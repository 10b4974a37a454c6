"""``cis dag status``: read from the database, whether or not a node runs."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cis.cli.context import Context, from_environment
from cis.cli.dag.folding import FOLDED, folded
from cis.cli.dag.list import id_forms, took_cell
from cis.cli.dag.runner import heard
from cis.cli.output import (
    exit_text,
    in_local_time,
    on_terminal,
    print_json,
    scope_text,
    state,
)
from cis.cli.table import Forms, table_lines, terminal_size, terminal_width, time_cell
from cis.engine.observe.views import read_run, read_status
from cis.model.ids import counted
from cis.model.states import RunState, skip_words
from cis.node.home import node_is_running

if TYPE_CHECKING:
    from cis.store.port import Store

MAX_GIVEN_SHOWN = 500
MAX_TASKS_SHOWN = 50
LOOK_EVERY_S = 1.0  # also to show how long things have taken so far
LEAST_PAUSE_S = 0.05
_URGENCY = {"running": 0, "failed": 1, "cancelled": 2, "pending": 3, "skipped": 4}


def status(options: argparse.Namespace) -> None:
    """Print a DAG, its latest runs, and the tasks of the newest."""
    context = from_environment()
    with context.store() as store:
        page = (_watch if options.watch else _look)(store, context, options)
    if options.json:
        print_json(page.found)
    else:
        for line in _lines(page, width=terminal_width()):
            print(line)


class _Page(NamedTuple):
    """What ``status`` shows: what was found, the runs' ids in two forms, the last line on stderr of what failed, if a node runs.

    ``below`` are the tasks of DAGs as tasks of the newest run, each with its DAG, by the id of their run.
    """

    found: Mapping[str, Any]
    ids: Mapping[str, Forms]
    last_lines: Mapping[str, str]
    node_runs: bool
    below: Mapping[str, Sequence[tuple[str, Mapping[str, Any]]]]

    @property
    def over(self) -> bool:
        """Whether the newest run, if there is one, is over."""
        return not self.found["runs"] or RunState(self.found["runs"][0]["status"]).final


def _look(store: Store, context: Context, options: argparse.Namespace) -> _Page:
    from cis.executors.platform import still_runs  # noqa: PLC0415 - a list looks at no process

    runs = node_is_running(context.home)
    found = read_status(store, options.dag_id, run_id=options.run, still=still_runs, node_runs=runs)
    newest = found["runs"][0] if found["runs"] else None
    failed = [task["id"] for task in newest["tasks"] if task["status"] == "failed"] if newest else []
    lines = {}
    if newest and failed:
        from cis.engine.observe.logs import last_lines_of_errors  # noqa: PLC0415 - most runs have none

        lines = last_lines_of_errors(store, newest["run_id"], failed[:MAX_TASKS_SHOWN])
    below = _below(store, newest["tasks"], node_runs=runs) if newest and not options.json else {}
    return _Page(found, id_forms(store, [run["run_id"] for run in found["runs"]]), lines, runs, below)


def _below(
    store: Store, tasks: Sequence[Mapping[str, Any]], *, node_runs: bool
) -> dict[str, list[tuple[str, Mapping[str, Any]]]]:
    """Return the tasks of the runs that some tasks are, as many as are shown; a DAG within one of these is one line."""
    children = [task["child_run_id"] for task in tasks[:MAX_TASKS_SHOWN] if task["child_run_id"] is not None]
    found: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    left = MAX_TASKS_SHOWN
    for run_id in children:
        run = store.runs.get(run_id) if left > 0 else None
        if run is None or run.task_count > left:
            continue
        left -= run.task_count
        view = read_run(store, run_id, node_runs=node_runs)
        found[run_id] = [(view["dag_id"], task) for task in view["tasks"]]
    return found


def _watch(store: Store, context: Context, options: argparse.Namespace) -> _Page:
    """Show the latest run, or the one that is named, until it is over; return what is there then.

    A terminal shows one screen, drawn anew each time; elsewhere each change is a line.
    """
    from cis.worker.bell import WatchBell  # noqa: PLC0415 - only who waits needs one

    shown: dict[str, str] = {}
    redraw = on_terminal() and not options.json
    if redraw:
        sys.stdout.write("\x1b[2J")
    with WatchBell(context.home.run, str(os.getpid())) as bell:
        while True:
            started_s = time.monotonic()
            page = _look(store, context, options)
            if redraw:
                sys.stdout.write("\x1b[H\x1b[2J" if page.over else _screen(page))
            elif not options.json and page.found["runs"]:
                _print_changes(page, shown)
            sys.stdout.flush()
            if page.over:
                return page
            # A run may have 100,000 tasks: looking at them takes at most a tenth of the time.
            time.sleep(max(LEAST_PAUSE_S, 10 * (time.monotonic() - started_s)))
            bell.wait(LOOK_EVERY_S)


def _screen(page: _Page) -> str:
    """Return what draws the newest run on one screen: as many tasks as fit, running and failed ones first."""
    columns, lines = terminal_size()
    run = page.found["runs"][0]
    head = [_heading(page.found["dag"])[: columns - 1], *_run_lines(page, [run], width=columns, wrap=False), ""]
    tasks = sorted(folded(run["tasks"]), key=lambda task: _URGENCY.get(task["status"], len(_URGENCY)))
    room = max(1, lines - len(head) - 2)  # a header, and a line for those that have no room
    body = _task_lines(page, tasks[:room], width=columns, wrap=False)
    rest = Counter(task["status"] for task in tasks[room:])
    if rest:
        body.append(f"and {', '.join(f'{count:,} {name}' for name, count in rest.items())}"[: columns - 1])
    return "\x1b[H" + "\x1b[K\r\n".join([*head, *body]) + "\x1b[K\x1b[J"


def _lines(page: _Page, *, width: int | None) -> Iterator[str]:
    """Return the DAG, its runs, the tasks of the newest, and why things wait, line by line."""
    dag, runs = page.found["dag"], page.found["runs"]
    yield _heading(dag)
    if dag["description"]:
        yield dag["description"]
    yield ""
    yield from _run_lines(page, runs, width=width)
    if not runs:
        return
    if runs[0]["params"]:
        from cis.model.references import text_of  # noqa: PLC0415 - most runs have none

        given = ", ".join(f"{name}={text_of(value)}" for name, value in runs[0]["params"].items())
        yield f"\nparameters: {given if len(given) <= MAX_GIVEN_SHOWN else given[:MAX_GIVEN_SHOWN] + '…'}"
    tasks = folded(runs[0]["tasks"])
    unusual = [task for task in tasks if task["status"] != "completed"]
    shown = tasks if len(tasks) <= MAX_TASKS_SHOWN else unusual[:MAX_TASKS_SHOWN]
    yield ""
    yield from _task_lines(page, shown, width=width)
    if len(shown) < len(tasks):
        yield f"and {len(tasks) - len(shown)} more tasks; --json shows all"
    running = [task["id"] for task in tasks if task["status"] == "running" and not task["waiting"]]
    if running:
        yield f"\n{state('running')}: {', '.join(running)}"
    left = [f"{one['task']} (pid {one['pid']})" for one in runs[0]["left"]]
    if left:
        yield f"\nleft running: {', '.join(left)}"


def _heading(dag: Mapping[str, Any]) -> str:
    return f"{dag['dag_id']}  scope {scope_text(dag['scope'])}  {counted(dag['task_count'], 'task')}"


def _run_lines(
    page: _Page, runs: Sequence[Mapping[str, Any]], *, width: int | None, wrap: bool = True
) -> Sequence[str]:
    rows = []
    for run in runs:
        run_id, created = page.ids.get(run["run_id"], run["run_id"]), time_cell(run["created_at"])
        rows.append(
            (
                run_id,
                run["status"],
                created,
                took_cell(run),
                run["worker_id"],
                _why(run) or heard(run, node_runs=page.node_runs),
            )
        )
    return table_lines(("run", "status", "created", "took", "worker", "note"), rows, width=width, wrap=wrap)


def _task_lines(page: _Page, tasks: Sequence[Mapping[str, Any]], *, width: int | None, wrap: bool = True) -> list[str]:
    rows = []
    for task in tasks:
        rows.append(_task_row(task, page.last_lines.get(task["id"])))
        below = page.below.get(task["child_run_id"] or "", ())
        rows += [_task_row(one, None, within=f"  {dag_id}/") for dag_id, one in below]
    return table_lines(("task", "status", "attempts", "exit", "took", "note"), rows, width=width, wrap=wrap)


def _task_row(task: Mapping[str, Any], last_line: str | None, *, within: str = "") -> tuple[Any, ...]:
    ended = exit_text(task["exit_code"])
    return (f"{within}{task['id']}", task["status"], task["attempts"], ended, took_cell(task), _why(task, last_line))


def _print_changes(page: _Page, shown: dict[str, str]) -> None:
    run = page.found["runs"][0]
    for name, thing in ((run["run_id"], run), *((task["id"], task) for task in run["tasks"])):
        why, last = _why(thing), page.last_lines.get(name)
        if thing is run:
            why = why or heard(run, node_runs=page.node_runs, steady=True)
        text = f"{name}: {thing['status']}" + (f" ({why})" if why else "") + (f": {last}" if last else "")
        if shown.get(name) != text and (why or thing["status"] != "pending"):
            shown[name] = text
            print(text)


def _why(thing: Mapping[str, Any], last_line: str | None = None) -> str:
    """Return what there is to say of a run or a task, with the last line on standard error of one that failed."""
    if thing.get("waiting"):
        return in_local_time(thing["waiting"]["message"])
    if FOLDED in thing:
        return str(thing[FOLDED])
    if thing.get("skip_reason"):
        return skip_words(thing["skip_reason"], thing["skipped_because"])
    allowed = "allowed to fail" if thing.get("failure_allowed") else ""
    return ": ".join(part for part in (allowed, in_local_time(thing.get("error") or ""), last_line) if part)
