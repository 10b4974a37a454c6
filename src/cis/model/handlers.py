"""Handlers: tasks that run when the rest of a run is over, by how it has ended.

``success``, ``failure`` or ``cancel`` runs first, then ``exit``; each is a task with the id ``handlers.NAME``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cis.model.dag import HANDLER, Json
from cis.model.ids import did_you_mean
from cis.model.kinds import kind_of
from cis.model.states import RunState
from cis.model.tree import Path

EXIT = "exit"
OF_STATES = {RunState.COMPLETED: "success", RunState.FAILED: "failure", RunState.CANCELLED: "cancel"}
NAMES = (*OF_STATES.values(), EXIT)
TIMEOUT_S = 600.0  # of one that has no timeout of its own
NOT_IN_HANDLERS = {
    "id": "is not a field of a handler: its id is that of its place",
    "depends_on": "is not a field of a handler: it runs when all else is over",
    "deps": "is not a field of a handler: it runs when all else is over",
    "when": "is not a field of a handler: its name says when it runs",
    "trigger_rule": "is not a field of a handler: its name says when it runs",
    "foreach": "is not a field of a handler, which is one task",
    "matrix": "is not a field of a handler, which is one task",
    "max_parallel": "is not a field of a handler, which is one task",
    "fail_fast": "is not a field of a handler, which is one task",
}


def applying(status: RunState, handlers: Mapping[str, object]) -> list[str]:
    """Return the names of the *handlers* that run after a run that has ended so, in their order."""
    return [name for name in (OF_STATES[status], EXIT) if name in handlers]


def handler_faults(root: Mapping[str, Json]) -> Iterator[tuple[Path, str]]:
    """Yield what is wrong with the names of a document's handlers, and of its tasks because of these."""
    handlers = root.get("handlers")
    if handlers is None:
        return
    if not isinstance(handlers, dict):
        yield ("handlers",), f"must be a mapping, not {kind_of(handlers)}; known: {', '.join(NAMES)}"
        return
    for name in handlers:
        if name not in NAMES:
            known = did_you_mean(str(name), NAMES) or f"; known: {', '.join(NAMES)}"
            yield ("handlers", str(name)), f"is not a handler{known}"
    listed = root.get("tasks")
    for number, task in enumerate(listed if isinstance(listed, list) else ()):
        task_id = task.get("id") if isinstance(task, dict) else None
        if isinstance(task_id, str) and task_id.startswith(HANDLER):
            yield ("tasks", number, "id"), f"begins with {HANDLER!r}, as the ids of handlers do; choose another"


def handlers_of(root: Mapping[str, Json]) -> Sequence[tuple[str, Json]]:
    """Return the handlers of a document by their names, as far as these are known."""
    handlers = root.get("handlers")
    return [(name, handlers[name]) for name in NAMES if name in handlers] if isinstance(handlers, dict) else []
