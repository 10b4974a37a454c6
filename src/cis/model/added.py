"""Which tasks a run may get while it goes on: instances of tasks that are made into many, and handlers."""

from __future__ import annotations

from cis.model.dag import HANDLER, DagSpec, TaskSpec


def added_task(spec: DagSpec, task_id: str, part_of: int | None) -> TaskSpec | None:
    """Return what of a DAG a run gets under this id: a handler, or the task that it is an instance of; None: nothing.

    *part_of* is the number of that task.
    """
    if part_of is None:
        return spec.handlers.get(task_id.removeprefix(HANDLER)) if task_id.startswith(HANDLER) else None
    whole = spec.tasks[part_of] if part_of < len(spec.tasks) else None
    if whole is None or not whole.is_many or not task_id.startswith(f"{whole.id}[") or not task_id.endswith("]"):
        return None
    return whole
