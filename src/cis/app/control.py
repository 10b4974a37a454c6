"""Control of a run: cancel, pause, resume."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from cis.app.actor import Actor, append_audit
from cis.engine.accept import control as engine
from cis.engine.lookup import look_up_run
from cis.model.scope_rules import Patterns
from cis.store.port import Store
from cis.store.records import RunRecord
from cis.store.run_port import Runs


class Action(StrEnum):
    """What can be asked of a run."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"


_ENGINE: Mapping[Action, Callable[..., RunRecord]] = {
    Action.CANCEL: partial(engine.cancel, again=True),
    Action.PAUSE: engine.pause,
    Action.RESUME: engine.resume,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Controlled:
    """The run as it is now, the ids of the workers to wake, and whether *another_node* executes it and is asked."""

    run: RunRecord
    wake: frozenset[str]
    another_node: bool


def control(
    store: Store,
    run_id: str,
    action: Action,
    *,
    by: Actor,
    now_us: int,
    task: str | None = None,
    scopes: Patterns | None = None,
    audit_repeats: bool = True,
) -> Controlled:
    """Do what is asked of a run, in the caller's transaction; without *audit_repeats* only changes are audited.

    A *task* that is named is cancelled alone.

    Raises:
        NotFoundError: no such run, or none in the *scopes* that may be seen (None: all); or no such task.
        IllegalStateError: the run, or the task, is over.
        OverloadedError: so many of its tasks are to be cancelled already.
    """
    look_up_run(store.runs, run_id, scopes=scopes)
    before = None if audit_repeats else _asked_for(store, run_id)
    if task is None:
        run = _ENGINE[action](store, run_id, now_us=now_us)
    else:
        run = engine.cancel_task(store, run_id, task, now_us=now_us)
    if audit_repeats or _asked_for(store, run_id) != before:
        subject = run_id if task is None else f"{run_id}/{task}"
        append_audit(store.audit, by, action=f"run.{action}", subject=subject, now_us=now_us)
    return Controlled(
        run=run,
        wake=_touched(store.runs, run, action),
        another_node=engine.elsewhere(store.remotes, run_id) is not None,
    )


def _asked_for(store: Store, run_id: str) -> tuple[int | None, int]:
    """Return what control changes of a run: the run itself, or what the node that executes it is asked for."""
    remote = store.remotes.get(run_id)
    head = store.runs.heads([run_id]).get(run_id)
    return head and head.version, 0 if remote is None else remote.control_seq


def _touched(runs: Runs, run: RunRecord, action: Action) -> frozenset[str]:
    """Return the workers of a run and of those of its child runs that were changed with it.

    A worker that holds a run which is to be cancelled changes the child runs itself, and wakes their workers.
    """
    changes_children = run.status.final or action is Action.RESUME
    children = runs.children(run.run_id) if changes_children else ()
    return frozenset((run.worker_id, *(child.worker_id for child in children)))
