"""DAGs as tasks: each becomes a run of its own, which the task waits for without holding a slot.

The child run is recorded in the same transaction as the task's start, so there is exactly one for an attempt.
Its end is read from its row: whenever the parent's worker is woken, or once a second at the latest.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cis.engine.accept.admission import asker_of_child, check_recursion, lineage
from cis.engine.accept.reruns import taken_over
from cis.engine.accept.submit import ParentRun, SubmitRequest, anchored, submit
from cis.engine.leases import under_lease
from cis.engine.outputs import MAX_RUN_OUTPUT_BYTES
from cis.engine.ports import ChildDag
from cis.engine.run.ends import End
from cis.engine.run.parts import ChildWait, WorkerPorts
from cis.engine.run.plan import RunPlan
from cis.engine.run.values import Values
from cis.engine.times import Instant
from cis.errors import CisError, DocumentError, Fault, LaunchError, NotFoundError, PoisonRecordError, StoreError
from cis.model.dag import DagSpec, Json
from cis.model.states import AttemptState, Priority, RunState
from cis.store.port import Store, stored_spec
from cis.store.records import RunRecord

_MOST_STORED = 8 * MAX_RUN_OUTPUT_BYTES  # of JSON, which needs up to six letters for one
_TOO_MUCH = "it has more outputs than one run may keep; have it write files, and output their paths"
RUN_ID = "run_id"  # of its own run, among the outputs of a DAG as a task


def start_child(
    parts: WorkerPorts, plan: RunPlan, child: ChildDag, *, number: int, before: str | None = None
) -> RunRecord:
    """Record the run of a DAG as a task, and return it. It takes over what completed in the run *before*, if that failed.

    It has the task's ``env`` over the DAG's own, and its tasks run in the task's directory unless they say otherwise.

    Raises:
        OverloadedError: there is no place for it now.
        CisError: the DAG is refused, as ``submit`` refuses it, stands above itself, or no stored one has that id.
            Nothing is recorded.
    """
    run, task, values = plan.run, plan.task_spec(number), plan.values.of(number)
    parent = ParentRun(
        run_id=run.run_id, task_id=plan.tasks[number].task_id, depth=run.depth, tree=run.tree or run.run_id
    )
    directory, env = Path(parts.maker.directory(task, values)), parts.maker.env(task, values)
    with parts.store.savepoint():
        spec, line = _spec(parts, child, priority=run.priority), lineage(parts.store.runs, run)
        spec = replace(spec, env={**spec.env, **env}) if env else spec
        if child.document is None:
            check_recursion(line, spec.dag_id, this_node=parts.this_node)
        if spec.target_node in (None, parts.this_node.node_id):
            spec = anchored(spec, base=directory)
        elif under_lease(parts.store, run):
            # When the lease is over another node runs this task again, while nobody could stop the one far away.
            fault = "names another node, but the run that starts it was offered in the room and may move; give that one a target_node"
            raise DocumentError([Fault(place="target_node", message=fault)])
        asker = asker_of_child(parts.store, run, line[-1])
        # A document within another was accepted with it; one that is stored begins anew.
        errexit = run.errexit or child.document is None
        kept = taken_over(parts.store, before, spec, child.params) if before is not None else {}
        request = SubmitRequest(
            spec=spec,
            parent=parent,
            asker=asker,
            errexit=errexit,
            params=child.params,
            kept=kept,
            rerun_of=before if kept else None,
        )
        return submit(parts.store, request, this_node=parts.this_node).run


def ended_child(store: Store, wait: ChildWait, plan: RunPlan, *, now: Instant) -> End:
    """Return the end of a DAG as a task, whose run is over or gone; its exit status is 0 or 1."""
    attempt, limit_s = wait.attempt, plan.task_spec(wait.attempt.task_no).timeout_s
    child_run_id = plan.children[attempt.task_no]
    outputs: dict[str, Json] = {}
    timed_out = wait.timed_out
    try:
        run = store.runs.get(child_run_id)
        status, error = _verdict(run, child_run_id)
        if run is not None and limit_s is not None:  # also when a worker of before has cancelled it for that
            timed_out |= (run.finished_at_us or 0) >= attempt.started_at_us + round(limit_s * 1e6)
        if run is not None and status is AttemptState.COMPLETED:
            try:
                outputs = _handed_up(store, run)
            except LaunchError as refused:
                status, error = AttemptState.FAILED, f"its run {child_run_id}: {refused}"
    except PoisonRecordError as poison:
        status, error = AttemptState.FAILED, f"its run {child_run_id} cannot be read: {poison.why}"
    if timed_out and status is not AttemptState.COMPLETED:
        status, error = AttemptState.FAILED, f"timed out after {limit_s:g} s; {error}"
    done = attempt._replace(
        status=status,
        exit_code=0 if status is AttemptState.COMPLETED else 1,
        finished_at_us=plan.wait_ended_us(attempt, now),
        error=error,
    )
    return End(attempt=done, outputs=outputs, code=None if timed_out else done.exit_code)


def _handed_up(store: Store, run: RunRecord) -> dict[str, Json]:
    """Return the outputs of a DAG as a task: those that its document names, else all of its tasks', the last one counts.

    Raises:
        LaunchError: they are too large, or a reference among them names what is not there.
    """
    if store.tasks.outputs_size(run.run_id) > _MOST_STORED:
        raise LaunchError(_TOO_MUCH)
    spec = stored_spec(store.definitions, run.definition_id)
    if spec.outputs:
        params = store.runs.params(run.run_id) if spec.params else {}
        values = Values(run.run_id, spec, store.tasks.of_run(run.run_id), params)
        return {**{name: values.filled(value) for name, value in spec.outputs.items()}, RUN_ID: run.run_id}
    outputs: dict[str, Json] = {}
    for each in store.tasks.outputs(run.run_id):
        outputs.update(each)
    return {**outputs, RUN_ID: run.run_id}


def refusal(error: CisError) -> str:
    """Return the text of a child's refusal; a failing store is no refusal and is raised again.

    A stored DAG that cannot be read is a refusal: reading it again tomorrow gives the same.
    """
    if isinstance(error, StoreError) and not isinstance(error, PoisonRecordError):
        raise error
    if isinstance(error, DocumentError):
        return "; ".join(map(str, error.faults))  # one line, as any reason
    return str(error)


def _spec(parts: WorkerPorts, child: ChildDag, *, priority: Priority) -> DagSpec:
    """Return the DAG, which has its parent's *priority* unless it says another than the usual one."""
    spec = _own_spec(parts, child)
    says = spec.priority is not Priority.NORMAL or (child.document is not None and "priority" in child.document)
    return spec if says else replace(spec, priority=priority)


def _own_spec(parts: WorkerPorts, child: ChildDag) -> DagSpec:
    if child.document is not None:
        return parts.parse(child.document)
    dag_id = child.dag_id or ""
    definition = parts.store.definitions.current(dag_id)
    if definition is None:
        raise NotFoundError("stored DAG", dag_id, hint="'cis dag save FILE' stores one")
    return stored_spec(parts.store.definitions, definition.definition_id)


def _verdict(run: RunRecord | None, child_run_id: str) -> tuple[AttemptState, str | None]:
    if run is None:
        return AttemptState.FAILED, f"its run {child_run_id} is gone"
    if run.status is RunState.COMPLETED:
        return AttemptState.COMPLETED, None
    said = (
        f"its run {child_run_id} of DAG {run.dag_id!r} {'was ' if run.status is RunState.CANCELLED else ''}{run.status}"
    )
    status = AttemptState.CANCELLED if run.status is RunState.CANCELLED else AttemptState.FAILED
    return status, f"{said}: {run.error}" if run.error else said
