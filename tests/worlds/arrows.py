"""Which state may follow which, written down once more so that a wrong arrow in the model is seen."""

from __future__ import annotations

from cis.model.states import RunState, TaskState

LEGAL_RUN = {
    RunState.PENDING: {RunState.RUNNING, RunState.PAUSED, RunState.FAILED, RunState.CANCELLED},
    RunState.RUNNING: {RunState.PAUSED, RunState.COMPLETED, RunState.FAILED, RunState.CANCELLED},
    RunState.PAUSED: set(RunState) - {RunState.PAUSED},
}
LEGAL_TASK = {
    TaskState.PENDING: {TaskState.RUNNING, TaskState.FAILED, TaskState.SKIPPED, TaskState.CANCELLED},
    TaskState.RUNNING: set(TaskState) - {TaskState.RUNNING},
}
