"""The page that ``cis dag status`` shows: the DAG, its runs, the tasks of the newest, and why things wait."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cis.cli.output import counted, local_time, print_table, scope_text, state, took

MAX_TASKS_SHOWN = 50


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


def _why(thing: Mapping[str, Any]) -> str:
    if thing.get("waiting"):
        return str(thing["waiting"]["message"])
    if thing.get("skipped_because"):
        return f"skipped because of {thing['skipped_because']}"
    return str(thing.get("error") or "")
