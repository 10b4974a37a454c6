"""The DAGs of the benchmark, all of ``true``."""

from __future__ import annotations

from typing import Any

LAYERS = 10

Document = dict[str, Any]


def layered(count: int) -> Document:
    """Return *count* tasks in layers, each task after two of the layer before."""
    width = max(1, count // LAYERS)
    tasks: list[Document] = []
    for number in range(count):
        task: Document = {"id": f"t{number}", "command": "true"}
        if number >= width:
            above = number - width
            task["depends_on"] = sorted({f"t{above}", f"t{above - above % width + (above + 1) % width}"})
        tasks.append(task)
    return {"dag_id": "layered", "tasks": tasks}


def chain(count: int) -> Document:
    """Return *count* tasks, each after the one before."""
    tasks: list[Document] = [{"id": "t0", "command": "true"}]
    tasks += [{"id": f"t{number}", "command": "true", "depends_on": [f"t{number - 1}"]} for number in range(1, count)]
    return {"dag_id": "chain", "tasks": tasks}


def fanout(count: int) -> Document:
    """Return *count* tasks that depend on nothing, and one after all of them."""
    tasks: list[Document] = [{"id": f"t{number}", "command": "true"} for number in range(count)]
    tasks.append({"id": "join", "command": "true", "depends_on": [f"t{number}" for number in range(count)]})
    return {"dag_id": "fanout", "tasks": tasks}


def one(dag_id: str, command: str = "true") -> Document:
    """Return a DAG of one task."""
    return {"dag_id": dag_id, "tasks": [{"id": "a", "command": command}]}
