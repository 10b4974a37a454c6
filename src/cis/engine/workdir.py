"""Where the tasks of a DAG run when their ``cwd`` does not say it in full."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from cis.model.dag import DagSpec


def anchored(spec: DagSpec, *, base: Path) -> DagSpec:
    """Return *spec* with an absolute ``cwd`` in every task: its own against *base*, or *base*.

    A ``cwd`` that starts with ``~`` or with a reference to an output is left for the worker to fill in.
    """

    def anchor(cwd: str | None) -> str:
        if cwd is None:
            return str(base)
        return cwd if cwd.startswith(("~", "${tasks.")) else os.path.normpath(base / cwd)

    return replace(spec, tasks=tuple(replace(task, cwd=anchor(task.cwd)) for task in spec.tasks))
