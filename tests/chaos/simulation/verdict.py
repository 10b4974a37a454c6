"""What must hold once a history has come to rest: nothing is left over, and every row tells the truth."""

from __future__ import annotations

import apsw

from cis.model.dag import DagSpec
from cis.model.handlers import applying
from cis.model.states import RunState
from tests.chaos.simulation.conditions import comes_to, outcome_of, upstream
from tests.chaos.simulation.processes import Process, Processes
from tests.chaos.simulation.rows import Attempt, Rows
from tests.chaos.simulation.watch import Promises, Watch, demand


def judge(watch: Watch, processes: Processes, promises: Promises, connection: apsw.Connection, *, quiet: bool) -> None:
    """Demand all that must hold at the end; in a *quiet* history, in which nothing went wrong, nothing was lost either."""
    rows = watch.rows
    demand(not rows.unfinished, f"runs {rows.unfinished} never ended")
    demand(not rows.queue, f"the queue still has {rows.queue}")
    demand(not rows.running, f"attempts {rows.running} never ended")
    demand(not processes.live, f"processes {[one.name for one in processes.live]} live on")
    _judge_promises(watch, promises, connection)
    for run_id in sorted(rows.runs.keys() - promises.spoilt):
        _judge_run(watch, run_id, connection)
    by_marks = {process.marks: process for process in processes.all}
    for (run_id, number, attempt), row in rows.attempts.items():
        if run_id in promises.spoilt:
            continue
        task = watch.specs.task(rows, run_id, number)
        task_id = rows.tasks[run_id, number].task_id
        process = by_marks.get((run_id, task_id, str(attempt)))
        _judge_attempt(f"attempt {run_id}.{task_id}.{attempt}", row, process, is_dag=task.skill is not None)
        part_of = rows.tasks[run_id, number].part_of
        beside = [] if part_of is None else [one.status for one in rows.instances(run_id, part_of)]
        cancelled = (
            (task.fail_fast and "failed" in beside)
            or bool(rows.runs[run_id].cancel)
            or (task.skill is not None and _has_cancelled_child(rows, run_id))
        )
        demand(row.status != "cancelled" or cancelled, f"{run_id}.{number} was cancelled unasked")
        told = process is not None and process.guarded and not cancelled
        demand(row.status != "lost" or not told, f"{run_id}.{number}.{attempt} was lost, and {process} had an end")
        demand(not (quiet and row.status == "lost"), f"attempt {run_id}.{number}.{attempt} was lost without a reason")


def _has_cancelled_child(rows: Rows, run_id: str) -> bool:
    """Whether a run that was a task of this run was cancelled: that task is, too."""
    return any(run.parent == run_id and run.cancel for run in rows.runs.values())


def _judge_promises(watch: Watch, promises: Promises, connection: apsw.Connection) -> None:
    rows = watch.rows
    stored = dict(connection.execute("SELECT idempotency_key, run_id FROM dag_runs WHERE idempotency_key IS NOT NULL"))
    for key, run_id in promises.accepted.items():
        demand(stored.get(key) == run_id, f"run {run_id} of {key} was accepted, but there is {stored.get(key)}")
    for run_id in sorted(promises.cancelled - promises.spoilt):
        done = rows.runs[run_id].status == "cancelled" or rows.settled(run_id) is not None
        demand(done, f"run {run_id} was cancelled, but {rows.runs[run_id].status}")


def _judge_run(watch: Watch, run_id: str, connection: apsw.Connection) -> None:
    rows, run, spec = watch.rows, watch.rows.runs[run_id], watch.specs.of(watch.rows, run_id)
    statuses = [rows.tasks[run_id, number].status for number in range(len(spec.tasks))]
    done = not {"failed", "cancelled"} & set(statuses)
    settled = rows.settled(run_id)
    if settled is not None:
        demand(run.status == settled, f"run {run_id} is {run.status}, and had ended as {settled}")
        demand(
            settled == "cancelled" or done == (settled == "completed"),
            f"run {run_id} had ended as {settled} with {statuses}",
        )
    elif run.cancel:
        demand(run.status == "cancelled", f"run {run_id} was cancelled, but is {run.status}")
    else:
        demand(run.status == ("completed" if done else "failed"), f"run {run_id} is {run.status} with {statuses}")
    events = connection.execute(
        "SELECT count(*) FROM events WHERE kind = 'run' AND run_id = ? AND status IN ('completed', 'failed', 'cancelled')",
        (run_id,),
    ).get
    demand(events == 1, f"run {run_id} ended {events} times")
    begun = run.status != "cancelled" or rows.began(run_id)
    demand(settled is not None or not (_wanted_handlers(spec, run.status) and begun), f"run {run_id} had no handlers")
    for number in sorted(rows.tasks_of(run_id)):
        if _is_whole(watch, run_id, number):
            _judge_whole(watch, run_id, number)
        else:
            _judge_task(watch, run_id, number)


def _wanted_handlers(spec: DagSpec, status: str) -> list[str]:
    """Return the handlers that a run which has ended so has to have."""
    return applying(RunState(status), spec.handlers)


def _is_whole(watch: Watch, run_id: str, number: int) -> bool:
    """Whether a task is made into many."""
    row = watch.rows.tasks[run_id, number]
    return row.part_of is None and watch.specs.task(watch.rows, run_id, number).is_many


def _judge_whole(watch: Watch, run_id: str, number: int) -> None:
    """A task that is made into many is what its instances are, all of which are there, or none."""
    rows, spec = watch.rows, watch.specs.task(watch.rows, run_id, number)
    task, name = rows.tasks[run_id, number], f"task {run_id}.{spec.id}"
    parts = [part.status for part in rows.instances(run_id, number)]
    items = spec.foreach if isinstance(spec.foreach, list) else []
    demand(not task.attempts, f"{name} has {task.attempts} attempts")
    demand(len(parts) in (0, len(items)), f"{name} has {len(parts)} instances of {len(items)}")
    if task.status == "completed":
        demand(set(parts) <= {"completed", "skipped"}, f"{name} is completed with {parts}")
        demand(len(parts) == len(items), f"{name} is completed with {parts}")
    if task.status == "failed":
        by_condition = not parts and comes_to(spec, task) is None
        demand(by_condition or "failed" in parts, f"{name} is failed with {parts}")
    if task.status == "skipped":
        demand(set(parts) <= {"skipped"}, f"{name} was skipped, and has {parts}")
        if not parts:
            _judge_skip(watch, run_id, number)


def _judge_task(watch: Watch, run_id: str, number: int) -> None:
    rows, spec = watch.rows, watch.specs.task(watch.rows, run_id, number)
    task, name = rows.tasks[run_id, number], f"task {run_id}.{rows.tasks[run_id, number].task_id}"
    attempts = [attempt.status for _, attempt in rows.of_task(run_id, number)]
    demand(task.attempts == len(attempts), f"{name} counts {task.attempts} attempts, and has {attempts}")
    kept = not attempts and task.status == "completed"
    accepted = attempts.count("completed")
    demand(kept or accepted == (task.status == "completed"), f"{name} is {task.status} with {accepted} successes")
    failed = attempts.count("failed")
    if task.status == "failed" and comes_to(spec, task) is None:
        demand(not attempts and task.failures == 1, f"{name} failed by its condition after {attempts}")
        return
    gave_up = task.status == "failed" and attempts[-1:] == ["lost"]
    counted = task.failures == failed + gave_up or (
        task.status == "cancelled" and task.failures in (failed, failed - 1)
    )
    demand(counted, f"{name} counts {task.failures} failures, and has {attempts}")
    demand(failed <= spec.max_retries + 1, f"{name} failed {failed} times, and may {spec.max_retries + 1}")
    if task.status == "failed":
        enough = failed == spec.max_retries + 1
        lost = gave_up and spec.on_lost == "fail"
        demand(enough or lost, f"{name} was given up after {attempts}, and may fail {spec.max_retries + 1} times")
    if "lost" in attempts and spec.on_lost == "fail":
        over = attempts.index("lost") == len(attempts) - 1 and task.status in ("failed", "cancelled")
        demand(over, f"{name} was lost, which should be its end: {task.status} after {attempts}")
    if task.status == "skipped":
        _judge_skip(watch, run_id, number)
    if task.status == "cancelled":
        beside = [] if task.part_of is None else [one.status for one in rows.instances(run_id, task.part_of)]
        asked = (
            (spec.fail_fast and "failed" in beside)
            or bool(rows.runs[run_id].cancel)
            or (spec.skill is not None and _has_cancelled_child(rows, run_id))
        )
        demand(asked, f"{name} was cancelled unasked")


def _judge_skip(watch: Watch, run_id: str, number: int) -> None:
    """A task that was skipped says why, and so it is."""
    rows, spec = watch.rows, watch.specs.task(watch.rows, run_id, number)
    task = rows.tasks[run_id, number]
    name = f"task {run_id}.{task.task_id}"
    rule = "run" if task.part_of is not None else outcome_of(spec, upstream(rows, watch.specs, run_id, number))
    if task.outcome == "condition":
        demand(comes_to(spec, task) is False, f"{name} was skipped by a condition that holds")
        demand(rule == "run", f"{name} was skipped by its condition, and its rule says {rule}")
    else:
        demand(task.outcome == rule, f"{name} was skipped for {task.outcome}, and its rule says {rule}")


def _judge_attempt(name: str, row: Attempt, process: Process | None, *, is_dag: bool) -> None:
    """What a row says of an attempt is what became of its process."""
    if is_dag:
        return
    if row.status == "completed":
        done = process is not None and process.exit_code == 0 and not process.timed_out
        demand(done, f"{name} is completed, but its process is {process}")
    if row.status == "failed" and process is not None:
        spoilt = process.exit_code == 0 and not process.says.startswith("token=")
        late = (row.error or "").startswith("timed out") and (process.timed_out or not process.lasting)
        itself = process.ended_by == "itself" and process.exit_code != 0
        demand(spoilt or late or itself, f"{name} counts as a failure ({row.error}), but it was {process.ended_by}")
