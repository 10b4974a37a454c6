"""State as it looks from outside: the JSON objects that the command line and the API both answer with.

Keys are snake_case, times RFC 3339 in UTC, and a scope is ``{"type": …, "id": … | null}`` everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from cis.engine.lookup import dag_or_run, look_up_run, run_of
from cis.engine.times import rfc3339
from cis.model.ids import counted
from cis.model.scope_rules import Patterns
from cis.model.states import Outcome, RunState, TaskState
from cis.store.records import (
    DefinitionRecord,
    Delivery,
    EventRecord,
    LeftProcess,
    RunFilter,
    RunRecord,
    TaskRecord,
    WorkerRecord,
)

if TYPE_CHECKING:
    from cis.engine.observe.waiting import Waiting
    from cis.engine.ports import SkillInfo  # 3 ms, and only skills are of it
    from cis.model.dag import Json
    from cis.store.cluster import PeerRecord
    from cis.store.port import Store
    from cis.store.run_port import Attempts

LATEST_RUNS = 5
CONTACT_S = 90.0  # a peer is pinged every 30 s
CLOCK_WARNING_S = 60.0

StillRuns = Callable[[int, str], bool]
"""Whether the process of that number, which started then, still runs."""


def _whatever(_pid: int, _started: str) -> bool:
    return True


def submission_view(run: RunRecord, *, warnings: Sequence[str] = ()) -> dict[str, Json]:
    """Return what a submission is answered with."""
    return {
        "run_id": run.run_id,
        "dag_id": run.dag_id,
        "status": str(run.status),
        "scope": run.scope.to_dict(),
        "scope_source": str(run.scope_source),
        "worker_id": run.worker_id,
        "node_id": run.node_id,
        "target_node": run.target_node,
        "delivery": str(run.delivery),
        "warnings": list(warnings),
    }


def ended_view(store: Store, run: RunRecord) -> dict[str, Json]:
    """Return what a submission is answered with once its run is over: also its tasks, and why it failed."""
    tasks = store.tasks.of_run(run.run_id)
    error = run.error or (_failures(tasks) if run.status is RunState.FAILED else None)
    return {**submission_view(run), "error": error, "tasks": task_views(tasks, {})}


def _failures(tasks: Sequence[TaskRecord]) -> str | None:
    """Return what the first task that failed says, and how many more did."""
    failed = [task for task in tasks if task.is_failure]
    more = f", and {counted(len(failed) - 1, 'more task')} failed" if len(failed) > 1 else ""
    return f"task {failed[0].task_id}: {failed[0].error or 'failed'}{more}" if failed else None


def run_list_item(run: RunRecord) -> dict[str, Json]:
    """Return a run as lists show it."""
    return {
        "dag_id": run.dag_id,
        "run_id": run.run_id,
        "scope": run.scope.to_dict(),
        "status": str(run.status),
        "owner_node": run.owner_node,
        "priority": str(run.priority),
        "worker_id": run.worker_id,
        "created_at": rfc3339(run.created_at_us),
        "started_at": rfc3339(run.started_at_us),
        "finished_at": rfc3339(run.finished_at_us),
    }


def run_view(
    run: RunRecord,
    tasks: Sequence[TaskRecord],
    *,
    waiting: Waiting | None,
    reasons: Mapping[str, Waiting],
    params: Mapping[str, Json],
    left: Sequence[LeftProcess] = (),
    contact_us: int | None = None,
) -> dict[str, Json]:
    """Return a run and its tasks; *waiting* is why the run waits, *reasons* why its tasks do, by their ids."""
    return {**_run_head(run, waiting, params, left, contact_us), "tasks": task_views(tasks, reasons)}


def _trigger_view(run: RunRecord) -> dict[str, Json] | None:
    """Return what began a run; None of one of before, or of one that another node began and did not say."""
    if run.trigger is None:
        return None
    return {
        "kind": str(run.trigger.kind),
        "id": run.trigger.id,
        "at": rfc3339(run.created_at_us),
        "by": run.trigger.by,
    }


def _run_head(
    run: RunRecord,
    waiting: Waiting | None,
    params: Mapping[str, Json],
    left: Sequence[LeftProcess],
    contact_us: int | None = None,
) -> dict[str, Json]:
    return {
        "run_id": run.run_id,
        "dag_id": run.dag_id,
        "status": str(run.status),
        "version": run.version,
        "scope": run.scope.to_dict(),
        "scope_source": str(run.scope_source),
        "worker_id": run.worker_id,
        "owner_node": run.owner_node,
        "node_id": run.node_id,
        "target_node": run.target_node,
        "priority": str(run.priority),
        "delivery": str(run.delivery),
        "created_at": rfc3339(run.created_at_us),
        "started_at": rfc3339(run.started_at_us),
        "finished_at": rfc3339(run.finished_at_us),
        "cancel_requested": run.cancel_requested,
        "error": run.error,
        "params": dict(params),
        "trigger": _trigger_view(run),
        "rerun_of": run.rerun_of,
        "parent_run_id": run.parent_run_id,
        "parent_task_id": run.parent_task_id,
        "waiting": waiting.to_dict() if waiting else None,
        "last_contact": rfc3339(contact_us),
        "left": [{"task": one.task_id, "pid": one.pid} for one in left],
    }


def task_views(tasks: Sequence[TaskRecord], reasons: Mapping[str, Waiting]) -> list[Json]:
    """Return tasks as their run shows them; *reasons* is why some wait: those that are over by now are passed over."""
    return [_task_view(task, None if task.status.final else reasons.get(task.task_id)) for task in tasks]


def dag_view(definition: DefinitionRecord) -> dict[str, Json]:
    """Return a DAG's definition, without its document."""
    return {
        "dag_id": definition.dag_id,
        "scope": definition.scope.to_dict(),
        "target_node": definition.target_node,
        "priority": str(definition.priority),
        "description": definition.description,
        "task_count": definition.task_count,
        "sha256": definition.sha256,
        "created_at": rfc3339(definition.created_at_us),
        "saved_at": rfc3339(definition.saved_at_us),
    }


def worker_view(worker: WorkerRecord) -> dict[str, Json]:
    """Return a worker."""
    return {
        "worker_id": worker.worker_id,
        "scope": worker.scope.to_dict(),
        "status": str(worker.status),
        "pid": worker.pid,
        "node_id": worker.node_id,
        "started_at": rfc3339(worker.started_at_us),
        "heartbeat_at": rfc3339(worker.heartbeat_at_us),
        "runs_done": worker.runs_done,
        "current_run": worker.current_run,
        "epoch": worker.epoch,
        "slots": worker.slots,
    }


def peer_view(peer: PeerRecord, *, outbox: int, now_us: int) -> dict[str, Json]:
    """Return a trusted node. ``reachable`` is null while it was neither heard nor tried."""
    heard_s = None if peer.contact_at_us is None else max(0, now_us - peer.contact_at_us) / 1e6
    reachable = None if heard_s is None and peer.fault is None else peer.fault is None and (heard_s or 0) < CONTACT_S
    clock_s = None if peer.clock_ahead_us is None else round(peer.clock_ahead_us / 1e6, 3)
    warning = peer.fault
    if clock_s is not None and abs(clock_s) > CLOCK_WARNING_S:
        warning = f"its clock is off by {clock_s:+.0f} s" + (f"; {peer.fault}" if peer.fault else "")
    return {
        "node_id": peer.node_id,
        "url": peer.url,
        "public_key": peer.public_key,
        "matrix_user": peer.matrix_user,
        "may": list(peer.may),
        "scopes": None if peer.scopes is None else list(peer.scopes),
        "self": False,
        "reachable": reachable,
        "last_contact": rfc3339(peer.contact_at_us),
        "outbox": outbox,
        "clock_difference_s": clock_s,
        "warning": warning,
    }


def own_node_view(node_id: str, *, url: str | None, public_key: str, matrix_user: str | None) -> dict[str, Json]:
    """Return this node as lists of nodes show it; without an address it does not run."""
    return {
        "node_id": node_id,
        "url": url,
        "public_key": public_key,
        "matrix_user": matrix_user,
        "may": [],
        "scopes": None,
        "self": True,
        "reachable": url is not None,
        "last_contact": None,
        "outbox": 0,
        "clock_difference_s": None,
        "warning": None,
    }


def skill_view(skill: SkillInfo) -> dict[str, Json]:
    """Return a skill."""
    return {
        "name": skill.name,
        "description": skill.description,
        "source": skill.source,
        "triggers": list(skill.triggers),
        "error": skill.error,
    }


def event_view(event: EventRecord) -> dict[str, Json]:
    """Return a change of state; ``seq`` says its place among all of this node's."""
    return {
        "seq": event.seq,
        "kind": event.kind,
        "at": rfc3339(event.at_us),
        "status": event.status,
        "run_id": event.run_id,
        "dag_id": event.dag_id,
        "task_id": event.task_id,
        "worker_id": event.worker_id,
        "data": dict(event.data),
    }


def read_run(
    store: Store,
    run_id: str,
    *,
    scopes: Patterns | None = None,
    still: StillRuns = _whatever,
    node_runs: bool = True,
) -> dict[str, Json]:
    """Return the view of a stored run, with what waits in it and why, and what it left running, if it *still* does.

    Without *node_runs* no node of this home does, so what has no worker gets none by itself.
    The run is read before its tasks, so the tasks of a run that is shown as over are over, too.

    Raises:
        NotFoundError: no such run, or none that may be seen.
    """
    return _read_view(store, look_up_run(store.runs, run_id, scopes=scopes), still, node_runs=node_runs)


def read_run_head(
    store: Store, run_id: str, *, scopes: Patterns | None = None, still: StillRuns = _whatever
) -> tuple[dict[str, Json], Mapping[str, Waiting]]:
    """Return the view of a stored run without its tasks, and why these wait, by their ids: outputs are not read.

    Raises:
        NotFoundError: no such run, or none that may be seen.
    """
    run = look_up_run(store.runs, run_id, scopes=scopes)
    params = store.runs.params(run_id)
    if run.status.final:
        return _run_head(run, None, params, _left(store.attempts, run, still)), {}
    tasks = store.tasks.of_run(run_id, outputs=False)
    waiting, reasons = _waiting(store, run, tasks, still)
    return _run_head(run, waiting, params, _left(store.attempts, run, still), _contact_us(store, run)), reasons


def read_status(
    store: Store,
    dag_id: str,
    *,
    run_id: str | None = None,
    scopes: Patterns | None = None,
    still: StillRuns = _whatever,
    node_runs: bool = True,
) -> dict[str, Json]:
    """Return ``{"dag": …, "runs": [...]}``: a DAG and its latest runs, newest first, or the one run that is named.

    A run may be named in place of its DAG, too (``cis.engine.lookup.run_of``).

    Raises:
        NotFoundError: no such DAG, or no such run of it.
        UsageError: several runs begin so.
    """
    definition, run = dag_or_run(store, dag_id, scopes=scopes)
    if run_id is not None:
        run = run_of(store, dag_id, run_id=run_id, scopes=scopes)
    if run is not None:
        runs: Sequence[RunRecord] = (run,)
    else:
        runs = store.runs.page(RunFilter(dag_id=dag_id, scopes=scopes), limit=LATEST_RUNS).items
    return {"dag": dag_view(definition), "runs": [_read_view(store, run, still, node_runs=node_runs) for run in runs]}


def _read_view(store: Store, run: RunRecord, still: StillRuns, *, node_runs: bool) -> dict[str, Json]:
    tasks, left = store.tasks.of_run(run.run_id), _left(store.attempts, run, still)
    params = store.runs.params(run.run_id)
    if run.status.final:
        return run_view(run, tasks, waiting=None, reasons={}, params=params, left=left)
    waiting, reasons = _waiting(store, run, tasks, still, node_runs=node_runs)
    contact_us = _contact_us(store, run)
    return run_view(run, tasks, waiting=waiting, reasons=reasons, params=params, left=left, contact_us=contact_us)


def _left(attempts: Attempts, run: RunRecord, still: StillRuns) -> list[LeftProcess]:
    return [one for one in attempts.left(run.run_id) if still(one.pid, one.pid_started)]


def _contact_us(store: Store, run: RunRecord) -> int | None:
    """Return when the other node that executes a run was last heard; None for a run of this node."""
    peer = None if run.delivery is Delivery.LOCAL else store.peers.get(run.owner_node)
    return None if peer is None else peer.contact_at_us


def _waiting(
    store: Store, run: RunRecord, tasks: Sequence[TaskRecord], still: StillRuns, *, node_runs: bool = True
) -> tuple[Waiting | None, Mapping[str, Waiting]]:
    from cis.engine.observe.waiting import run_waiting, surroundings, tasks_waiting  # noqa: PLC0415 - most runs are over

    around = surroundings(store, run, tasks, still=still, node_runs=node_runs)
    reasons = tasks_waiting(run, tasks, around)
    return run_waiting(run, tasks, around, reasons=reasons), reasons


def _task_view(task: TaskRecord, waiting: Waiting | None) -> dict[str, Json]:
    return {
        "id": task.task_id,
        "status": str(task.status),
        "attempts": task.attempts,
        "exit_code": task.exit_code,
        "started_at": rfc3339(task.started_at_us),
        "finished_at": rfc3339(task.finished_at_us),
        "outputs": dict(task.outputs),
        "error": task.error,
        "waiting": waiting.to_dict() if waiting else None,
        "skipped_because": task.blocked_by,
        "skip_reason": None if task.skip_reason is None else str(task.skip_reason),
        "failure_allowed": task.outcome is Outcome.ALLOWED,
        "retry_at": rfc3339(task.due_at_us if task.status is TaskState.PENDING else None),
        "child_run_id": task.child_run_id,
        "instance_of": None if task.part_of is None else task.task_id.partition("[")[0],
        "given": None if task.part_of is None else _given(task),
    }


def _given(task: TaskRecord) -> dict[str, Json]:
    """Return what an instance was given: its ``item``, or its combination of the ``matrix``."""
    import json  # noqa: PLC0415 - most runs have none

    return {name: value for name, value in json.loads(task.given or "{}").items() if name != "place"}
