"""The page that ``cis dag status`` shows: the DAG, its runs, the tasks of the newest, and why things wait.

While it is watched a terminal shows it anew each time; elsewhere each change is a line, and the page comes at the end.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cis.cli.output import local_time, on_terminal, print_table, scope_text, state, took
from cis.engine.observe.views import read_status
from cis.executors.platform import still_runs
from cis.model.ids import counted
from cis.model.states import RunState

if TYPE_CHECKING:
    from cis.store.port import Store

MAX_TASKS_SHOWN = 50
LOOK_EVERY_S = 0.5


def watch(store: Store, dag_id: str, *, run_id: str | None, quiet: bool) -> Mapping[str, Any]:
    """Show the latest run, or the one that is named, until it is over; return what ``read_status`` says then."""
    shown: dict[str, str] = {}
    redraw = on_terminal()
    while True:
        started_s = time.monotonic()
        found = read_status(store, dag_id, run_id=run_id, still=still_runs)
        over = not found["runs"] or RunState(found["runs"][0]["status"]).final
        if redraw and not quiet:
            sys.stdout.write("\x1b[H\x1b[2J")
            if not over:
                print_status(found)
        elif not quiet and found["runs"]:
            _print_changes(found["runs"][0], shown)
        sys.stdout.flush()
        if over:
            return found
        # A run may have 100,000 tasks: looking at them takes at most a tenth of the time.
        time.sleep(max(LOOK_EVERY_S, 10 * (time.monotonic() - started_s)))


def print_status(found: Mapping[str, Any]) -> None:
    """Print what ``read_status`` returned."""
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
